//! Whether a model is good enough: suites of items, what an answer to one is worth, and how sure that is.
//!
//! It asks nobody itself: a [`Suite`] gives the requests of an item, in OpenAI's words, and scores what came back. So
//! models are asked as clients ask them, with all that a vertical is.

mod ask;
mod page;
mod report;
mod score;
mod second;
mod stats;
mod suite;
mod words;

pub use report::{Comparison, ModelReport, Report, Run, Tried, compared};
pub use score::Scored;
pub use second::FollowUp;
pub use stats::{Interval, interval, mean, paired_p};
pub use suite::{Item, Suite, Task};
