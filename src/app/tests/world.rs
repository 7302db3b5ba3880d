//! A gateway whose process may die, its clients, and what they and the worker know.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::script::{Run, Scripted};
use super::{Act, Order};
use crate::app::wiring::{App, Workers};
use crate::config::Config;
use crate::gateway::{Ask, Error, Gateway};
use crate::metering;
use crate::scheduler::Assigned;
use crate::store::{self, tests::cluster as shared_cluster};
use crate::tenancy::{Access, Admin};
use crate::types::{
    Actor, Caller, Class, Count, Durability, Endpoint, Event, Failure, Generate, LimitSet, Limits,
    Paying, Period, Price, Prompt, RequestId, Scope, Usage,
};
use crate::worker::Worker;

pub(super) const TENANTS: usize = 2;
pub(super) const CONCURRENT: u64 = 5;
pub(super) const TOKENS_PER_DAY: u64 = 300;
pub(super) const MODEL: &str = "m";
const CONFIG: &str = r#"
    [[worker]]
    name = "scripted"
    engine = "llama"
    model = "m"

    [[model]]
    name = "m"
    price = { prompt = "2", completion = "6", request = "0.000001" }
"#;
/// How long the books may take to balance once everything is quiet: a dead replica is missed only after its lease.
const PATIENCE: Duration = Duration::from_secs(15);

/// What became of a request, as its client saw it.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    /// The whole answer came, with this usage.
    Answered(Usage),
    /// The worker broke.
    Broken,
    /// It was refused.
    Refused,
}

pub(super) struct Client {
    pub(super) request: RequestId,
    pub(super) asked: Asked,
    tell: mpsc::Sender<Order>,
    pub(super) run: Arc<Run>,
    task: JoinHandle<()>,
    fate: Arc<Mutex<Option<Fate>>>,
    /// What its last checkpoint knows at least.
    pub(super) floor: Count,
    /// It was dropped by its client.
    pub(super) dropped: bool,
    /// Its row was seen to be on its way no longer.
    sure: bool,
    /// The process died, and may have taken it along.
    pub(super) cut: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    tenant: usize,
    max_tokens: u32,
    batch: bool,
    streams: bool,
}

/// One process, from its start to its end.
pub(super) struct Life {
    pub(super) runtime: Runtime,
    pub(super) app: App,
    worker: Arc<Scripted>,
}

pub(super) struct World {
    pub(super) url: String,
    _folder: Option<tempfile::TempDir>,
    config: Config,
    life: Option<Life>,
    pub(super) callers: Vec<Caller>,
    pub(super) clients: Vec<Client>,
    /// Until when invoices were made.
    invoiced: Timestamp,
}

impl World {
    pub(super) fn on_sqlite() -> Self {
        Self::on_sqlite_that(Durability::Power)
    }

    pub(super) fn on_sqlite_that(survives: Durability) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/t.db", folder.path().display());
        Self::on(url, Some(folder), survives)
    }

    pub(super) fn on_postgres() -> Self {
        let name = format!("w{}", Uuid::now_v7().simple());
        Self::on(shared_cluster().database(&name), None, Durability::Power)
    }

    fn on(url: String, folder: Option<tempfile::TempDir>, survives: Durability) -> Self {
        let mut config = Config::parse(CONFIG).unwrap();
        config.ledger.lease_s = 3;
        config.ledger.durability = survives;
        let mut world = Self {
            url,
            _folder: folder,
            config,
            life: None,
            callers: Vec::new(),
            clients: Vec::new(),
            invoiced: Timestamp::UNIX_EPOCH,
        };
        world.begin();
        world.callers = world.make_tenants();
        world
    }

    fn begin(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let worker = Arc::new(Scripted::default());
        let started = Arc::clone(&worker) as Arc<dyn Worker>;
        let app = runtime.block_on(async {
            let store = store::open_with(&self.url, self.config.ledger.durability)
                .await
                .unwrap();
            App::build(&self.config, store, |_| {
                let assigned = Assigned {
                    pools: vec![MODEL.into()],
                    worker: started,
                };
                Ok(Workers {
                    fixed: vec![assigned],
                    found: Vec::new(),
                })
            })
            .await
        });
        self.life = Some(Life {
            runtime,
            app: app.unwrap(),
            worker,
        });
    }

    fn make_tenants(&self) -> Vec<Caller> {
        let life = self.life();
        let store = Arc::clone(&life.app.store);
        let make = async |number: usize| {
            let admin = Admin {
                store: &*store,
                actor: Actor::Server,
            };
            let organisation = store.find_organisation("default").await.unwrap().id;
            let name = format!("tenant-{number}");
            let project = admin.ensure_project(&organisation, &name).await.unwrap();
            Caller {
                organisation,
                project: project.id,
                key: format!("key_{number}").as_str().into(),
            }
        };
        life.runtime.block_on(async {
            let mut callers = Vec::new();
            for number in 0..TENANTS {
                callers.push(make(number).await);
            }
            callers
        })
    }

    pub(super) fn life(&self) -> &Life {
        self.life.as_ref().unwrap()
    }

    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Ask {
                tenant,
                max_tokens,
                batch,
                streams,
            } => self.ask(Asked {
                tenant,
                max_tokens,
                batch,
                streams,
            }),
            Act::AskAgain(which) => {
                let failed =
                    |client: &&Client| matches!(client.fate(), Some(Fate::Broken | Fate::Refused));
                let failed: Vec<_> = self.clients.iter().filter(failed).collect();
                if let Some(asked) = pick(&failed, which).map(|client| client.asked) {
                    self.ask(asked);
                }
            }
            Act::Order(which, order) => {
                let running: Vec<_> = self.running().collect();
                if let Some(client) = pick(&running, which) {
                    // One that has ended listens no longer.
                    let _gone = client.tell.try_send(order);
                }
            }
            Act::Drop(which) => {
                let mut running: Vec<_> = self.running_mut().collect();
                let count = running.len().max(1);
                if let Some(client) = running.get_mut(which % count) {
                    client.dropped = true;
                    client.task.abort();
                }
            }
            Act::Pause(milliseconds) => pause(Duration::from_millis(milliseconds)),
            Act::Checkpoint => self.checkpoint(),
            Act::Quiet => self.quiet(),
            Act::Invoice => self.invoice(),
            Act::Crash => {
                self.crash();
                self.begin();
            }
            Act::Restart => {
                self.stop();
                self.begin();
            }
        }
    }

    pub(super) fn price(&self) -> Price {
        self.config.models_named[0]
            .prices()
            .unwrap()
            .remove(0)
            .price
    }

    fn running(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().filter(|client| client.runs())
    }

    fn running_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.clients.iter_mut().filter(|client| client.runs())
    }

    fn ask(&mut self, asked: Asked) {
        let life = self.life();
        let request = RequestId::mint();
        let (tell, run) = life.worker.expect(request.to_string());
        let ask = Ask {
            request,
            access: Arc::new(access(&self.callers[asked.tenant])),
            end_user: None,
            endpoint: Endpoint::Chat,
            model: MODEL.into(),
            choice: None,
            decision: None,
            class: if asked.batch {
                Class::Batch
            } else {
                Class::Standard
            },
            paying: Paying::default(),
            arrived: Instant::now(),
            body: Generate {
                prompts: vec![Prompt::Text(request.to_string())],
                max_tokens: Some(asked.max_tokens),
                ..Generate::default()
            },
        };
        let fate = Arc::<Mutex<_>>::default();
        let api = Arc::clone(&life.app.api);
        let tells = Arc::clone(&fate);
        let task = life.runtime.spawn(async move {
            let end = read(&api.gateway, ask, asked.streams).await;
            *tells.lock().unwrap() = Some(end);
        });
        self.clients.push(Client {
            request,
            asked,
            tell,
            run,
            task,
            fate,
            floor: Count::default(),
            dropped: false,
            sure: false,
            cut: false,
        });
    }

    /// Two commits that end more than a second from now: the second began after that second, and took along
    /// whatever had no checkpoint since now.
    fn checkpoint(&mut self) {
        let known: HashMap<_, _> = self
            .running()
            .map(|client| (client.request, client.run.count()))
            .collect();
        let life = self.life();
        let commits = &life.app.api.gateway.metrics.ledger.commits;
        pause(Duration::from_millis(1010));
        let begin = commits.get();
        // Where nothing runs there may be no commit.
        let deadline = Instant::now() + PATIENCE;
        while self.running().next().is_some() && commits.get() < begin + 2 {
            assert!(Instant::now() < deadline, "no checkpoints are taken");
            pause(Duration::from_millis(20));
        }
        for client in self.running_mut() {
            client.floor = known[&client.request];
        }
    }

    fn quiet(&mut self) {
        let ledger = &self.life().app.api.gateway.metrics.ledger;
        eventually(|| {
            let running = self.running().count();
            // Some of those that run may have got no further than a queue.
            let (open, pending) = (ledger.open.get(), ledger.pending.get());
            let all = usize::try_from(open).unwrap() <= running && pending == 0;
            all.then_some(())
                .ok_or_else(|| format!("{open} open, {pending} pending"))
        });
        for client in &mut self.clients {
            client.sure |= !client.runs();
        }
    }

    fn invoice(&mut self) {
        let life = self.life();
        // As fine as the books are kept.
        let next = self.invoiced.as_millisecond() + 1;
        let end = Timestamp::from_millisecond(Timestamp::now().as_millisecond().max(next)).unwrap();
        let period = Period {
            start: self.invoiced,
            end,
        };
        let closed = life.runtime.block_on(life.app.store.close_period(&period));
        closed.unwrap();
        self.invoiced = end;
    }

    fn crash(&mut self) {
        let Life {
            runtime, mut app, ..
        } = self.life.take().unwrap();
        let waited: Vec<_> = self
            .clients
            .iter()
            .map(|client| client.fate().is_none())
            .collect();
        runtime.block_on(async {
            app.writer.abort();
            // In the middle of a commit, for all we know.
            let _aborted = (&mut app.writer).await;
        });
        for client in &mut self.clients {
            client.cut |= !client.sure && !matches!(client.fate(), Some(Fate::Answered(_)));
            client.task.abort();
        }
        runtime.block_on(app.store.close());
        runtime.shutdown_timeout(Duration::from_secs(10));
        // A process that dies tells nobody that its ledger is gone.
        for (client, waited) in self.clients.iter().zip(waited) {
            let mut fate = client.fate.lock().unwrap();
            if waited && matches!(*fate, Some(Fate::Broken)) {
                *fate = None;
            }
        }
    }

    fn stop(&mut self) {
        for client in self.running_mut() {
            client.dropped = true;
            client.task.abort();
        }
        self.quiet();
        let Life { runtime, app, .. } = self.life.take().unwrap();
        runtime.block_on(app.close());
    }

    /// Whoever still runs goes, and the books are looked at.
    pub(super) fn end(mut self) {
        for client in self.running_mut() {
            client.dropped = true;
            client.task.abort();
        }
        self.quiet();
        eventually(|| self.rows_are_what_was_seen());
        eventually(|| self.metrics_are_the_sums());
        eventually(|| self.nothing_stays_reserved());
        self.invoice();
        self.invoices_are_the_ledger();
        self.stop();
        self.nothing_is_left_in_flight();
    }
}

impl Client {
    pub(super) fn fate(&self) -> Option<Fate> {
        self.fate.lock().unwrap().clone()
    }

    fn runs(&self) -> bool {
        !self.dropped && !self.cut && !self.task.is_finished()
    }
}

async fn read(gateway: &Arc<Gateway>, ask: Ask<Generate>, streams: bool) -> Fate {
    let mut meter = match gateway.generate(ask).await {
        Ok((_, meter)) => meter,
        Err(Error::Metering(metering::Error::Failed(Failure::Broken(_)))) => return Fate::Broken,
        Err(_) => return Fate::Refused,
    };
    if streams {
        meter.delivers();
    }
    loop {
        match meter.next().await {
            Some(Ok(Event::End { usage })) => return Fate::Answered(usage),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Fate::Broken,
        }
    }
}

pub(super) fn access(caller: &Caller) -> Access {
    Access {
        caller: caller.clone(),
        project_name: String::new(),
        models: None,
        limits: limits(caller).into(),
    }
}

pub(super) fn limits(caller: &Caller) -> [LimitSet; 2] {
    let day = Limits {
        tokens_per_day: Some(TOKENS_PER_DAY),
        budget_per_day: Some("0.0012".parse().unwrap()),
        ..Limits::default()
    };
    let together = Limits {
        concurrent: Some(CONCURRENT),
        ..Limits::default()
    };
    [
        (Scope::Project, caller.project.to_string(), day),
        (Scope::Key, caller.key.to_string(), together),
    ]
    .map(|(scope, id, limits)| LimitSet {
        scope,
        id: id.into(),
        model: None,
        limits,
    })
}

fn pick<'a, T>(all: &'a [&T], which: usize) -> Option<&'a T> {
    all.get(which.checked_rem(all.len())?).copied()
}

fn eventually(mut check: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(reason) = check() {
        assert!(Instant::now() < deadline, "{reason}");
        pause(Duration::from_millis(20));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test's own thread, which no runtime knows"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
