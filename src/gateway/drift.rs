//! Whether what a vertical is asked still looks like what it was tried on: live questions are compared with its suite's, by
//! the vectors of an embedding model. Only the number is kept, and no question.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use rand::Rng;
use tokio::sync::OnceCell;

use super::nearest::dot;
use super::{Error, Gateway};
use crate::router::{Choice, DriftOf};
use crate::tenancy::Access;
use crate::types::Class;

/// What is known of each vertical's questions, by its name and its suite.
#[derive(Default)]
pub(super) struct Drift(DashMap<String, Arc<Known>>);

#[derive(Default)]
struct Known {
    suite: OnceCell<Suite>,
    /// How near the last questions were to the suite.
    last: Mutex<VecDeque<f32>>,
}

struct Suite {
    items: Vec<Vec<f32>>,
    /// How near its items are to each other, the nearest one of each.
    own: f64,
}

impl Gateway {
    /// Compares some of the questions of projects that opted in. Nobody waits for it.
    pub fn sample(self: &Arc<Self>, access: &Arc<Access>, choice: &Choice, question: String) {
        let Some(drift) = choice.drift() else {
            return;
        };
        let is_ours = access.is_of_the_site();
        let opted_in = drift.projects.iter().any(|project| {
            project == access.caller.project.as_str()
                || (is_ours && *project == access.project_name)
        });
        let is_drawn = || rand::rng().random_range(0.0..100.0) < drift.sample_percent;
        if question.trim().is_empty() || !opted_in || !is_drawn() {
            return;
        }
        let (gateway, access) = (Arc::clone(self), Arc::clone(access));
        let (drift, model) = (Arc::clone(drift), Arc::clone(choice.model()));
        tokio::spawn(async move {
            if let Err(error) = gateway.compare(&access, &model, &drift, &question).await {
                tracing::debug!(%error, %model, "a question was not compared with the suite");
            }
        });
    }

    async fn compare(
        &self,
        access: &Access,
        model: &str,
        drift: &DriftOf,
        question: &str,
    ) -> Result<(), Error> {
        let name = format!("{model} {} {}", drift.suite, drift.embedding);
        let known = Arc::clone(self.verticals.drift.0.entry(name).or_default().value());
        let caller = (access, Class::Batch);
        let suite = known.suite.get_or_try_init(async || {
            let items = self
                .vectors_of(caller, &drift.embedding, &drift.inputs)
                .await?;
            Ok::<_, Error>(Suite::new(items))
        });
        let suite = suite.await?;
        let asked = self.embedded(caller, &drift.embedding, &[question]).await?;
        let asked = asked.first().map_or(&[][..], Vec::as_slice);
        let near = suite
            .items
            .iter()
            .map(|item| dot(item, asked))
            .fold(-1.0, f32::max);
        let mut last = known.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_back(near);
        while last.len() > drift.window {
            last.pop_front();
        }
        let mean = mean(last.iter().copied());
        self.metrics.verticals.drift(model, suite.own - mean);
        Ok(())
    }
}

impl Suite {
    fn new(items: Vec<Vec<f32>>) -> Self {
        let nearest = |(place, item): (usize, &Vec<f32>)| {
            let others = items
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != place);
            others
                .map(|(_, other)| dot(item, other))
                .fold(-1.0, f32::max)
        };
        let own = mean(items.iter().enumerate().map(nearest));
        Self { own, items }
    }
}

fn mean(values: impl Iterator<Item = f32>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| {
        (sum + f64::from(value), count + 1.0)
    });
    if count > 0.0 { sum / count } else { 0.0 }
}
