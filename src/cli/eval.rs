//! `forebay eval`: how good models are, asked through a running gateway as clients ask it.

use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use uuid::Uuid;

use super::asker::{Asker, GatewayArguments};
use super::route::{self, RouteArguments};
use crate::config::Config;
use crate::eval::{Report, Suite, compared};
use crate::router::Router;
use crate::types::{Class, Evaluation, EvaluationQuery, Page, Store};

#[derive(Subcommand)]
pub(super) enum EvalCommand {
    /// Ask models the items of a suite, and say how they did
    Run(RunArguments),
    /// Say which of the models is good enough at the least cost; an error where none is
    Pick {
        /// What the lower end of a model's 95% interval must reach, from 0 to 1
        #[arg(long)]
        bar: f64,
        #[command(flatten)]
        arguments: RunArguments,
    },
    /// Say how well `auto` finds the vertical that a question is for
    Route(RouteArguments),
    /// Print the evaluations that were kept, newest first
    History {
        /// Of this model alone
        #[arg(long)]
        model: Option<String>,
        /// So many at most
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Compare two evaluations of one suite, item by item
    Compare {
        /// The end of the one's id, as `forebay eval history` prints it
        one: String,
        /// The end of the other's
        other: String,
    },
}

#[derive(Args)]
pub(super) struct RunArguments {
    /// The suite, a TOML file
    suite: PathBuf,
    /// The models, with commas; each is compared with the first
    #[arg(long, value_delimiter = ',', required = true)]
    models: Vec<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Where to, instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Keep nothing of it in the store
    #[arg(long)]
    forget: bool,
    #[command(flatten)]
    gateway: GatewayArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
    Html,
}

pub(super) async fn run(command: &EvalCommand, config: &Config, store: &dyn Store) -> Result<()> {
    match command {
        EvalCommand::Run(arguments) => {
            let report = report(arguments, config, store).await?;
            write(&report, arguments)
        }
        EvalCommand::Pick { bar, arguments } => {
            ensure!((0.0..=1.0).contains(bar), "--bar must be between 0 and 1");
            pick(*bar, arguments, config, store).await
        }
        EvalCommand::Route(arguments) => {
            tokio::task::block_in_place(|| route::run(arguments, config))
        }
        EvalCommand::History { model, limit } => {
            let query = EvaluationQuery {
                model: model.clone(),
                ..EvaluationQuery::default()
            };
            let page = Page {
                after: None,
                limit: *limit,
            };
            history(&store.evaluations(&query, &page).await?)
        }
        EvalCommand::Compare { one, other } => {
            let one = store.find_evaluation(one).await?;
            let other = store.find_evaluation(other).await?;
            compare(&one, &other)
        }
    }
}

async fn pick(
    bar: f64,
    arguments: &RunArguments,
    config: &Config,
    store: &dyn Store,
) -> Result<()> {
    // What costs nothing would be picked first of all.
    let router = Router::new(config).map_err(|error| anyhow!(error))?;
    for model in &arguments.models {
        let price = router.price(model, Class::Standard);
        price.with_context(|| format!("no price for {model:?}: name its config by --config"))?;
    }
    let report = report(arguments, config, store).await?;
    write(&report, arguments)?;
    if let Some(model) = report.models.iter().find(|model| model.failed > 0) {
        bail!("{}: {} items have no answer", model.model, model.failed);
    }
    let Some(model) = report.pick(bar) else {
        bail!("none of the models reaches {bar} with 95% confidence");
    };
    eprintln!(
        "{} is good enough at the least cost: {:.3} ({:.3} to {:.3}) for {}",
        model.model, model.score, model.interval.low, model.interval.high, model.amount
    );
    Ok(())
}

async fn report(arguments: &RunArguments, config: &Config, store: &dyn Store) -> Result<Report> {
    let suite = Suite::read(&arguments.suite).map_err(|error| anyhow!(error))?;
    let asker = Asker::new(&arguments.gateway, config)?;
    let runs = tokio::task::block_in_place(|| {
        asker.check(&arguments.models)?;
        let models = arguments.models.iter();
        models
            .map(|model| asker.run(&suite, model))
            .collect::<Result<_>>()
    });
    let report = Report::new(&suite, Timestamp::now(), runs?);
    if !arguments.forget {
        for evaluation in kept(&report)? {
            store.evaluated(&evaluation).await?;
        }
    }
    Ok(report)
}

/// What is kept of a report, one for each model.
pub(super) fn kept(report: &Report) -> Result<Vec<Evaluation>> {
    let models = report.models.iter().map(|model| {
        Ok(Evaluation {
            id: format!("eval_{}", Uuid::now_v7().simple()),
            at: report.at,
            suite: report.suite.clone(),
            suite_version: report.suite_version.clone(),
            model: model.model.clone(),
            revision: model.revision.clone(),
            score: model.score,
            low: model.interval.low,
            high: model.interval.high,
            items: u32::try_from(report.items)?,
            failed: u32::try_from(model.failed)?,
            report: serde_json::to_value(model)?,
        })
    });
    models.collect()
}

fn write(report: &Report, arguments: &RunArguments) -> Result<()> {
    let text = match arguments.format {
        Format::Table => report.table(),
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
        Format::Html => report.page().map_err(|error| anyhow!(error))?,
    };
    match &arguments.out {
        Some(path) => {
            std::fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        None => stdout().write_all(text.as_bytes())?,
    }
    Ok(())
}

fn history(all: &[Evaluation]) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(
        out,
        "id        at                    score  interval        items  failed  suite  model  revision"
    )?;
    for one in all {
        writeln!(
            out,
            "{}  {}  {:.3}  {:.3} to {:.3}  {:>5}  {:>6}  {}  {}  {}",
            &one.id[one.id.len().saturating_sub(8)..],
            one.at.strftime("%Y-%m-%d %H:%M:%SZ"),
            one.score,
            one.low,
            one.high,
            one.items,
            one.failed,
            one.suite,
            one.model,
            one.revision,
        )?;
    }
    Ok(())
}

fn compare(one: &Evaluation, other: &Evaluation) -> Result<()> {
    ensure!(
        one.suite_version == other.suite_version,
        "they are of two suites, or of one that has changed in between"
    );
    let text = compared((&one.model, &one.report), (&other.model, &other.report));
    let text = text.map_err(|error| anyhow!(error))?;
    writeln!(stdout(), "{text}")?;
    Ok(())
}
