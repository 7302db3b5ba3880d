use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use uuid::Uuid;

use super::*;
use crate::types::{
    ChargeRow, LedgerBatch, Limits, Page, Recovered, Replica, ReplicaId, Slice, SliceWish, Spent,
    UsageQuery, UsageRow,
};

/// Knows what was spent, and how often it was asked.
#[derive(Default)]
struct Book {
    tokens: u64,
    pico: i128,
    asked: AtomicU64,
}

#[async_trait]
impl Ledger for Book {
    async fn join(&self, _: &Replica) -> Result<(), StoreError> {
        Ok(())
    }
    async fn leave(&self, _: &ReplicaId) -> Result<(), StoreError> {
        Ok(())
    }
    async fn commit(&self, _: &Replica, _: &LedgerBatch) -> Result<Vec<Uuid>, StoreError> {
        Ok(Vec::new())
    }
    async fn recover(&self, _: &Replica, _: Duration) -> Result<Vec<Recovered>, StoreError> {
        Ok(Vec::new())
    }
    async fn usage(&self, _: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        Ok(Vec::new())
    }
    async fn charges(&self, _: &UsageQuery, _: &Page) -> Result<Vec<ChargeRow>, StoreError> {
        Ok(Vec::new())
    }
    async fn charged(&self, _: Option<&str>) -> Result<Money, StoreError> {
        Ok(Money(0))
    }
    async fn spent(&self, _: &Spender, _: Timestamp) -> Result<Spent, StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(Spent {
            requests: 1,
            tokens: self.tokens,
            batch_tokens: 0,
            amount: Money(self.pico),
        })
    }
    async fn slice(&self, _: &ReplicaId, _: &SliceWish) -> Result<Slice, StoreError> {
        Err(StoreError::Unavailable("it is alone".into()))
    }
    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

const PRICE: Price = Price {
    version: String::new(),
    prompt_pico: 1,
    cached_pico: 1,
    completion_pico: 10,
    request_pico: 0,
};

fn access(limits: Vec<LimitSet>) -> Access {
    Access {
        caller: Caller {
            organisation: "org".into(),
            project: "proj".into(),
            key: "key".into(),
        },
        project_name: String::new(),
        models: None,
        limits,
    }
}

fn set(scope: Scope, limits: Limits) -> LimitSet {
    let id = match scope {
        Scope::Organisation => "org",
        Scope::Project => "proj",
        Scope::Key => "key",
    };
    LimitSet {
        scope,
        id: id.into(),
        model: None,
        limits,
    }
}

fn need(prompt_tokens: u64, completion_tokens: u64) -> Need {
    Need {
        prompt_tokens,
        completion_tokens,
        named: true,
        answers: 1,
        batch: false,
    }
}

fn usage(prompt_tokens: u32, completion_tokens: u32) -> Usage {
    Usage {
        prompt_tokens,
        cached_tokens: 0,
        completion_tokens,
        reasoning_tokens: 0,
    }
}

struct Gate {
    limiter: Limiter,
    access: Access,
}

impl Gate {
    fn new(limits: Vec<LimitSet>) -> Self {
        Self::after(Book::default(), limits)
    }

    fn after(book: Book, limits: Vec<LimitSet>) -> Self {
        Self {
            limiter: Limiter::new(Arc::new(book), None),
            access: access(limits),
        }
    }

    async fn reserve(&self, need: Need) -> Result<Reservation, Over> {
        let model = Arc::from("m");
        match self
            .limiter
            .reserve(&self.access, &model, &PRICE, need)
            .await
        {
            Ok(reserved) => Ok(reserved),
            Err(Refused::Over(over)) => Err(over),
            Err(Refused::Store(error)) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn sixty_four_that_race_for_ten_get_ten() {
    let limits = Limits {
        requests_per_minute: Some(10),
        ..Limits::default()
    };
    let gate = Arc::new(Gate::new(vec![set(Scope::Key, limits)]));
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move {
                let reserved = gate.reserve(need(1, 1)).await;
                reserved
                    .map(|mut reserved| reserved.settle(usage(1, 1), Money(11)))
                    .is_ok()
            })
        })
        .collect();
    let mut passed = 0;
    for task in tasks {
        passed += usize::from(task.await.unwrap());
    }
    assert_eq!(passed, 10);
    let over = gate.reserve(need(1, 1)).await.err().unwrap();
    let wait = over.retry_after.unwrap();
    assert!(
        wait > Duration::from_secs(55) && wait <= Duration::from_millis(60_100),
        "{wait:?}"
    );
}

#[tokio::test]
async fn what_a_request_did_not_use_is_given_back() {
    let limits = Limits {
        tokens_per_minute: Some(100),
        tokens_per_day: Some(1000),
        concurrent: Some(1),
        ..Limits::default()
    };
    let gate = Gate::new(vec![set(Scope::Project, limits)]);
    let mut first = gate.reserve(need(10, 90)).await.unwrap();
    assert_eq!(first.standing.tokens.unwrap().remaining, 0);
    assert_eq!(
        gate.reserve(need(1, 0)).await.err().unwrap().meter,
        Meter::TokensPerMinute
    );
    first.settle(usage(10, 5), Money(0));
    drop(first);
    let second = gate.reserve(need(5, 80)).await.unwrap();
    assert_eq!(second.standing.tokens.unwrap().remaining, 0);
    drop(second);
    assert_eq!(
        gate.reserve(need(5, 80))
            .await
            .unwrap()
            .standing
            .tokens
            .unwrap()
            .remaining,
        0
    );
}

#[tokio::test]
async fn all_of_the_limits_or_none_of_them_is_taken() {
    let wide = Limits {
        requests_per_minute: Some(10),
        tokens_per_day: Some(1000),
        ..Limits::default()
    };
    let narrow = Limits {
        requests_per_minute: Some(1),
        ..Limits::default()
    };
    let gate = Gate::new(vec![
        set(Scope::Organisation, wide),
        set(Scope::Key, narrow),
    ]);
    gate.reserve(need(1, 1))
        .await
        .unwrap()
        .settle(usage(1, 1), Money(0));
    for _ in 0..20 {
        let over = gate.reserve(need(1, 1)).await.err().unwrap();
        assert_eq!((over.scope, over.limit, over.taken), (Scope::Key, 1, 1));
    }
    let mut gate = gate;
    gate.access.limits.pop();
    let left = gate
        .reserve(need(1, 1))
        .await
        .unwrap()
        .standing
        .requests
        .unwrap();
    assert_eq!(left.remaining, 8, "those that were refused cost nothing");
}

#[tokio::test]
async fn an_answer_is_cut_to_what_a_budget_covers() {
    let limits = Limits {
        budget_per_month: Some(Money(1000)),
        warn_per_month: Some(Money(900)),
        ..Limits::default()
    };
    let book = Book {
        pico: 700,
        ..Book::default()
    };
    let gate = Gate::after(book, vec![set(Scope::Project, limits)]);
    let mut cut = gate.reserve(need(50, 100)).await.unwrap();
    assert_eq!(
        cut.completion_tokens, 25,
        "1000 - 700 - 50 leaves 250 for tokens of 10"
    );
    assert_eq!(cut.standing.cut_by, Some(Meter::BudgetPerMonth));
    assert_eq!(cut.standing.warning, Some(Meter::BudgetPerMonth));
    let over = gate.reserve(need(1, 1)).await.err().unwrap();
    assert_eq!(
        (over.meter, over.retry_after),
        (Meter::BudgetPerMonth, Some(Duration::from_secs(1)))
    );
    cut.settle(usage(50, 25), Money(300));
    let over = gate.reserve(need(1, 1)).await.err().unwrap();
    assert!(over.retry_after.unwrap() > Duration::from_secs(1));
    assert!(
        over.to_string()
            .contains("used 0.000000001, requested 0.000000000011"),
        "{over}"
    );
}

#[tokio::test]
async fn spending_is_looked_up_once_and_counts_on() {
    let limits = Limits {
        tokens_per_day: Some(100),
        ..Limits::default()
    };
    let book = Arc::new(Book {
        tokens: 60,
        ..Book::default()
    });
    let gate = Gate {
        limiter: Limiter::new(Arc::clone(&book) as Arc<dyn Ledger>, None),
        access: access(vec![set(Scope::Project, limits)]),
    };
    for left in [30, 20, 10, 0] {
        let mut reserved = gate.reserve(need(5, 5)).await.unwrap();
        assert_eq!(reserved.standing.tokens.unwrap().remaining, left);
        reserved.settle(usage(5, 5), Money(0));
    }
    assert!(gate.reserve(need(1, 0)).await.is_err());
    assert_eq!(book.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_limit_that_came_to_stand_later_counts_what_ran_before() {
    let mut gate = Gate::new(Vec::new());
    let mut early = gate.reserve(need(40, 40)).await.unwrap();
    let limits = Limits {
        tokens_per_day: Some(100),
        ..Limits::default()
    };
    gate.access.limits = vec![set(Scope::Project, limits)];
    drop(gate.reserve(need(1, 1)).await.unwrap());
    early.settle(usage(40, 40), Money(0));
    assert_eq!(
        gate.reserve(need(1, 10))
            .await
            .unwrap()
            .standing
            .tokens
            .unwrap()
            .remaining,
        9
    );
}

#[tokio::test]
async fn a_request_that_alone_is_too_large_is_told_so_unless_it_named_no_length() {
    let limits = Limits {
        tokens_per_minute: Some(100),
        ..Limits::default()
    };
    let gate = Gate::new(vec![set(Scope::Key, limits)]);
    let over = gate.reserve(need(50, 51)).await.err().unwrap();
    assert_eq!(over.retry_after, None);
    let unnamed = Need {
        named: false,
        ..need(50, 4000)
    };
    let mut reserved = gate.reserve(unnamed).await.unwrap();
    assert_eq!(
        (
            reserved.completion_tokens,
            reserved.standing.tokens.unwrap().remaining
        ),
        (4000, 0)
    );
    reserved.settle(usage(50, 70), Money(0));
    drop(reserved);
    let over = gate.reserve(need(1, 1)).await.err().unwrap();
    assert_eq!(over.taken, 120, "more than was reserved is charged as well");
}

#[tokio::test]
async fn a_limit_of_one_model_or_of_the_batch_class_leaves_the_others_alone() {
    let one = Limits {
        requests_per_minute: Some(0),
        ..Limits::default()
    };
    let of_other = LimitSet {
        model: Some("other".into()),
        ..set(Scope::Project, one.clone())
    };
    let batch = Limits {
        batch_tokens_per_day: Some(10),
        ..Limits::default()
    };
    let gate = Gate::new(vec![of_other, set(Scope::Key, batch)]);
    drop(gate.reserve(need(100, 100)).await.unwrap());
    let bulk = Need {
        batch: true,
        ..need(11, 1)
    };
    assert_eq!(
        gate.reserve(bulk).await.err().unwrap().meter,
        Meter::BatchTokensPerDay
    );
    let of_this = LimitSet {
        model: Some("m".into()),
        ..set(Scope::Project, one)
    };
    let over = Gate::new(vec![of_this])
        .reserve(need(1, 1))
        .await
        .err()
        .unwrap();
    assert_eq!(over.model.as_deref(), Some("m"));
    assert_eq!(
        over.retry_after, None,
        "a limit of zero lets nothing through"
    );
}

#[test]
fn times_are_written_as_openai_writes_them() {
    for (ms, text) in [
        (0, "0ms"),
        (120, "120ms"),
        (1000, "1s"),
        (1500, "1.5s"),
        (360_000, "6m0s"),
        (7_384_250, "2h3m4.25s"),
    ] {
        assert_eq!(seconds(Duration::from_millis(ms)), text);
    }
}
