use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::tenancy::{Access, Limiter, Need, Refused};
use crate::types::{
    Counted, LimitSet, Limits, Membership, Release, Reserved, Scope, SliceId, SliceWish, Spender,
};

fn wish(limit: i128, held: i128, need: i128) -> SliceWish {
    SliceWish {
        slice: SliceId {
            bucket: "project/proj_a//tokens_per_day".into(),
            window_ms: 86_400_000,
        },
        spender: Spender {
            scope: Scope::Project,
            id: "proj_a".into(),
            model: None,
        },
        counted: Counted::Tokens,
        limit,
        held,
        need,
        spare: 0,
    }
}

/// A replica as far as limits go: what it serves is booked at once.
struct Counter {
    limiter: Limiter,
    membership: Arc<Membership>,
    store: Arc<dyn Store>,
}

impl Counter {
    async fn open(desk: &Desk, name: &str) -> Self {
        let membership = Arc::new(Membership::new(name.into()));
        desk.store.join(&membership.now()).await.unwrap();
        let ledger = Arc::clone(&desk.store) as Arc<dyn crate::types::Ledger>;
        Self {
            limiter: Limiter::new(ledger, Some(Arc::clone(&membership))),
            membership,
            store: Arc::clone(&desk.store),
        }
    }

    /// Serves a request that uses less than it may. Gives the tokens; none where it was refused.
    async fn serve(&self, access: &Access, most: u64, used: u32) -> Option<u64> {
        let need = Need {
            prompt_tokens: 10,
            completion_tokens: most,
            named: true,
            answers: 1,
            batch: false,
        };
        let flown = flown_by("proj_a", "key_a", "m");
        let reserved = self
            .limiter
            .reserve(access, &flown.model, &flown.price, need)
            .await;
        let mut reserved = match reserved {
            Ok(reserved) => reserved,
            Err(Refused::Over(_)) => return None,
            Err(Refused::Store(error)) => panic!("{error}"),
        };
        tokio::task::yield_now().await;
        let completion = used.min(u32::try_from(reserved.completion_tokens).unwrap());
        let (usage, amount) = (usage(10, completion), Money(0));
        let charge = charge(&flown, usage, amount, State::Settled);
        let releases = reserved.releases(&usage, amount).into_iter();
        let batch = LedgerBatch {
            releases: releases.map(|release| (charge.event_id, release)).collect(),
            ..book(charge)
        };
        self.store
            .commit(&self.membership.now(), &batch)
            .await
            .unwrap();
        reserved.settle(usage, amount);
        Some(usage.total_tokens())
    }
}

fn access(limits: Limits) -> Access {
    Access {
        caller: flown().caller.clone(),
        project_name: String::new(),
        models: None,
        limits: vec![LimitSet {
            scope: Scope::Project,
            id: "proj_a".into(),
            model: None,
            limits,
        }],
    }
}

/// Many clients on two replicas, each until it is refused three times with a pause in between. Gives how many
/// requests were served, and their tokens.
async fn rush(desk: &Desk, limits: Limits, clients: u32) -> (u64, u64) {
    let counters = [
        Arc::new(Counter::open(desk, "one").await),
        Arc::new(Counter::open(desk, "two").await),
    ];
    let access = Arc::new(access(limits));
    let (requests, tokens) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let counter = Arc::clone(&counters[client as usize % 2]);
            let (access, requests, tokens) = (
                Arc::clone(&access),
                Arc::clone(&requests),
                Arc::clone(&tokens),
            );
            tokio::spawn(async move {
                let mut refusals = 0;
                while refusals < 3 {
                    let used = 20 + (client * 7) % 80;
                    match counter.serve(&access, 100, used).await {
                        Some(count) => {
                            requests.fetch_add(1, Ordering::Relaxed);
                            tokens.fetch_add(count, Ordering::Relaxed);
                        }
                        None => {
                            refusals += 1;
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    (
        requests.load(Ordering::Relaxed),
        tokens.load(Ordering::Relaxed),
    )
}

on_both! {
    async fn a_slice_is_what_is_left_beside_what_is_booked_and_what_others_hold(desk: Desk) {
        let now = Timestamp::now();
        let flown = flown_by("proj_a", "key_a", "m");
        desk.commit(book(charge(&flown, usage(100, 0), Money(0), State::Settled))).await;
        let today = now.as_millisecond() - now.as_millisecond() % 86_400_000;
        let of_today = |limit, held, need| {
            let mut wish = wish(limit, held, need);
            wish.slice.window_ms = today;
            wish
        };
        let other = replica("b");
        desk.store.join(&other).await.unwrap();
        let first = desk.store.slice(&desk.replica.id, &of_today(1000, 0, 600)).await.unwrap();
        assert_eq!((first.granted, first.elsewhere), (600, 100));
        let second = desk.store.slice(&other.id, &of_today(1000, 0, 600)).await.unwrap();
        assert_eq!((second.granted, second.elsewhere), (300, 700));

        // What is booked is no longer held.
        let release = Release { slice: of_today(0, 0, 0).slice, replica: desk.replica.id.clone(), amount: 200 };
        let booked = charge(&flown_by("proj_a", "key_a", "m"), usage(200, 0), Money(0), State::Settled);
        let batch = LedgerBatch { releases: vec![(booked.event_id, release.clone())], ..book(booked) };
        desk.commit(batch.clone()).await;
        // Nobody heard that it stands, so it is tried again; and what was forgiven is not booked to be paid.
        desk.commit(batch).await;
        let forgiven = charge(&flown_by("proj_a", "key_a", "m"), usage(200, 0), Money(0), State::Absorbed);
        desk.commit(LedgerBatch { releases: vec![(forgiven.event_id, release)], ..book(forgiven) }).await;
        let second = desk.store.slice(&other.id, &of_today(1000, 300, 600)).await.unwrap();
        assert_eq!((second.granted, second.elsewhere), (300, 700));
        // The first dies. What it held is free once others take it for dead.
        desk.store.leave(&desk.replica.id).await.unwrap();
        desk.store.recover(&other, Duration::from_secs(60)).await.unwrap();
        let second = desk.store.slice(&other.id, &of_today(1000, 300, 600)).await.unwrap();
        assert_eq!((second.granted, second.elsewhere), (700, 300));
        // A limit that was lowered takes nothing away from what runs.
        let kept = desk.store.slice(&other.id, &of_today(10, 500, 1)).await.unwrap();
        assert_eq!(kept.granted, 500);
    }

    async fn what_a_dead_replica_used_of_a_minute_counts_on(desk: Desk) {
        let minute = |held, need| SliceWish {
            slice: SliceId { bucket: "key/key_a//requests_per_minute".into(), window_ms: 0 },
            counted: Counted::Nothing,
            ..wish(10, held, need)
        };
        desk.store.slice(&desk.replica.id, &minute(0, 7)).await.unwrap();
        desk.store.leave(&desk.replica.id).await.unwrap();
        let other = replica("b");
        desk.store.join(&other).await.unwrap();
        desk.store.recover(&other, Duration::from_secs(60)).await.unwrap();
        let slice = desk.store.slice(&other.id, &minute(0, 7)).await.unwrap();
        assert_eq!((slice.granted, slice.elsewhere), (3, 7));
    }

    /// The budget is kept to the token, and nearly all of it can be used, whichever replica is asked.
    async fn two_replicas_spend_a_budget_together_and_no_more(desk: Desk) {
        let limits = Limits { tokens_per_day: Some(100_000), ..Limits::default() };
        let (_, tokens) = rush(&desk, limits, 64).await;
        assert!(tokens <= 100_000, "{tokens}");
        assert!(tokens >= 95_000, "{tokens}");
        let spender = Spender { scope: Scope::Project, id: "proj_a".into(), model: None };
        let booked = desk.store.spent(&spender, Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(booked.tokens, tokens);
    }

    async fn two_replicas_keep_to_a_rate_together(desk: Desk) {
        let limits = Limits { requests_per_minute: Some(200), ..Limits::default() };
        let (requests, _) = rush(&desk, limits, 64).await;
        assert!((190..=200).contains(&requests), "{requests}");
    }
}
