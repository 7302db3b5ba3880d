use std::time::Duration;

use super::*;

on_both! {
    async fn a_replica_that_was_silent_is_taken_for_dead_and_told_so(desk: Desk) {
        let flown = flown();
        desk.commit(checkpoint(&flown, usage(7, 3))).await;
        let other = replica("b");
        desk.store.join(&other).await.unwrap();
        let alive = desk.store.recover(&other, Duration::from_secs(60)).await.unwrap();
        assert!(alive.is_empty(), "it was heard of just now");

        tokio::time::sleep(Duration::from_millis(20)).await;
        let left = desk.store.recover(&other, Duration::from_millis(10)).await.unwrap();
        assert_eq!(left.len(), 1);
        let late = book(charge(&flown, usage(7, 9), Money(907), State::Settled));
        let told = desk.store.commit(&desk.replica, &late).await;
        assert!(matches!(told, Err(StoreError::Fenced)));
        assert_eq!(desk.number("SELECT count(*) FROM charge").await, 1);
        assert_eq!(desk.number("SELECT count(*) FROM in_flight").await, 0);

        // It comes back under another id, and learns that this one is booked.
        let anew = replica("a");
        desk.store.join(&anew).await.unwrap();
        let others = desk.store.commit(&anew, &late).await.unwrap();
        assert_eq!(others, [late.charges[0].event_id]);
    }

    async fn a_commit_says_that_a_replica_lives(desk: Desk) {
        let other = replica("b");
        desk.store.join(&other).await.unwrap();
        let lease = Duration::from_millis(300);
        for _ in 0..4 {
            tokio::time::sleep(lease / 3).await;
            desk.commit(LedgerBatch::default()).await;
            desk.store.recover(&other, lease).await.unwrap();
        }
        desk.commit(LedgerBatch::default()).await;
    }

    async fn a_replica_that_left_has_nothing_recovered_but_what_it_had_in_flight(desk: Desk) {
        let (ended, running) = (flown(), flown());
        desk.commit(checkpoint(&running, usage(1, 1))).await;
        desk.commit(book(charge(&ended, usage(1, 1), Money(101), State::Settled))).await;
        desk.store.leave(&desk.replica.id).await.unwrap();
        let left = desk.store.recover(&replica("b"), Duration::from_secs(60)).await.unwrap();
        assert_eq!(left.len(), 1);
    }
}
