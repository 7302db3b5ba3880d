//! `auto`: which model answers a question. The vertical whose examples are nearest, if they are near enough, else one whose
//! rules fit, else the general model; of several verticals that are for the same, the cheapest that may serve.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OnceCell};

use super::nearest::dot;
use super::{Error, Gateway};
use crate::router::{Auto, Choice, Question};
use crate::tenancy::Access;
use crate::types::{AUTO, Class, Usage};

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

/// Texts that have nothing to do with each other are no nearer than this, in cosine: no vertical wins by being less far.
const FAR: f64 = 0.2;
/// What prices are compared by.
const USUAL: Usage = Usage {
    prompt_tokens: 200,
    cached_tokens: 0,
    completion_tokens: 200,
    reasoning_tokens: 0,
};

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
        let is_ours = access.is_of_the_site();
        let question = Question {
            text,
            tools,
            project: (
                access.caller.project.as_str(),
                is_ours.then_some(access.project_name.as_str()),
            ),
        };
        // Of what this key may not ask nobody learns that it is there.
        let open: Vec<_> = auto
            .routes
            .iter()
            .map(|route| self.cheapest(access, &route.members, class, end_user))
            .collect();
        let nearest = self
            .nearest_route((access, class), &auto, &open, text)
            .await;
        let nearest = nearest.unwrap_or_else(|error| {
            // A question that can't be compared is still to be answered.
            tracing::warn!(%error, "auto goes by its rules alone");
            None
        });
        let near = nearest.filter(|(_, score)| *score >= auto.threshold);
        let sure = near.and_then(|(route, _)| route);
        let fits = |route: &usize| {
            let is_open = open.get(*route).is_some_and(Option::is_some);
            is_open
                && auto
                    .routes
                    .get(*route)
                    .is_some_and(|one| one.fits(&question))
        };
        let (by, route) = match sure {
            Some(route) => ("nearest", Some(route)),
            None => ("rule", (0..auto.routes.len()).find(fits)),
        };
        let chosen = route.and_then(|route| open.get(route).cloned().flatten());
        let (by, choice) = match chosen {
            Some(choice) => (by, choice),
            None => {
                let general = std::slice::from_ref(&auto.general);
                ("general", self.cheapest(access, general, class, end_user)?)
            }
        };
        let nearest = nearest.map(|(route, score)| {
            let route = route.and_then(|route| auto.routes.get(route));
            let name = route.map_or(&auto.general, |route| &route.model);
            (name.clone(), score)
        });
        let decision = Decision {
            model: Arc::clone(choice.model()),
            by,
            nearest,
            took: began.elapsed(),
        };
        Some((choice, decision))
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
            Some((self.router.price(model, class)?.amount(&USUAL), choice))
        });
        let cheapest = choices.min_by_key(|(price, _)| *price);
        cheapest.map(|(_, choice)| choice)
    }

    /// What is nearest to a question, one of the open routes or what is for none, and by how much it is nearer than the next.
    async fn nearest_route(
        &self,
        caller: (&Access, Class),
        auto: &Auto,
        open: &[Option<Choice>],
        text: &str,
    ) -> Result<Option<(Option<usize>, f64)>, Error> {
        let routes = || auto.routes.iter().map(|route| &route.examples);
        let all = || routes().chain([&auto.others]);
        if text.trim().is_empty() || all().all(Vec::is_empty) {
            return Ok(None);
        }
        let known = self.known(auto).await;
        let known = known.get_or_try_init(async || {
            // Everybody else waits for it.
            let caller = (caller.0, Class::Interactive);
            let mut known = Vec::with_capacity(auto.routes.len() + 1);
            for examples in all() {
                known.push(self.vectors_of(caller, &auto.embedding, examples).await?);
            }
            Ok::<_, Error>(known)
        });
        let known = known.await?;
        let asked = self.embedded(caller, &auto.embedding, &[text]).await?;
        let asked = asked.first().map_or(&[][..], Vec::as_slice);
        let scores = known.iter().enumerate().filter_map(|(place, examples)| {
            let score = nearness(examples, asked, auto.neighbours)?;
            match open.get(place) {
                Some(None) => None,
                Some(Some(_)) => Some((Some(place), score)),
                None => Some((None, score)),
            }
        });
        let mut scores: Vec<_> = scores.collect();
        scores.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        // How much nearer than the next says more than how near.
        let next = scores.get(1).map_or(FAR, |(_, score)| score.max(FAR));
        Ok(scores.first().map(|(place, score)| (*place, score - next)))
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
