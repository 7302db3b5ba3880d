//! `loadtest rates`: latency against load. So many requests a second come in, however many earlier ones are still open,
//! as clients do who know nothing of each other (an open loop).

use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use plotters::prelude::*;
use serde::Serialize;

use super::client::{Ask, connect, micros, once};
use super::{Gateways, servers::Servers};
use crate::machine::Machine;
use crate::process::Scratch;

/// Requests that may be open at once; the next one waits, and its wait counts.
const CONNECTIONS: usize = 64;
/// Colours of lines, which a printer without colours shows as different greys, too.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
];

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    gateways: Gateways,
    /// Requests a second, in turn
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "250,500,1000,2000,4000,8000"
    )]
    rates: Vec<u32>,
    /// How long each rate lasts, in milliseconds
    #[arg(long, default_value_t = 2000)]
    time_ms: u64,
    /// Where to draw it
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Where to write the figures as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What one rate came to with one target.
#[derive(Clone, Serialize)]
struct Point {
    target: String,
    /// Requests a second that came, and that were answered.
    offered: u32,
    answered: f64,
    p50_us: u64,
    p99_us: u64,
    failed: u64,
    /// Whether all that came were asked before the time was over by half of it.
    kept_up: bool,
}

/// True where no request failed.
pub(crate) async fn run(args: Args) -> Result<bool> {
    ensure!(
        args.rates.iter().all(|rate| (1..=100_000).contains(rate)),
        "a rate is 1 to 100,000"
    );
    let machine = Machine::look().await;
    let scratch = Scratch::new()?;
    let mut servers = Servers::start(&args.gateways, &scratch).await?;
    let time = Duration::from_millis(args.time_ms);
    let steps = args.rates.len() * servers.targets.len();
    let bar = ProgressBar::new(steps as u64);
    let mut points = Vec::new();
    for rate in &args.rates {
        for target in servers.targets.clone() {
            servers.check_alive()?;
            points.push(offer(&target.name, &target.ask(false), *rate, time).await?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    print(&machine, &points)?;
    if let Some(file) = &args.json {
        fs::write(file, serde_json::to_vec_pretty(&points)?)?;
    }
    if let Some(file) = &args.svg {
        draw(file, &points).map_err(|error| anyhow!("{}: {error}", file.display()))?;
    }
    Ok(points.iter().all(|point| point.failed == 0))
}

/// Requests at a steady rate. Each is timed from when it was due; only where a connection was free for it before, from when
/// the timer, which counts milliseconds, let it go.
async fn offer(name: &str, ask: &Ask, rate: u32, time: Duration) -> Result<Point> {
    let count = (f64::from(rate) * time.as_secs_f64()).ceil() as u32;
    let (start, next) = (Instant::now(), Cell::new(0));
    let deadline = start + time + time / 2;
    let due = |number: u32| start + Duration::from_secs(1) * number / rate;
    let client = async || -> Result<(Histogram<u64>, u64)> {
        let (mut times, mut failed) = (Histogram::new_with_bounds(1, 60_000_000, 3)?, 0);
        let request = ask.bytes();
        let mut stream = connect(&ask.address).await?;
        let mut buffer = Vec::with_capacity(64 << 10);
        loop {
            let number = next.get();
            if number == count || Instant::now() > deadline {
                return Ok((times, failed));
            }
            next.set(number + 1);
            let mut begun = due(number);
            if Instant::now() < begun {
                tokio::time::sleep_until(begun.into()).await;
                begun = Instant::now();
            }
            match once(&mut stream, &request, false, &mut buffer).await {
                Ok(_) => times.record(micros(begun.elapsed()))?,
                Err(_) => {
                    failed += 1;
                    stream = connect(&ask.address).await?;
                }
            }
        }
    };
    let all = futures_util::future::try_join_all((0..CONNECTIONS).map(|_| client())).await?;
    let took = start.elapsed();
    let (mut times, mut failed) = (Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?, 0);
    for (own, broke) in all {
        times.add(&own)?;
        failed += broke;
    }
    Ok(Point {
        target: name.to_owned(),
        offered: rate,
        answered: times.len() as f64 / took.as_secs_f64(),
        p50_us: times.value_at_quantile(0.5),
        p99_us: times.value_at_quantile(0.99),
        failed,
        kept_up: next.get() == count,
    })
}

fn print(machine: &Machine, points: &[Point]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{machine}\n{CONNECTIONS} connections; times from when a request was due\n"
    )?;
    writeln!(
        out,
        "{:>10}  {:<14} {:>10} {:>10} {:>10} {:>8}",
        "offered/s", "target", "answered/s", "p50 us", "p99 us", "failed"
    )?;
    for point in points {
        writeln!(
            out,
            "{:>10}  {:<14} {:>10.0} {:>10} {:>10} {:>8}{}",
            point.offered,
            point.target,
            point.answered,
            point.p50_us,
            point.p99_us,
            point.failed,
            if point.kept_up { "" } else { "  fell behind" },
        )?;
    }
    Ok(())
}

/// A line for each target: half of its requests were as quick, and a thinner one: 99 of 100 were.
fn draw(file: &Path, points: &[Point]) -> Result<()> {
    // Where nothing was answered there is no time.
    let points: Vec<_> = points.iter().filter(|point| point.p50_us > 0).collect();
    let rates = points.iter().map(|point| f64::from(point.offered));
    let (least, most) = bounds(rates).context("there is nothing to draw")?;
    let times = points.iter().flat_map(|point| [point.p50_us, point.p99_us]);
    let (quickest, slowest) = bounds(times.map(|us| us as f64 / 1000.0)).context("no times")?;
    let area = SVGBackend::new(file, (960, 600)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .caption(
            "Time of a request against requests a second",
            ("sans-serif", 20),
        )
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (least..most * 1.1).log_scale(),
            (quickest * 0.8..slowest * 1.2).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("requests a second")
        .y_desc("milliseconds: p50, and p99 in thin lines")
        .draw()?;
    let mut names: Vec<&str> = Vec::new();
    for point in &points {
        if !names.contains(&point.target.as_str()) {
            names.push(&point.target);
        }
    }
    for (name, colour) in names.iter().zip(COLOURS.into_iter().cycle()) {
        let own = || points.iter().filter(|point| point.target == *name);
        let line = |us: fn(&Point) -> u64| {
            own().map(move |point| (f64::from(point.offered), us(point) as f64 / 1000.0))
        };
        chart.draw_series(LineSeries::new(
            line(|point| point.p99_us),
            colour.stroke_width(1),
        ))?;
        chart
            .draw_series(LineSeries::new(
                line(|point| point.p50_us),
                colour.stroke_width(3),
            ))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |bounds, value| match bounds {
        None => Some((value, value)),
        Some((least, most)) => Some((f64::min(least, value), f64::max(most, value))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(target: &str, offered: u32, p50_us: u64) -> Point {
        Point {
            target: target.into(),
            offered,
            answered: f64::from(offered),
            p50_us,
            p99_us: 3 * p50_us,
            failed: 0,
            kept_up: true,
        }
    }

    #[test]
    fn each_target_has_its_lines_in_the_chart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chart.svg");
        let points = [
            point("nginx", 250, 100),
            point("a gateway", 250, 240),
            point("nginx", 4000, 180),
            point("a gateway", 4000, 900),
            point("one that fails", 4000, 0),
        ];
        draw(&file, &points).unwrap();
        let chart = fs::read_to_string(&file).unwrap();
        assert!(chart.starts_with("<svg") && chart.trim_end().ends_with("</svg>"));
        for text in ["nginx", "a gateway", "requests a second", "#E69F00"] {
            assert!(chart.contains(text), "no {text:?}");
        }
        assert!(!chart.contains("one that fails"));
        assert!(draw(&file, &[point("one that fails", 250, 0)]).is_err());
    }
}
