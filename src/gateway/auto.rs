//! `auto`: which model answers a question. The vertical whose examples are nearest, if they are near enough, else one whose
//! rules fit, else the general model; of several verticals that are for the same, the cheapest that may serve.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OnceCell};

use super::nearest::dot;
use super::{Error, Gateway};
use crate::router::{Auto, Choice, Question, Route};
use crate::tenancy::Access;
use crate::types::{AUTO, Class, Organisation};

/// What a request for `auto` came to, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The model.
    pub model: Arc<str>,
    /// What decided it: `nearest`, `rule` or `general`.
    pub by: &'static str,
    /// The model whose examples are nearest, the general one where they are for no vertical, and how much nearer they are
    /// than the next one's, in cosine.
    pub nearest: Option<(String, f64)>,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.by)?;
        match &self.nearest {
            Some((vertical, score)) => write!(f, " {vertical} {score:.4}"),
            None => Ok(()),
        }
    }
}

/// The mean cosine of the examples that are nearest to a question; `None` where there are none.
fn nearness(examples: &[Vec<f32>], asked: &[f32], neighbours: usize) -> Option<f64> {
    let mut near: Vec<_> = examples.iter().map(|example| dot(example, asked)).collect();
    near.sort_by(|one, other| other.total_cmp(one));
    near.truncate(neighbours);
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let count = near.len() as f64;
    let sum: f64 = near.iter().map(|score| f64::from(*score)).sum();
    (count > 0.0).then_some(sum / count)
}

/// Where the verticals' examples stand, each route's, as the config that has this version has them.
type Known = (String, Arc<OnceCell<Vec<Vec<Vec<f32>>>>>);

/// The vectors of routes' examples, made when they are first needed.
#[derive(Default)]
pub(super) struct Routes(Mutex<Option<Known>>);

impl Gateway {
    /// What a request for `auto` comes to. `None` where there is no `auto`, or nothing that this key may ask.
    pub async fn route(
        &self,
        (access, class): (&Access, Class),
        text: &str,
        tools: bool,
        end_user: Option<&str>,
    ) -> Option<(Choice, Decision)> {
        let auto = self.router.auto()?;
        let began = Instant::now();
        let is_ours = access.caller.organisation.as_str() == Organisation::DEFAULT;
        let question = Question {
            text,
            tools,
            project: (
                access.caller.project.as_str(),
                is_ours.then_some(access.project_name.as_str()),
            ),
        };
        let nearest = match self.nearest_route((access, class), &auto, text).await {
            Ok(nearest) => nearest,
            Err(error) => {
                // A question that can't be compared is still to be answered.
                tracing::warn!(%error, "auto goes by its rules alone");
                None
            }
        };
        let near = nearest.filter(|(_, score)| *score >= auto.threshold);
        let sure = near.and_then(|(route, _)| route);
        let by_rule = || auto.routes.iter().find(|route| route.fits(&question));
        let routes = [
            ("nearest", sure),
            ("rule", sure.is_none().then(by_rule).flatten()),
        ];
        let told = nearest.map(|(route, score)| {
            let name = route.map_or(&auto.general, |route| &route.model);
            (name.clone(), score)
        });
        let decided = |choice: Choice, by| {
            let decision = Decision {
                model: Arc::clone(choice.model()),
                by,
                nearest: told.clone(),
                took: began.elapsed(),
            };
            self.metrics.verticals.routed(choice.model(), by);
            (choice, decision)
        };
        for (by, route) in routes {
            let members = route.map_or(&[][..], |route| &route.members);
            if let Some(choice) = self.cheapest(access, members, class, end_user) {
                return Some(decided(choice, by));
            }
        }
        let general = std::slice::from_ref(&auto.general);
        let choice = self.cheapest(access, general, class, end_user)?;
        Some(decided(choice, "general"))
    }

    /// Of models that this key may ask and that may serve, the one that costs least.
    fn cheapest(
        &self,
        access: &Access,
        models: &[String],
        class: Class,
        end_user: Option<&str>,
    ) -> Option<Choice> {
        let may = |model: &&String| {
            (access.allows(AUTO) || access.allows(model)) && self.is_open(access, model)
        };
        let choices = models.iter().filter(may).filter_map(|model| {
            let choice = self.choose_open(access, model, end_user)?;
            let price = self.router.price(model, class)?;
            Some((
                price.prompt_pico.saturating_add(price.completion_pico),
                choice,
            ))
        });
        let cheapest = choices.min_by_key(|(price, _)| *price);
        cheapest.map(|(_, choice)| choice)
    }

    /// What is nearest to a question, a route or what is for none, and by how much it is nearer than the next.
    async fn nearest_route<'a>(
        &self,
        caller: (&Access, Class),
        auto: &'a Auto,
        text: &str,
    ) -> Result<Option<(Option<&'a Route>, f64)>, Error> {
        let all = || {
            let routes = auto.routes.iter();
            let routes = routes.map(|route| (Some(route), &route.examples));
            routes.chain([(None, &auto.others)])
        };
        if text.trim().is_empty() || all().all(|(_, examples)| examples.is_empty()) {
            return Ok(None);
        }
        let known = self.known(auto).await;
        let known = known.get_or_try_init(async || {
            let mut known = Vec::with_capacity(auto.routes.len() + 1);
            for (_, examples) in all() {
                known.push(self.vectors_of(caller, &auto.embedding, examples).await?);
            }
            Ok::<_, Error>(known)
        });
        let known = known.await?;
        let asked = self.embedded(caller, &auto.embedding, &[text]).await?;
        let asked = asked.first().map_or(&[][..], Vec::as_slice);
        let scores = all().zip(known).filter_map(|((route, _), examples)| {
            Some((route, nearness(examples, asked, auto.neighbours)?))
        });
        let mut scores: Vec<_> = scores.collect();
        scores.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        // How much nearer than the next says more than how near.
        let next = scores.get(1).map_or(0.0, |(_, score)| *score);
        Ok(scores.first().map(|(route, score)| (*route, score - next)))
    }

    async fn known(&self, auto: &Auto) -> Arc<OnceCell<Vec<Vec<Vec<f32>>>>> {
        let mut known = self.verticals.routes.0.lock().await;
        match &*known {
            Some((version, vectors)) if *version == auto.version => Arc::clone(vectors),
            _ => {
                let vectors = Arc::default();
                *known = Some((auto.version.clone(), Arc::clone(&vectors)));
                vectors
            }
        }
    }
}
