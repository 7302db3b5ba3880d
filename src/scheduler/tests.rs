use async_trait::async_trait;
use futures_util::stream;
use tokio::time::sleep;

use super::*;
use crate::types::{Class, Price};
use crate::worker::Health;

/// Has places, and answers without end.
struct Idle {
    places: usize,
    health: Health,
}

#[async_trait]
impl Worker for Idle {
    fn name(&self) -> &str {
        "idle"
    }
    fn capacity(&self) -> usize {
        self.places
    }
    fn health(&self) -> Health {
        self.health.clone()
    }
    fn preempts(&self) -> bool {
        true
    }
    async fn generate(&self, _: Job, _: Arc<Progress>) -> Result<Events, Failure> {
        Ok(Box::pin(stream::pending()))
    }
}

fn scheduler(workers: &[(usize, Health)], max_queue: usize) -> Scheduler {
    let workers = workers
        .iter()
        .map(|(places, health)| {
            let worker: Arc<dyn Worker> = Arc::new(Idle {
                places: *places,
                health: health.clone(),
            });
            Assigned {
                pools: vec!["pool".into()],
                worker,
            }
        })
        .collect();
    Scheduler::new(
        &["pool".into()],
        workers,
        limits(max_queue),
        &Metrics::new().unwrap(),
    )
}

fn limits(max_queue: usize) -> Limits {
    Limits {
        max_queue,
        max_queue_per_tenant: max_queue + 1,
        queue_timeout: Duration::from_millis(200),
        promote_after: Duration::from_secs(60),
        slow_start: Duration::from_secs(1),
    }
}

fn plan() -> Plan {
    Plan {
        model: "m".into(),
        revision: "m".into(),
        pool: "pool".into(),
        sent: "pool".into(),
        adapter: None,
        profile: None,
        resume: false,
        fallbacks: Arc::default(),
        price: Arc::new(Price::default()),
    }
}

fn need() -> Need {
    Need {
        tenant: "proj_a".into(),
        class: Class::Standard,
        weight: 1.0,
        answers: 1,
        prompt_tokens: 10,
        tokens: 20,
        prefix: Vec::new(),
        avoid: Vec::new(),
    }
}

fn job() -> Job {
    Job {
        request: Arc::default(),
        model: "m".into(),
        asked: "m".into(),
        id: "a".into(),
        resumable: false,
        resume: None,
        tenant: "proj_a".into(),
        class: Class::Standard,
        adapter: None,
        preface: None,
    }
}

#[tokio::test]
async fn a_slot_is_held_to_the_last_byte_and_freed_by_drop() {
    let scheduler = scheduler(&[(1, Health::Ready)], 8);
    let slot = scheduler.submit(&plan(), need()).await.unwrap();
    let events = slot.generate(job(), Arc::default()).await.unwrap();
    let later = tokio::spawn(async move {
        scheduler
            .submit(&plan(), need())
            .await
            .map(|slot| slot.queued())
    });
    sleep(Duration::from_millis(50)).await;
    assert!(!later.is_finished());
    drop(events);
    assert!(later.await.unwrap().unwrap() >= Duration::from_millis(40));
}

#[tokio::test]
async fn over_the_bound_a_request_is_refused_at_once() {
    let scheduler = scheduler(&[(1, Health::Ready)], 1);
    let _held = scheduler.submit(&plan(), need()).await.unwrap();
    let plan = plan();
    let (first, second) = tokio::join!(
        scheduler.submit(&plan, need()),
        scheduler.submit(&plan, need())
    );
    assert!(matches!(first, Err(Error::QueueTimeout)));
    assert!(matches!(second, Err(Error::QueueFull)));
}

#[tokio::test]
async fn one_that_gives_up_leaves_the_queue() {
    let scheduler = scheduler(&[(1, Health::Ready)], 1);
    let held = scheduler.submit(&plan(), need()).await.unwrap();
    let plan = plan();
    let gave_up =
        tokio::time::timeout(Duration::from_millis(20), scheduler.submit(&plan, need())).await;
    assert!(gave_up.is_err());
    let waits = scheduler.submit(&plan, need());
    drop(held);
    assert!(waits.await.is_ok());
}

#[tokio::test]
async fn the_freest_ready_worker_is_chosen() {
    let scheduler = scheduler(
        &[(2, Health::Ready), (9, Health::Loading), (3, Health::Ready)],
        0,
    );
    let mut slots = Vec::new();
    for _ in 0..5 {
        slots.push(scheduler.submit(&plan(), need()).await.unwrap());
    }
    let capacities: Vec<_> = slots
        .iter()
        .map(|slot| slot.hold.member.worker.capacity())
        .collect();
    assert_eq!(capacities.iter().filter(|places| **places == 3).count(), 3);
    assert_eq!(capacities.iter().filter(|places| **places == 2).count(), 2);
}

#[tokio::test]
async fn a_model_that_loads_is_not_waited_for() {
    let scheduler = scheduler(&[(1, Health::Loading)], 8);
    assert!(matches!(
        scheduler.submit(&plan(), need()).await,
        Err(Error::NotReady(_))
    ));
    assert_eq!(scheduler.not_ready(), ["idle: loading"]);
}

#[tokio::test]
async fn the_batch_class_lends_its_places_as_long_as_it_holds_them() {
    let scheduler = scheduler(&[(2, Health::Ready)], 0);
    let plan = plan();
    let take = |class| scheduler.submit(&plan, Need { class, ..need() });
    let batch = take(Class::Batch).await.unwrap();
    let second = take(Class::Standard).await.unwrap();
    // All places are taken, and one of them by the batch class.
    assert!(take(Class::Batch).await.is_err());
    let borrowed = take(Class::Interactive).await.unwrap();
    assert!(take(Class::Interactive).await.is_err());
    drop(borrowed);
    let borrowed = take(Class::Standard).await.unwrap();
    drop(batch);
    // Whoever borrowed a place keeps it, and there is nothing to be lent.
    assert!(take(Class::Standard).await.is_err());
    drop(borrowed);
    let third = take(Class::Standard).await.unwrap();
    assert!(take(Class::Standard).await.is_err());
    drop((second, third));
}

#[tokio::test]
async fn each_answer_takes_a_place() {
    let scheduler = scheduler(&[(3, Health::Ready)], 0);
    let plan = plan();
    let take = |answers| scheduler.submit(&plan, Need { answers, ..need() });
    let two = take(2).await.unwrap();
    assert!(take(2).await.is_err());
    drop(two);
    // More than there are take all that there are.
    let all = take(100).await.unwrap();
    assert!(take(1).await.is_err());
    drop(all);
    take(1).await.unwrap();
}
