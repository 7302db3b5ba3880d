use std::collections::HashMap;
use std::fmt::{self, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::stats::{Interval, interval, mean, of_difference, paired_p};
use super::suite::Suite;
use crate::types::Money;

/// One item as one model did it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// The item's task.
    pub task: String,
    /// The item.
    pub item: String,
    /// From 0 to 1; 0 where it failed.
    pub score: f64,
    /// What the model said.
    pub said: String,
    /// Why there is no answer.
    pub error: Option<String>,
    /// Tokens of all its prompts.
    pub prompt_tokens: u64,
    /// Tokens of all its answers.
    pub completion_tokens: u64,
    /// What they cost.
    pub amount: Money,
    /// From the first request to the last answer.
    pub took_ms: f64,
}

/// A model's way through a suite, item by item in the suite's order.
#[derive(Debug, Clone)]
pub struct Run {
    /// The model.
    pub model: String,
    /// What answered, by its name in the ledger; empty where the server didn't tell, or several did.
    pub revision: String,
    /// Each item.
    pub tried: Vec<Tried>,
}

/// What a suite says of models.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The suite's name.
    pub suite: String,
    /// A name for its content.
    pub suite_version: String,
    /// When it ran.
    pub at: Timestamp,
    /// How many different items it has.
    pub items: usize,
    /// In the order in which they were named.
    pub models: Vec<ModelReport>,
    /// Each model beside the first.
    pub comparisons: Vec<Comparison>,
}

/// How a model did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelReport {
    /// Its name.
    pub model: String,
    /// What answered, by its name in the ledger; empty where the server didn't tell, or several did.
    pub revision: String,
    /// The mean over all items.
    pub score: f64,
    /// Where the score would lie over other items of the kind, with 95% confidence.
    pub interval: Interval,
    /// Each task by itself.
    pub tasks: Vec<TaskReport>,
    /// Items without an answer.
    pub failed: usize,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
    /// What all of it cost.
    pub amount: Money,
    /// The median item took so long, in milliseconds.
    pub p50_ms: f64,
    /// All but one in twenty took no longer.
    pub p95_ms: f64,
    /// Each item.
    pub tried: Vec<Tried>,
}

/// How a model did at one task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TaskReport {
    /// Its name.
    pub task: String,
    /// How many items it has.
    pub items: usize,
    /// The mean over them.
    pub score: f64,
    /// As of the whole.
    pub interval: Interval,
}

/// A model beside another one, item by item.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The one.
    pub model: String,
    /// The other.
    pub against: String,
    /// The one's score less the other's.
    pub difference: f64,
    /// With 95% confidence.
    pub interval: Interval,
    /// How likely they come out so far apart where neither is better: see [`paired_p`].
    pub p: f64,
    /// Items at which the one did better.
    pub better: usize,
    /// Items at which it did worse.
    pub worse: usize,
}

impl Report {
    /// What runs over a suite came to. Each has every item.
    #[must_use]
    pub fn new(suite: &Suite, at: Timestamp, runs: Vec<Run>) -> Self {
        let comparisons = match runs.split_first() {
            Some((first, others)) => others.iter().map(|run| compare(run, first)).collect(),
            None => Vec::new(),
        };
        Self {
            suite: suite.name.clone(),
            suite_version: suite.version.clone(),
            at,
            items: runs.first().map_or(0, |run| scores(run).len()),
            models: runs.into_iter().map(|run| model(suite, run)).collect(),
            comparisons,
        }
    }

    /// The cheapest model that is good enough: the lower end of its interval is no less than the bar. Of two that cost the
    /// same the better one.
    #[must_use]
    pub fn pick(&self, bar: f64) -> Option<&ModelReport> {
        let good = self.models.iter().filter(|model| model.interval.low >= bar);
        good.min_by(|one, other| {
            let by_cost = one.amount.cmp(&other.amount);
            by_cost.then(other.score.total_cmp(&one.score))
        })
    }

    /// For a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{}: {} items, 95% intervals\n\n", self.suite, self.items);
        let width = self.models.iter().map(|model| model.model.len()).max();
        let width = width.unwrap_or(0).max("model".len());
        let mut line = |cells: std::fmt::Arguments<'_>| {
            // Writing to a String can't fail.
            let _infallible = writeln!(text, "{cells}");
        };
        line(format_args!(
            "{:width$}  score   interval         failed  prompt    completion  amount          p50 ms    p95 ms",
            "model"
        ));
        for model in &self.models {
            line(format_args!(
                "{:width$}  {:.3}   {:.3} to {:.3}   {:>6}  {:>8}  {:>10}  {:<14}  {:>7.0}   {:>7.0}",
                model.model,
                model.score,
                model.interval.low,
                model.interval.high,
                model.failed,
                model.prompt_tokens,
                model.completion_tokens,
                model.amount.to_string(),
                model.p50_ms,
                model.p95_ms,
            ));
            for task in model.tasks.iter().filter(|_| model.tasks.len() > 1) {
                line(format_args!(
                    "  {}: {:.3} ({:.3} to {:.3}) of {}",
                    task.task, task.score, task.interval.low, task.interval.high, task.items
                ));
            }
        }
        for comparison in &self.comparisons {
            line(format_args!("\n{comparison}"));
        }
        text
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} beside {}: {:+.3} ({:+.3} to {:+.3}), better at {}, worse at {}, p = {:.2e}",
            self.model,
            self.against,
            self.difference,
            self.interval.low,
            self.interval.high,
            self.better,
            self.worse,
            self.p,
        )
    }
}

/// Two models' reports on one suite, as they were kept, item by item.
///
/// # Errors
/// They are no reports, or of other items.
pub fn compared(one: (&str, &Value), other: (&str, &Value)) -> Result<Comparison, String> {
    let run = |(model, report): (&str, &Value)| {
        let report = ModelReport::deserialize(report).map_err(|error| error.to_string())?;
        Ok::<_, String>(Run {
            model: model.to_owned(),
            revision: report.revision,
            tried: report.tried,
        })
    };
    let (one, other) = (run(one)?, run(other)?);
    let items = |run: &Run| -> Vec<String> {
        run.tried
            .iter()
            .map(|tried| format!("{} {}", tried.task, tried.item))
            .collect()
    };
    if items(&one) != items(&other) {
        return Err("they are of different items".into());
    }
    Ok(compare(&one, &other))
}

/// A score for each item. Tasks may ask the same item in several ways: that is one piece of evidence, not several.
fn scores(run: &Run) -> Vec<f64> {
    let mut items: Vec<&str> = Vec::new();
    let mut scores: HashMap<&str, Vec<f64>> = HashMap::new();
    for tried in &run.tried {
        let item = scores.entry(&tried.item).or_default();
        if item.is_empty() {
            items.push(&tried.item);
        }
        item.push(tried.score);
    }
    items.iter().map(|item| mean(&scores[item])).collect()
}

fn model(suite: &Suite, run: Run) -> ModelReport {
    let all = scores(&run);
    let tasks = suite.tasks.iter().map(|task| {
        let own = run.tried.iter().filter(|tried| tried.task == task.name);
        let scores: Vec<_> = own.map(|tried| tried.score).collect();
        TaskReport {
            task: task.name.clone(),
            items: scores.len(),
            score: mean(&scores),
            interval: interval(&scores),
        }
    });
    let mut took: Vec<_> = run.tried.iter().map(|tried| tried.took_ms).collect();
    took.sort_by(f64::total_cmp);
    // The smallest that so many percent are no more than.
    let at = |percent: usize| {
        let rank = (took.len() * percent).div_ceil(100);
        took.get(rank.saturating_sub(1))
    };
    ModelReport {
        score: mean(&all),
        interval: interval(&all),
        tasks: tasks.collect(),
        failed: run
            .tried
            .iter()
            .filter(|tried| tried.error.is_some())
            .count(),
        prompt_tokens: run.tried.iter().map(|tried| tried.prompt_tokens).sum(),
        completion_tokens: run.tried.iter().map(|tried| tried.completion_tokens).sum(),
        amount: run.tried.iter().map(|tried| tried.amount).sum(),
        p50_ms: at(50).copied().unwrap_or(0.0),
        p95_ms: at(95).copied().unwrap_or(0.0),
        model: run.model,
        revision: run.revision,
        tried: run.tried,
    }
}

fn compare(run: &Run, first: &Run) -> Comparison {
    let (one, other) = (scores(run), scores(first));
    let differences: Vec<_> = one
        .iter()
        .zip(&other)
        .map(|(one, other)| one - other)
        .collect();
    Comparison {
        model: run.model.clone(),
        against: first.model.clone(),
        difference: mean(&differences),
        interval: of_difference(&differences),
        p: paired_p(&one, &other),
        better: differences
            .iter()
            .filter(|difference| **difference > 0.0)
            .count(),
        worse: differences
            .iter()
            .filter(|difference| **difference < 0.0)
            .count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(model: &str, right: usize, amount: &str) -> Run {
        let tried = (0..100).map(|index| Tried {
            task: "t".into(),
            item: index.to_string(),
            score: f64::from(u8::from(index < right)),
            said: String::new(),
            error: None,
            prompt_tokens: 1,
            completion_tokens: 1,
            amount: amount.parse().unwrap(),
            took_ms: 1.0,
        });
        Run {
            model: model.into(),
            revision: String::new(),
            tried: tried.collect(),
        }
    }

    #[test]
    fn the_cheapest_that_is_surely_good_enough_is_picked() {
        let suite = Suite {
            name: "s".into(),
            version: String::new(),
            tasks: Vec::new(),
        };
        let runs = vec![
            run("large", 99, "0.05"),
            run("small", 92, "0.01"),
            run("better", 95, "0.01"),
            // Its score is above the bar, and it may be chance.
            run("tiny", 83, "0.001"),
        ];
        let report = Report::new(&suite, Timestamp::UNIX_EPOCH, runs);
        let picked = |bar| report.pick(bar).map(|model| model.model.as_str());
        assert_eq!(picked(0.5), Some("tiny"));
        assert_eq!(picked(0.8), Some("better"));
        assert_eq!(picked(0.9), Some("large"));
        assert_eq!(picked(0.99), None);
        assert_eq!(report.models[0].amount, "5".parse().unwrap());
    }
}
