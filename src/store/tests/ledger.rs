use std::time::Duration;

use super::*;
use crate::types::{Dimension, Durability, Scope, Spender, UsageQuery, UsageRow};

async fn bill(desk: &Desk) -> Vec<UsageRow> {
    let query = UsageQuery {
        group_by: vec![Dimension::Project, Dimension::Model],
        ..UsageQuery::default()
    };
    desk.store.usage(&query).await.unwrap()
}

on_both! {
    async fn a_settlement_takes_the_place_of_its_checkpoint(desk: Desk) {
        let flown = flown();
        desk.commit(checkpoint(&flown, usage(7, 1))).await;
        desk.commit(checkpoint(&flown, usage(7, 5))).await;
        assert_eq!(desk.number("SELECT count(*) FROM in_flight").await, 1);
        desk.commit(book(charge(&flown, usage(7, 9), Money(907), State::Settled))).await;
        assert_eq!(desk.number("SELECT count(*) FROM in_flight").await, 0);
        let rows = bill(&desk).await;
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        let sums = (row.requests, row.prompt_tokens, row.completion_tokens, row.amount);
        assert_eq!(sums, (1, 7, 9, Money(907)));
    }

    async fn a_batch_that_is_tried_twice_stands_once(desk: Desk) {
        let batch = book(charge(&flown(), usage(1, 2), Money(201), State::Settled));
        assert!(desk.commit(batch.clone()).await.is_empty());
        assert!(desk.commit(batch).await.is_empty(), "the row that stands is this one");
        assert_eq!(bill(&desk).await[0].requests, 1);
        assert_eq!(desk.number("SELECT requests FROM spent").await, 1);
    }

    async fn a_charge_in_whose_place_another_stands_is_told_of(desk: Desk) {
        let flown = flown();
        let first = charge(&flown, usage(1, 2), Money(201), State::Settled);
        desk.commit(book(first)).await;
        let second = charge(&flown, usage(1, 9), Money(901), State::Settled);
        let third = charge(&super::flown(), usage(1, 1), Money(101), State::Settled);
        let batch = LedgerBatch {
            charges: vec![second.clone(), third],
            ..LedgerBatch::default()
        };
        assert_eq!(desk.commit(batch).await, [second.event_id]);
        assert_eq!(bill(&desk).await[0].amount, Money(302));
    }

    async fn what_is_left_in_flight_is_booked_once_at_its_own_price(desk: Desk) {
        let (running, settled) = (flown(), flown());
        desk.commit(checkpoint(&running, usage(7, 3))).await;
        desk.commit(book(charge(&settled, usage(1, 0), Money(1), State::Settled))).await;
        let other = replica("b");
        let recovered = desk.store.recover(&other, std::time::Duration::ZERO).await.unwrap();
        assert_eq!(recovered.len(), 1);
        assert_eq!((recovered[0].usage, recovered[0].amount), (usage(7, 3), Money(307)));
        let again = desk.store.recover(&other, std::time::Duration::ZERO).await.unwrap();
        assert!(again.is_empty());
        let rows = bill(&desk).await;
        assert_eq!((rows[0].requests, rows[0].amount), (2, Money(7 + 300 + 1)));
        let is_recovered = "SELECT count(*) FROM charge WHERE state = 'recovered' AND source = 'recovered'
            AND outcome = 'lost' AND end_user = 'ada' AND replica = 'b'";
        assert_eq!(desk.number(is_recovered).await, 1);
        assert_eq!(desk.number("SELECT CAST(sum(low) AS BIGINT) FROM spent").await, 308);
    }

    async fn a_void_attempt_leaves_nothing(desk: Desk) {
        let flown = flown();
        desk.commit(checkpoint(&flown, usage(7, 3))).await;
        let ended = vec![(flown.request, flown.attempt)];
        desk.commit(LedgerBatch { ended, ..LedgerBatch::default() }).await;
        assert_eq!(desk.number("SELECT count(*) FROM in_flight").await, 0);
        assert!(bill(&desk).await.is_empty());
    }

    async fn an_absorbed_row_is_on_no_bill(desk: Desk) {
        desk.commit(book(charge(&flown(), usage(5, 5), Money(0), State::Absorbed))).await;
        assert!(bill(&desk).await.is_empty());
        assert_eq!(desk.number("SELECT count(*) FROM spent").await, 0);
    }

    async fn a_charge_can_be_neither_changed_nor_deleted(desk: Desk) {
        desk.commit(book(charge(&flown(), usage(1, 1), Money(101), State::Settled))).await;
        for statement in ["UPDATE charge SET amount_pico = 0", "DELETE FROM charge"] {
            let error = desk.refusal(statement).await;
            assert!(error.contains("append-only"), "{error}");
        }
    }

    async fn sums_are_exact_beyond_64_bits(desk: Desk) {
        let most = Money(i64::MAX.into());
        for _ in 0..3 {
            desk.commit(book(charge(&flown(), usage(1, 1), most, State::Settled))).await;
        }
        assert_eq!(bill(&desk).await[0].amount, Money(3 * most.0));
        let spender = Spender { scope: Scope::Project, id: "proj_a".into(), model: None };
        let spent = desk.store.spent(&spender, Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!((spent.requests, spent.tokens, spent.amount), (3, 6, Money(3 * most.0)));
    }

    async fn thousands_of_rows_go_in_at_once(desk: Desk) {
        let charges = (0..2500)
            .map(|_| charge(&flown(), usage(1, 1), Money(101), State::Settled))
            .collect();
        desk.commit(LedgerBatch { charges, ..LedgerBatch::default() }).await;
        assert_eq!(bill(&desk).await[0].requests, 2500);
        assert_eq!(desk.number("SELECT requests FROM spent").await, 2500);
    }

    async fn usage_is_broken_down_and_filtered(desk: Desk) {
        let made = [("proj_a", "key_1", "m"), ("proj_a", "key_2", "m"), ("proj_b", "key_3", "n")];
        for (project, key, model) in made {
            let flown = flown_by(project, key, model);
            desk.commit(book(charge(&flown, usage(10, 1), Money(110), State::Settled))).await;
        }
        let by = |group_by: &[Dimension]| UsageQuery { group_by: group_by.to_vec(), ..UsageQuery::default() };
        let rows = desk.store.usage(&by(&[Dimension::Key])).await.unwrap();
        let keys: Vec<_> = rows.iter().map(|row| row.key.as_deref().unwrap()).collect();
        assert_eq!(keys, ["key_1", "key_2", "key_3"]);
        assert!(rows.iter().all(|row| row.model.is_none() && row.project.is_none()));

        let query = UsageQuery {
            projects: vec!["proj_a".into()],
            models: vec!["m".into(), "n".into()],
            endpoints: vec![Endpoint::Chat],
            batch: Some(false),
            users: vec!["ada".into()],
            bucket_ms: Some(60_000),
            ..by(&[Dimension::Batch, Dimension::User, Dimension::Endpoint, Dimension::State])
        };
        let rows = desk.store.usage(&query).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.requests).sum::<i64>(), 2);
        assert_eq!(rows[0].batch, Some(false));
        assert_eq!(rows[0].bucket_ms.unwrap() % 60_000, 0);
        let none = UsageQuery { to: Some(Timestamp::UNIX_EPOCH), ..by(&[]) };
        assert!(desk.store.usage(&none).await.unwrap().is_empty());
    }

    async fn what_was_spent_is_known_by_organisation_project_key_and_model(desk: Desk) {
        use crate::types::{Act, Actor, Limits, Project};
        let project = Project {
            id: "proj_a".into(),
            organisation: "org_default".into(),
            name: "a".into(),
            created: Timestamp::now(),
            archived: None,
        };
        let act = Act::CreateProject { project, limits: Limits::default() };
        desk.store.act(&Actor::Server, &"org_default".into(), &act).await.unwrap();
        for (project, key, model) in [("proj_a", "key_1", "m"), ("proj_a", "key_2", "n"), ("proj_x", "key_3", "m")] {
            let flown = flown_by(project, key, model);
            desk.commit(book(charge(&flown, usage(10, 1), Money(110), State::Settled))).await;
        }
        for (scope, id, model, requests) in [
            (Scope::Organisation, "org_default", None, 2),
            (Scope::Project, "proj_a", None, 2),
            (Scope::Project, "proj_a", Some("m"), 1),
            (Scope::Key, "key_2", None, 1),
            (Scope::Key, "key_2", Some("m"), 0),
        ] {
            let spender = Spender { scope, id: id.into(), model: model.map(Into::into) };
            let spent = desk.store.spent(&spender, Timestamp::UNIX_EPOCH).await.unwrap();
            assert_eq!(spent.requests, requests, "{spender:?}");
        }
        let spender = Spender { scope: Scope::Key, id: "key_1".into(), model: None };
        let tomorrow = Timestamp::now() + jiff::SignedDuration::from_hours(24);
        assert_eq!(desk.store.spent(&spender, tomorrow).await.unwrap().requests, 0);
    }
}

#[tokio::test]
async fn a_charge_that_was_kept_is_booked_by_the_next_life_before_anything_is_recovered() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/t.db", folder.path().display());
    let flown = flown();
    let kept = charge(&flown, usage(3, 9), Money(77), State::Settled);
    {
        let store = super::super::open_with(&url, Durability::Process)
            .await
            .unwrap();
        let replica = replica("a");
        store.join(&replica).await.unwrap();
        let begun = Checkpoint {
            flown: Arc::clone(&flown),
            usage: usage(3, 2),
            first_token: None,
        };
        let batch = LedgerBatch {
            checkpoints: vec![begun],
            ..LedgerBatch::default()
        };
        store.commit(&replica, &batch).await.unwrap();
        // Twice, as where the database took it and the process died before it could say so.
        assert!(store.keep(&kept) && store.keep(&kept));
    }
    // The next one waits for the disk, and finds it all the same.
    let store = super::super::open(&url).await.unwrap();
    assert!(!store.keep(&kept), "this one has no journal");
    let replica = replica("b");
    store.join(&replica).await.unwrap();
    assert_eq!(store.recover(&replica, Duration::ZERO).await.unwrap(), []);
    assert_eq!(store.charged(None).await.unwrap(), Money(77));
    assert!(
        std::fs::read_dir(folder.path().join("t.db.charges"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[tokio::test]
async fn what_can_not_be_read_of_a_journal_is_put_aside_and_the_rest_is_booked() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/t.db", folder.path().display());
    let journals = folder.path().join("t.db.charges");
    let list = || -> Vec<_> {
        let entries = std::fs::read_dir(&journals).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    {
        let store = super::super::open_with(&url, Durability::Process)
            .await
            .unwrap();
        let whole = charge(&flown(), usage(3, 9), Money(77), State::Settled);
        let too_many = Usage {
            cached_tokens: 4,
            ..usage(3, 9)
        };
        let refused = charge(&flown(), too_many, Money(1), State::Settled);
        assert!(store.keep(&whole) && store.keep(&refused));
    }
    let path = list().remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend([9; 5]);
    std::fs::write(&path, bytes).unwrap();
    let store = super::super::open(&url).await.unwrap();
    let replica = replica("b");
    store.join(&replica).await.unwrap();
    for _ in 0..2 {
        assert_eq!(store.recover(&replica, Duration::ZERO).await.unwrap(), []);
        assert_eq!(store.charged(None).await.unwrap(), Money(77));
        assert_eq!(list(), [path.with_extension("unread")]);
    }
}
