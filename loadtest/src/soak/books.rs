//! What the clients saw, against what the ledger says.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{client::Usage, forebay::Server};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sums {
    pub(super) requests: u64,
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
}

impl Sums {
    pub(super) fn add(&mut self, usage: &Usage) {
        self.requests += 1;
        self.prompt_tokens += usage.prompt_tokens;
        self.completion_tokens += usage.completion_tokens;
    }
}

/// How one request ended, as its client saw it.
pub(super) enum End {
    Whole(Usage),
    /// The client left, with this many pieces of text.
    Cut {
        pieces: u64,
    },
    Failed(String),
}

/// What the clients saw.
#[derive(Default, Serialize)]
pub(super) struct Seen {
    /// Of clients that meant to stay.
    pub(super) whole: Sums,
    /// Of clients that meant to leave.
    pub(super) leaving: Leaving,
    pub(super) failures: BTreeMap<String, u64>,
}

#[derive(Default, Serialize)]
pub(super) struct Leaving {
    pub(super) requests: u64,
    /// Those that were answered before their client left.
    pub(super) answered: Sums,
    pub(super) left: u64,
    /// Pieces of text that the others had got by then.
    pub(super) pieces: u64,
    /// The most that all of them could have cost.
    pub(super) max_tokens: u64,
}

impl Seen {
    pub(super) fn add(&mut self, end: End, leaving: bool, max_tokens: u32) {
        if leaving {
            self.leaving.requests += 1;
            self.leaving.max_tokens += u64::from(max_tokens);
        }
        match end {
            End::Whole(usage) if leaving => self.leaving.answered.add(&usage),
            End::Whole(usage) => self.whole.add(&usage),
            End::Cut { pieces } => {
                self.leaving.left += 1;
                self.leaving.pieces += pieces;
            }
            End::Failed(error) => *self.failures.entry(error).or_default() += 1,
        }
    }
}

/// What the ledger says.
#[derive(Debug, Default, Serialize)]
pub(super) struct Bill {
    pub(super) whole: Sums,
    pub(super) leaving: Sums,
    /// Projects that asked for nothing.
    pub(super) others: Vec<String>,
}

impl Bill {
    pub(super) async fn ask(server: &Server) -> Result<Self> {
        let rows = server.cli(&["usage", "--format", "json"]).await?;
        Self::read(&rows).context("forebay usage --format json")
    }

    fn read(rows: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Row {
            project: String,
            #[serde(flatten)]
            sums: Sums,
        }
        let mut bill = Self::default();
        for row in serde_json::from_str::<Vec<Row>>(rows)? {
            match row.project.as_str() {
                "soak-whole" => bill.whole = row.sums,
                "soak-cut" => bill.leaving = row.sums,
                _ => bill.others.push(row.project),
            }
        }
        Ok(bill)
    }

    /// A sentence for each thing that can't be.
    pub(super) fn problems(&self, seen: &Seen) -> Vec<String> {
        let (leaving, booked) = (&seen.leaving, &self.leaving);
        let mut problems = Vec::new();
        if self.whole != seen.whole {
            problems.push("the bill of the whole answers isn't what their clients saw".to_owned());
        }
        // One that left before its request was dispatched costs nothing; every answered one costs.
        if !(leaving.answered.requests..=leaving.requests).contains(&booked.requests) {
            problems.push("the bill of those that left has more or fewer requests".to_owned());
        }
        let least = leaving.answered.completion_tokens + leaving.pieces;
        if !(least..=leaving.max_tokens).contains(&booked.completion_tokens) {
            problems.push(format!(
                "those that left are billed {} tokens: not from {least}, which they got, to {}, which they asked for",
                booked.completion_tokens, leaving.max_tokens
            ));
        }
        for project in &self.others {
            problems.push(format!("a bill for {project}, which asked for nothing"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::{Bill, End, Seen, Sums};
    use crate::client::Usage;

    fn usage() -> Usage {
        serde_json::from_str("{\"prompt_tokens\": 5, \"completion_tokens\": 2}").unwrap()
    }

    fn seen() -> Seen {
        let mut seen = Seen::default();
        seen.add(End::Whole(usage()), false, 8);
        seen.add(End::Whole(usage()), true, 8);
        seen.add(End::Cut { pieces: 3 }, true, 8);
        seen
    }

    fn sums(requests: u64, prompt_tokens: u64, completion_tokens: u64) -> Sums {
        Sums {
            requests,
            prompt_tokens,
            completion_tokens,
        }
    }

    #[test]
    fn books_that_agree_are_no_problem() {
        let rows = "[{\"project\": \"soak-whole\", \"model\": \"m\", \"requests\": 1, \
            \"prompt_tokens\": 5, \"cached_tokens\": 1, \"completion_tokens\": 2, \"amount\": \"0\"}]";
        let mut bill = Bill::read(rows).unwrap();
        bill.leaving = sums(2, 9, 6);
        assert_eq!(bill.problems(&seen()), Vec::<String>::new());
    }

    #[test]
    fn a_lost_or_doubled_charge_is_found() {
        for (whole, leaving) in [
            (sums(0, 0, 0), sums(2, 9, 6)),
            (sums(2, 10, 4), sums(2, 9, 6)),
            (sums(1, 5, 3), sums(2, 9, 6)),
            (sums(1, 5, 2), sums(3, 9, 6)),
            (sums(1, 5, 2), sums(2, 9, 4)),
            (sums(1, 5, 2), sums(2, 9, 17)),
        ] {
            let others = Vec::new();
            let bill = Bill {
                whole,
                leaving,
                others,
            };
            assert_eq!(bill.problems(&seen()).len(), 1, "{bill:?}");
        }
    }
}
