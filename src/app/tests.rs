//! Requests that come, run, break, are dropped and asked again, in any order, while the process dies and comes back:
//! whatever happens, the books balance.

mod audit;
mod script;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use crate::types::Durability;
use script::Order;
use world::World;

/// Something that happens.
#[derive(Debug, Clone)]
enum Act {
    /// A client asks.
    Ask {
        tenant: usize,
        max_tokens: u32,
        batch: bool,
        streams: bool,
    },
    /// One that failed asks again.
    AskAgain(usize),
    /// The worker goes on with a request.
    Order(usize, Order),
    /// A client goes.
    Drop(usize),
    /// Nothing, for so many milliseconds.
    Pause(u64),
    /// Nothing, until each running request has a checkpoint that knows what it has done by now.
    Checkpoint,
    /// Nothing, until all that has ended is booked.
    Quiet,
    /// An invoice is made of what has ended since the last one.
    Invoice,
    /// The process dies, and another one comes.
    Crash,
    /// It ends in order, and another one comes.
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    let which = || 0..usize::MAX;
    let order = prop_oneof![
        8 => (0..12_u32).prop_map(Order::Tokens),
        4 => Just(Order::End),
        1 => Just(Order::Break),
        1 => Just(Order::Refuse),
    ];
    let ask = (0..world::TENANTS, 1..40_u32, any::<bool>(), any::<bool>());
    prop_oneof![
        12 => ask.prop_map(|(tenant, max_tokens, batch, streams)| Act::Ask { tenant, max_tokens, batch, streams }),
        2 => which().prop_map(Act::AskAgain),
        28 => (which(), order).prop_map(|(which, order)| Act::Order(which, order)),
        4 => which().prop_map(Act::Drop),
        8 => (0..20_u64).prop_map(Act::Pause),
        2 => Just(Act::Checkpoint),
        2 => Just(Act::Quiet),
        1 => Just(Act::Invoice),
        2 => Just(Act::Crash),
        1 => Just(Act::Restart),
    ]
}

/// `FOREBAY_CASES` asks for more of them.
fn cases(few: u32) -> u32 {
    std::env::var("FOREBAY_CASES").map_or(few, |text| text.parse().unwrap())
}

fn balances(cases: u32, new: impl Fn() -> World) {
    let cases = Cases {
        cases,
        failure_persistence: None,
        max_shrink_iters: 8,
        ..Cases::default()
    };
    let acts = prop::collection::vec(act(), 10..70);
    let done = TestRunner::new(cases).run(&acts, |acts| {
        let mut world = new();
        for act in acts {
            world.act(act);
        }
        world.end();
        Ok(())
    });
    if let Err(error) = done {
        panic!("{error}");
    }
}

#[test]
fn whatever_happens_the_books_balance_on_sqlite() {
    balances(cases(24), World::on_sqlite);
}

#[test]
fn whatever_happens_the_books_balance_where_no_answer_waits_for_the_database() {
    balances(cases(12), || World::on_sqlite_that(Durability::Process));
}

#[test]
fn whatever_happens_the_books_balance_on_postgres() {
    balances(cases(6), World::on_postgres);
}
