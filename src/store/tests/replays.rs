use std::time::Duration;

use super::*;
use crate::types::{Repeatable, Repeated, Replay};

const MINUTE: Duration = Duration::from_secs(60);

fn one() -> Repeatable {
    Repeatable {
        project: "proj_a".into(),
        key: "k".into(),
        fingerprint: [7; 32],
        request: RequestId::mint(),
    }
}

/// The same request, sent again.
fn again(one: &Repeatable) -> Repeatable {
    Repeatable {
        request: RequestId::mint(),
        ..one.clone()
    }
}

on_both! {
    async fn a_key_is_one_requests_and_its_answer_is_given_again(desk: Desk) {
        let store = &desk.store;
        let first = one();
        assert_eq!(store.take_key(&first, MINUTE).await.unwrap(), Repeated::New);
        assert_eq!(store.take_key(&again(&first), MINUTE).await.unwrap(), Repeated::Runs);
        let others = Repeatable { project: "proj_b".into(), ..again(&first) };
        assert_eq!(store.take_key(&others, MINUTE).await.unwrap(), Repeated::New);
        let another = Repeatable { fingerprint: [8; 32], ..again(&first) };
        assert_eq!(store.take_key(&another, MINUTE).await.unwrap(), Repeated::Another);
        let answer = Replay { kind: "application/json".into(), body: b"{}".to_vec() };
        store.keep_answer(&first, &answer).await.unwrap();
        let told = store.take_key(&again(&first), MINUTE).await.unwrap();
        assert_eq!(told, Repeated::Answered(answer));
        // Neither freed nor lost any more.
        store.free_key(&first).await.unwrap();
        store.lose_keys().await.unwrap();
        assert!(matches!(store.take_key(&again(&first), MINUTE).await.unwrap(), Repeated::Answered(_)));
        store.forget_answers(Timestamp::now() + MINUTE).await.unwrap();
        assert_eq!(store.take_key(&again(&first), MINUTE).await.unwrap(), Repeated::New);
    }

    async fn what_came_to_nothing_frees_its_key(desk: Desk) {
        let store = &desk.store;
        let first = one();
        store.take_key(&first, MINUTE).await.unwrap();
        store.free_key(&again(&first)).await.unwrap();
        assert_eq!(store.take_key(&again(&first), MINUTE).await.unwrap(), Repeated::Runs, "it is not its own");
        store.free_key(&first).await.unwrap();
        assert_eq!(store.take_key(&again(&first), MINUTE).await.unwrap(), Repeated::New);
    }

    async fn what_was_charged_and_lost_is_paid_however_often_it_is_asked_again(desk: Desk) {
        let store = &desk.store;
        let first = one();
        store.take_key(&first, MINUTE).await.unwrap();
        store.lose_key(&first).await.unwrap();
        let second = again(&first);
        let lost = |paid| Repeated::Lost { paid, first: first.request };
        assert_eq!(store.take_key(&second, MINUTE).await.unwrap(), lost(false));
        let mut charged = (*flown()).clone();
        charged.request = second.request;
        desk.commit(book(charge(&Arc::new(charged), usage(1, 1), Money(101), State::Settled))).await;
        store.lose_keys().await.unwrap();
        let third = again(&first);
        assert_eq!(store.take_key(&third, MINUTE).await.unwrap(), lost(true));
        // A try that is refused takes nothing from that.
        store.free_key(&third).await.unwrap();
        assert_eq!(store.take_key(&again(&first), MINUTE).await.unwrap(), lost(true));
    }
}
