//! `forebay eval route`: how well `auto` finds the vertical that a question is for.

use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::asker::{Asker, GatewayArguments};
use crate::config::Config;
use crate::eval::interval;

#[derive(Args)]
pub(super) struct RouteArguments {
    /// Questions with the model that each is for, a line each: `{"id": "...", "input": "...", "expected": "..."}`
    set: PathBuf,
    /// What `expected` says of questions that are for no vertical
    #[arg(long, default_value = "general")]
    none: String,
    /// Say at which threshold such a share of what goes to a vertical goes to the right one; on other questions than
    /// those that it is measured on
    #[arg(long, value_name = "SHARE")]
    fit: Option<f64>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gateway: GatewayArguments,
}

#[derive(Debug, Clone, Deserialize)]
struct Labelled {
    id: String,
    input: String,
    expected: String,
}

/// Where one went.
#[derive(Debug, Clone, Serialize)]
struct Went {
    id: String,
    expected: String,
    /// The model that would answer.
    model: String,
    by: String,
    /// The vertical that was nearest.
    nearest: String,
    score: f64,
    took_ms: f64,
}

impl Went {
    /// Whether a vertical answered.
    fn is_answered(&self) -> bool {
        self.by != "general"
    }

    /// Whether a vertical would answer where the threshold is low enough.
    fn may_be_answered(&self) -> bool {
        self.is_answered() || self.nearest != self.model
    }

    fn is_right(&self) -> bool {
        let found = if self.by == "nearest" {
            &self.nearest
        } else {
            &self.model
        };
        *found == self.expected
    }
}

pub(super) fn run(arguments: &RouteArguments, config: &Config) -> Result<()> {
    let path = &arguments.set;
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut all = Vec::new();
    for (number, line) in (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let number: usize = number;
        let line: Labelled = serde_json::from_str(line)
            .with_context(|| format!("{} line {number}", path.display()))?;
        all.push(line);
    }
    ensure!(!all.is_empty(), "{} has no lines", path.display());
    let asker = Asker::new(&arguments.gateway, config)?;
    asker.check(&["auto".to_owned()])?;
    let went = all
        .iter()
        .map(|one| ask(&asker, one))
        .collect::<Result<Vec<_>>>()?;
    let fitted = arguments.fit.map(|share| (share, fit(&went, share)));
    let mut out = stdout().lock();
    if arguments.json {
        let threshold = fitted.and_then(|(_, threshold)| threshold);
        writeln!(out, "{}", json!({"went": went, "threshold": threshold}))?;
        return Ok(());
    }
    tell(&went, &arguments.none, &mut out)?;
    if let Some((share, threshold)) = fitted {
        match threshold {
            Some(threshold) => {
                let sent = |one: &&Went| one.may_be_answered() && one.score >= threshold;
                let kept = went.iter().filter(sent).count();
                writeln!(
                    out,
                    "\nthreshold = {threshold:.4} sends {kept} of {} to a vertical, {share} of them or more to the right one",
                    went.len()
                )?;
            }
            None => writeln!(
                out,
                "\nno threshold sends {share} of what it sends to the right vertical"
            )?,
        }
    }
    Ok(())
}

fn ask(asker: &Asker, one: &Labelled) -> Result<Went> {
    let told = asker.routed(&one.input).with_context(|| one.id.clone())?;
    let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
    Ok(Went {
        id: one.id.clone(),
        expected: one.expected.clone(),
        model: text("model"),
        by: text("by"),
        nearest: text("nearest"),
        score: told["score"].as_f64().unwrap_or(-1.0),
        took_ms: told["took_ms"].as_f64().unwrap_or(f64::NAN),
    })
}

/// The least threshold at which so large a share of what is sent to a vertical is sent to the right one.
fn fit(went: &[Went], share: f64) -> Option<f64> {
    let mut scores: Vec<_> = went.iter().map(|one| one.score).collect();
    scores.sort_by(f64::total_cmp);
    scores.dedup();
    scores.into_iter().find(|threshold| {
        let sent = went
            .iter()
            .filter(|one| one.may_be_answered() && one.score >= *threshold);
        let right: Vec<_> = sent.map(|one| one.nearest == one.expected).collect();
        let hits = right.iter().filter(|right| **right).count();
        #[expect(clippy::cast_precision_loss, reason = "numbers of questions")]
        let reached = hits as f64 >= share * right.len() as f64;
        reached
    })
}

fn tell(went: &[Went], none: &str, out: &mut impl Write) -> Result<()> {
    let answered: Vec<_> = went.iter().filter(|one| one.is_answered()).collect();
    let right: Vec<_> = answered
        .iter()
        .map(|one| f64::from(u8::from(one.is_right())))
        .collect();
    let hits = answered.iter().filter(|one| one.is_right()).count();
    let low = interval(&right);
    writeln!(
        out,
        "{} of {} went to a vertical, {hits} of them to the right one: {:.3} ({:.3} to {:.3})",
        answered.len(),
        went.len(),
        crate::eval::mean(&right),
        low.low,
        low.high
    )?;
    let mut expected: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
    for one in went {
        let row = expected.entry(&one.expected).or_default();
        row.0 += 1;
        row.1 += usize::from(one.is_answered() && one.is_right());
        row.2 += usize::from(!one.is_answered());
    }
    writeln!(
        out,
        "\n{:24}  {:>5}  {:>5}  {:>5}  {:>9}",
        "for", "all", "right", "wrong", "abstained"
    )?;
    for (name, (all, right, abstained)) in &expected {
        let wrong = all - right - abstained;
        writeln!(
            out,
            "{name:24}  {all:>5}  {right:>5}  {wrong:>5}  {abstained:>9}"
        )?;
    }
    let kept = expected.get(none).map_or(0, |row| row.2);
    let strangers = expected.get(none).map_or(0, |row| row.0);
    writeln!(
        out,
        "\n{kept} of {strangers} questions that are for no vertical went to none"
    )?;
    let mut took: Vec<_> = went
        .iter()
        .map(|one| one.took_ms)
        .filter(|ms| ms.is_finite())
        .collect();
    took.sort_by(f64::total_cmp);
    let at = |percent: usize| took.get((took.len() * percent).div_ceil(100).saturating_sub(1));
    if let (Some(p50), Some(p95)) = (at(50), at(95)) {
        writeln!(out, "deciding took {p50:.1} ms at p50, {p95:.1} ms at p95")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_is_the_least_that_is_right_often_enough() {
        let went = |score: f64, right: bool| Went {
            id: String::new(),
            expected: "a".into(),
            model: "a".into(),
            by: "nearest".into(),
            nearest: if right { "a" } else { "b" }.into(),
            score,
            took_ms: 1.0,
        };
        let all = [
            went(0.1, false),
            went(0.2, true),
            went(0.3, false),
            went(0.4, true),
            went(0.5, true),
        ];
        assert_eq!(fit(&all, 0.5), Some(0.1));
        assert_eq!(fit(&all, 0.75), Some(0.2));
        assert_eq!(fit(&all, 0.9), Some(0.4));
        assert_eq!(fit(&all[..1], 0.9), None);
    }
}
