use std::time::Duration;

use super::*;
use crate::types::{Act, Actor, LimitSet, Limits, Scope, Sent};

const HOLD: Duration = Duration::from_secs(60);

fn limits(model: &str, limits: Limits) -> Act {
    Act::SetLimits(LimitSet {
        scope: Scope::Organisation,
        id: "org_default".into(),
        model: Some(model.into()),
        limits,
    })
}

on_both! {
    async fn a_notice_is_sent_until_it_is_taken(desk: Desk) {
        let store = &desk.store;
        assert!(!store.is_posted("budget").await.unwrap());
        assert!(store.post("budget", "evt_1", "{}").await.unwrap());
        assert!(!store.post("budget", "evt_2", "{}").await.unwrap(), "once for a subject");
        assert!(store.is_posted("budget").await.unwrap());

        let first = store.take_notice(HOLD).await.unwrap().unwrap();
        assert_eq!((first.id.as_str(), first.body.as_str(), first.tries), ("evt_1", "{}", 1));
        assert_eq!(store.take_notice(HOLD).await.unwrap(), None, "it is being sent");
        store.sent("evt_1", Sent::Again(Duration::ZERO)).await.unwrap();
        assert_eq!(store.take_notice(Duration::ZERO).await.unwrap().unwrap().tries, 2);
        // Whoever sent it died: its hold is over.
        assert_eq!(store.take_notice(HOLD).await.unwrap().unwrap().tries, 3);
        store.sent("evt_1", Sent::Taken).await.unwrap();
        assert_eq!(store.take_notice(HOLD).await.unwrap(), None);
        assert!(store.is_posted("budget").await.unwrap(), "it is not told again");
    }

    async fn a_notice_is_given_to_one_of_many_who_ask(desk: Desk) {
        let store = &desk.store;
        store.post("budget", "evt_1", "{}").await.unwrap();
        let asking = (0..8).map(|_| {
            let store = Arc::clone(store);
            tokio::spawn(async move { store.take_notice(HOLD).await.unwrap() })
        });
        let mut given = 0;
        for asked in asking.collect::<Vec<_>>() {
            given += u32::from(asked.await.unwrap().is_some());
        }
        assert_eq!(given, 1);
    }

    async fn limits_that_warn_are_found_among_the_others(desk: Desk) {
        let organisation = desk.store.find_organisation("default").await.unwrap().id;
        let warn = Limits { warn_per_month: Some("2".parse().unwrap()), ..Limits::default() };
        let hard = Limits { budget_per_month: Some("2".parse().unwrap()), ..Limits::default() };
        for act in [limits("m", warn.clone()), limits("n", hard)] {
            desk.store.act(&Actor::CommandLine, &organisation, &act).await.unwrap();
        }
        let [found] = desk.store.warned_limits().await.unwrap().try_into().unwrap();
        assert_eq!((found.model.as_deref(), found.limits), (Some("m"), warn));
    }

    async fn what_was_charged_is_summed_over_replicas_and_by_them(desk: Desk) {
        let one = Money(i128::from(u32::MAX) + 7);
        let batch = |count| LedgerBatch {
            charges: (0..count).map(|_| charge(&flown(), usage(7, 2), one, State::Settled)).collect(),
            ..LedgerBatch::default()
        };
        desk.commit(batch(2)).await;
        let other = replica("b");
        desk.store.join(&other).await.unwrap();
        desk.store.commit(&other, &batch(3)).await.unwrap();
        for (by, count) in [(None, 5), (Some("a"), 2), (Some("b"), 3), (Some("c"), 0)] {
            assert_eq!(desk.store.charged(by).await.unwrap().0, count * one.0, "{by:?}");
        }
    }
}
