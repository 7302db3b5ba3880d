use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const BOUNDS: Bounds = Bounds {
    total: 100_000,
    tenant: 50_000,
    promote: Duration::from_secs(3600),
};

fn claim(tenant: &str, class: Class, weight: f64, cost: i64) -> Claim {
    Claim {
        tenant: tenant.into(),
        class,
        weight,
        cost,
    }
}

fn plain(tenant: &str) -> Claim {
    claim(tenant, Class::Standard, 1.0, 10)
}

fn order(queue: &mut FairQueue<&'static str>, now: Instant) -> Vec<&'static str> {
    std::iter::from_fn(|| queue.next(now, |_| Fit::Now).map(|(item, _)| item)).collect()
}

#[test]
fn the_higher_class_goes_first_and_one_tenant_s_requests_in_their_order() {
    let (mut queue, now) = (FairQueue::new(BOUNDS), Instant::now());
    for (class, item) in [
        (Class::Batch, "b1"),
        (Class::Standard, "s1"),
        (Class::Batch, "b2"),
        (Class::Interactive, "i1"),
        (Class::Standard, "s2"),
    ] {
        queue.push(&claim("a", class, 1.0, 1), item, now).unwrap();
    }
    assert_eq!(order(&mut queue, now), ["i1", "s1", "s2", "b1", "b2"]);
    assert_eq!(queue.len(), 0);
}

#[test]
fn the_tenant_that_was_served_less_goes_first() {
    let (mut queue, now) = (FairQueue::new(BOUNDS), Instant::now());
    for item in ["a1", "a2", "a3"] {
        queue.push(&plain("a"), item, now).unwrap();
    }
    let (first, a) = queue.next(now, |_| Fit::Now).unwrap();
    assert_eq!(first, "a1");
    a.add(100);
    queue.push(&plain("b"), "b1", now).unwrap();
    // It is lifted to where the other stands, and has nothing running.
    assert_eq!(order(&mut queue, now), ["b1", "a2", "a3"]);
}

#[test]
fn idling_saves_up_no_right() {
    let (mut queue, now) = (FairQueue::new(BOUNDS), Instant::now());
    queue.push(&plain("a"), "a1", now).unwrap();
    queue.push(&plain("a"), "a2", now).unwrap();
    let (_, a) = queue.next(now, |_| Fit::Now).unwrap();
    a.add(1_000_000);
    for item in ["b1", "b2", "b3"] {
        queue.push(&plain("b"), item, now).unwrap();
    }
    // One request apart, and not a million tokens.
    assert_eq!(order(&mut queue, now), ["b1", "a2", "b2", "b3"]);
}

#[test]
fn a_full_queue_costs_the_tenant_that_fills_it() {
    let bounds = Bounds {
        total: 4,
        tenant: 4,
        ..BOUNDS
    };
    // Where nobody has a bound of their own, it is the queue that is full.
    let (mut queue, now) = (FairQueue::new(bounds), Instant::now());
    for item in ["a1", "a2", "a3", "a4"] {
        queue.push(&plain("a"), item, now).unwrap();
    }
    assert_eq!(queue.push(&plain("a"), "a5", now).unwrap_err(), Full::Total);
    let (_, evicted) = queue.push(&plain("b"), "b1", now).unwrap();
    assert_eq!(evicted, Some("a4"));
    let (_, evicted) = queue.push(&plain("b"), "b2", now).unwrap();
    assert_eq!(evicted, Some("a3"));
    // Now both have the same, and nobody makes way for the other.
    assert_eq!(queue.push(&plain("b"), "b3", now).unwrap_err(), Full::Total);
    assert_eq!(queue.len(), 4);
}

#[test]
fn a_tenant_may_have_a_bound_of_its_own() {
    let bounds = Bounds {
        tenant: 1,
        ..BOUNDS
    };
    let (mut queue, now) = (FairQueue::new(bounds), Instant::now());
    queue.push(&plain("a"), "a1", now).unwrap();
    assert_eq!(
        queue.push(&plain("a"), "a2", now).unwrap_err(),
        Full::Tenant
    );
    queue.push(&plain("b"), "b1", now).unwrap();
}

#[test]
fn what_gives_up_is_gone() {
    let (mut queue, now) = (FairQueue::new(BOUNDS), Instant::now());
    let (ticket, _) = queue.push(&plain("a"), "a1", now).unwrap();
    queue.push(&plain("a"), "a2", now).unwrap();
    assert_eq!(queue.remove(&ticket), Some("a1"));
    assert_eq!(queue.remove(&ticket), None);
    assert_eq!(order(&mut queue, now), ["a2"]);
}

#[test]
fn who_waits_for_long_goes_up_a_class() {
    let bounds = Bounds {
        promote: Duration::from_secs(30),
        ..BOUNDS
    };
    let (mut queue, start) = (FairQueue::new(bounds), Instant::now());
    let batch = claim("a", Class::Batch, 1.0, 1);
    queue.push(&batch, "old", start).unwrap();
    let at = |seconds| start + Duration::from_secs(seconds);
    queue
        .push(&claim("b", Class::Interactive, 1.0, 1), "i", at(29))
        .unwrap();
    assert_eq!(queue.next(at(29), |_| Fit::Now).unwrap().0, "i");
    queue
        .push(&claim("b", Class::Standard, 1.0, 1_000), "s1", at(31))
        .unwrap();
    queue
        .push(&claim("b", Class::Standard, 1.0, 1_000), "s2", at(31))
        .unwrap();
    // Of the class above now, where it takes its turn.
    let two: Vec<_> = (0..2)
        .map(|_| queue.next(at(31), |_| Fit::Now).unwrap().0)
        .collect();
    assert!(two.contains(&"old"), "{two:?}");
    assert_eq!(
        queue.next(at(31), |_| Fit::Now).map(|_| queue.len()),
        Some(0)
    );
    // And up again, over whatever comes.
    queue.push(&batch, "older", at(40)).unwrap();
    assert!(queue.next(at(71), |_| Fit::Wait).is_none());
    queue
        .push(&claim("b", Class::Standard, 1.0, 1), "s3", at(101))
        .unwrap();
    assert_eq!(queue.next(at(102), |_| Fit::Now).unwrap().0, "older");
}

#[test]
fn who_needs_more_than_is_free_is_waited_for_and_who_needs_another_place_is_passed_over() {
    let (mut queue, now) = (FairQueue::new(BOUNDS), Instant::now());
    queue.push(&plain("a"), "large", now).unwrap();
    queue.push(&plain("b"), "small", now).unwrap();
    let large = |fit| move |item: &&str| if *item == "large" { fit } else { Fit::Now };
    assert!(queue.next(now, large(Fit::Wait)).is_none());
    assert_eq!(queue.next(now, large(Fit::Pass)).unwrap().0, "small");
    assert_eq!(queue.len(), 1);
}

/// A pool of some slots, in simulated time: each step gives each running request a token.
struct Simulation {
    queue: FairQueue<Request>,
    running: Vec<(Request, Share)>,
    slots: usize,
    /// Cost of what each tenant was served, over its weight.
    served: Vec<f64>,
    weights: Vec<f64>,
    waiting: Vec<usize>,
    now: Instant,
}

#[derive(Clone, Copy)]
struct Request {
    tenant: usize,
    prompt: i64,
    left: i64,
}

impl Simulation {
    fn new(slots: usize, weights: Vec<f64>) -> Self {
        Self {
            queue: FairQueue::new(BOUNDS),
            running: Vec::new(),
            slots,
            served: vec![0.0; weights.len()],
            waiting: vec![0; weights.len()],
            weights,
            now: Instant::now(),
        }
    }

    fn arrive(&mut self, tenant: usize, prompt: i64, completion: i64) {
        let claim = claim(
            &format!("t{tenant}"),
            Class::Standard,
            self.weights[tenant],
            prompt,
        );
        let request = Request {
            tenant,
            prompt,
            left: completion,
        };
        self.queue.push(&claim, request, self.now).unwrap();
        self.waiting[tenant] += 1;
    }

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn serve(&mut self, tenant: usize, cost: i64) {
        self.served[tenant] += cost as f64 / self.weights[tenant];
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(10);
        for place in 0..self.running.len() {
            let (request, share) = &mut self.running[place];
            share.add(COMPLETION);
            request.left -= 1;
            let tenant = request.tenant;
            self.serve(tenant, COMPLETION);
        }
        self.running.retain(|(request, _)| request.left > 0);
        while self.running.len() < self.slots {
            let Some((request, share)) = self.queue.next(self.now, |_| Fit::Now) else {
                break;
            };
            self.waiting[request.tenant] -= 1;
            self.serve(request.tenant, PROMPT * request.prompt);
            self.running.push((request, share));
        }
    }
}

const LONGEST_PROMPT: i64 = 400;
const LONGEST_ANSWER: i64 = 60;

/// The most that two tenants were apart in what they were served while both waited, of ten with random loads.
fn apart(seed: u64, slots: usize) -> f64 {
    let mut random = StdRng::seed_from_u64(seed);
    let weights: Vec<_> = (0..10)
        .map(|_| f64::from(random.random_range(1..=4_u32)))
        .collect();
    let loads: Vec<f64> = (0..10).map(|_| random.random_range(0.0..0.15)).collect();
    let least = weights.iter().copied().fold(f64::INFINITY, f64::min);
    let mut simulation = Simulation::new(slots, weights);
    // What the two had been served when the later of them began to wait.
    let mut since: HashMap<(usize, usize), f64> = HashMap::new();
    let mut most: f64 = 0.0;
    for _ in 0..400 {
        for (tenant, load) in loads.iter().enumerate() {
            if random.random_bool(*load) {
                let prompt = random.random_range(1..=LONGEST_PROMPT);
                simulation.arrive(tenant, prompt, random.random_range(1..=LONGEST_ANSWER));
            }
        }
        simulation.step();
        for one in 0..10 {
            for other in 0..one {
                let ahead = simulation.served[one] - simulation.served[other];
                if simulation.waiting[one] == 0 || simulation.waiting[other] == 0 {
                    since.remove(&(one, other));
                    continue;
                }
                let began = *since.entry((one, other)).or_insert(ahead);
                most = most.max((ahead - began).abs() * least);
            }
        }
    }
    most
}

#[test]
fn ten_tenants_with_random_loads_stay_within_the_bound() {
    let slots = 8;
    let bound = bound(LONGEST_PROMPT, 8 * (LONGEST_PROMPT + LONGEST_ANSWER));
    let worst = (0..1000).map(|seed| apart(seed, slots)).fold(0.0, f64::max);
    println!("bound {bound}, worst of 1,000 seeds {worst:.0}");
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let within = worst <= bound as f64;
    assert!(within, "{worst} over {bound}");
    assert!(worst > 0.0);
}

#[test]
fn weights_of_one_and_three_give_one_and_three() {
    let mut simulation = Simulation::new(8, vec![1.0, 3.0]);
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..20_000 {
        for tenant in 0..2 {
            while simulation.waiting[tenant] < 16 {
                let prompt = random.random_range(1..=LONGEST_PROMPT);
                simulation.arrive(tenant, prompt, random.random_range(1..=LONGEST_ANSWER));
            }
        }
        simulation.step();
    }
    // Over their weights both were served the same.
    let ratio = simulation.served[1] / simulation.served[0];
    assert!((0.95..1.05).contains(&ratio), "{ratio}");
}

#[test]
fn first_come_first_served_would_not_pass_these_tests() {
    // The heavy tenant has 64 requests waiting when the light one comes: the light one is next all the same.
    let mut simulation = Simulation::new(8, vec![1.0, 1.0]);
    for _ in 0..64 {
        simulation.arrive(0, 100, 50);
    }
    for _ in 0..20 {
        simulation.step();
    }
    simulation.arrive(1, 100, 50);
    let mut steps = 0;
    while simulation.waiting[1] > 0 {
        simulation.step();
        steps += 1;
    }
    assert!(steps <= 51, "{steps} steps, more than one slot's turn");
    assert!(simulation.waiting[0] > 40);
}
