use std::path::Path;
use std::process::Stdio;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use loadtest::ports;
use tokio::net::TcpStream;
use tokio::process::Command;

use super::Gateways;
use super::client::{Ask, load};
use super::instant::HELD;
use crate::gateway::Gateway;
use crate::process::{Process, Scratch};

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// It travels in this binary, so that the test runs from any folder.
const TENSORZERO: &str = include_str!("../../peers/tensorzero.py");
const PATH: &str = "/v1/chat/completions";

/// Whoever is measured.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) path: String,
    pub(super) model: String,
    pub(super) key: String,
}

impl Target {
    pub(super) fn ask(&self, stream: bool) -> Ask {
        Ask {
            address: self.address.clone(),
            path: self.path.clone(),
            key: self.key.clone(),
            model: self.model.clone(),
            stream,
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not NAME=HOST:PORT,MODEL[,KEY]");
        let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
        let mut parts = rest.split(',');
        let (address, model) = (parts.next(), parts.next());
        let (address, model) = address.zip(model).ok_or_else(wrong)?;
        if !address.starts_with("127.0.0.1:") {
            return Err(format!("{address:?} is not on 127.0.0.1"));
        }
        Ok(Self {
            name: name.into(),
            address: address.into(),
            path: PATH.into(),
            model: model.into(),
            key: parts.next().unwrap_or("none").into(),
        })
    }
}

/// The upstream and what stands before it.
pub(super) struct Servers {
    pub(super) targets: Vec<Target>,
    processes: Vec<(&'static str, Process)>,
    upstream: u16,
}

impl Servers {
    pub(super) async fn start(gateways: &Gateways, scratch: &Scratch) -> Result<Self> {
        let (forebay, nginx) = (&gateways.forebay_bin, &gateways.nginx_bin);
        let upstream = match gateways.upstream_port {
            Some(port) => port,
            None => ports::free()?,
        };
        let mut servers = Self {
            targets: Vec::new(),
            processes: Vec::new(),
            upstream,
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["instant", "--port", &upstream.to_string()]);
        servers
            .add("direct", upstream, "none", command, scratch)
            .await?;
        let port = ports::free()?;
        let command = nginx_command(nginx, port, upstream, scratch)?;
        servers.add("nginx", port, "none", command, scratch).await?;
        for (name, durability) in [("forebay", "process"), ("forebay-power", "power")] {
            servers
                .forebay(forebay, name, durability, upstream, scratch)
                .await?;
        }
        if let Some(programs) = &gateways.peers_bin {
            servers.peers(programs, scratch).await?;
        }
        servers.targets.extend(gateways.peers.iter().cloned());
        Ok(servers)
    }

    async fn forebay(
        &mut self,
        binary: &Path,
        name: &'static str,
        durability: &str,
        upstream: u16,
        scratch: &Scratch,
    ) -> Result<()> {
        let (target, process) = forebay(binary, name, durability, upstream, scratch).await?;
        self.targets.push(target);
        self.processes.push((name, process));
        Ok(())
    }

    /// A Forebay before the upstream that has done nothing yet.
    pub(super) async fn fresh(
        &self,
        binary: &Path,
        scratch: &Scratch,
    ) -> Result<(Target, Process)> {
        forebay(binary, "fresh", "process", self.upstream, scratch).await
    }

    /// Other gateways, from a virtual environment that has their packages.
    async fn peers(&mut self, programs: &Path, scratch: &Scratch) -> Result<()> {
        self.tensorzero(&programs.join("python"), scratch).await?;
        for (name, rest) in [("smg", &["launch"][..]), ("vllm-router", &[])] {
            let port = ports::free()?;
            let mut command = Command::new(programs.join(name));
            command
                .args(rest)
                .args(["--host", "127.0.0.1", "--port", &port.to_string()])
                // None that looks at prompts, for there is one worker.
                .args(["--policy", "round_robin", "--log-level", "error"])
                .args(["--prometheus-host", "127.0.0.1"])
                .args(["--prometheus-port", &ports::free()?.to_string()])
                .args([
                    "--worker-urls",
                    &format!("http://127.0.0.1:{}", self.upstream),
                ]);
            self.add(name, port, "none", command, scratch).await?;
            self.answers().await?;
        }
        Ok(())
    }

    /// Its HTTP gateway, without a database.
    async fn tensorzero(&mut self, python: &Path, scratch: &Scratch) -> Result<()> {
        let upstream = self.upstream;
        let config = scratch.file("tensorzero.toml");
        let text = format!(
            "[gateway]\nobservability.enabled = false\n[models.big]\nrouting = [\"upstream\"]\n\
             [models.big.providers.upstream]\ntype = \"openai\"\nmodel_name = \"big\"\n\
             api_base = \"http://127.0.0.1:{upstream}/v1/\"\napi_key_location = \"none\"\n"
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new(python);
        command
            .args(["-c", TENSORZERO])
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Process::start("tensorzero", &mut command, scratch)?;
        let ready = tokio::time::timeout(PATIENCE, process.ready()).await;
        let ready = ready.context("tensorzero does not get ready")??;
        let url = ready
            .strip_prefix("http://")
            .and_then(|url| url.split_once('/'));
        let (address, path) = url.with_context(|| format!("tensorzero said READY {ready}"))?;
        self.targets.push(Target {
            name: "tensorzero".into(),
            address: address.into(),
            path: format!("/{path}/chat/completions"),
            model: "tensorzero::model_name::big".into(),
            key: "none".into(),
        });
        self.processes.push(("tensorzero", process));
        self.answers().await
    }

    /// Waits until the last one answers: some listen before they know their upstream.
    async fn answers(&self) -> Result<()> {
        let target = self.targets.last().context("there is nobody")?;
        let deadline = Instant::now() + PATIENCE;
        while load(&target.ask(false), 1, Duration::from_millis(1))
            .await?
            .failed
            > 0
        {
            if Instant::now() > deadline {
                bail!("{} does not answer", target.name);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn add(
        &mut self,
        name: &'static str,
        port: u16,
        key: &str,
        mut command: Command,
        scratch: &Scratch,
    ) -> Result<()> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = Process::start(name, &mut command, scratch)?;
        let address = format!("127.0.0.1:{port}");
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(&address).await.is_err() {
            process.check_alive()?;
            if Instant::now() > deadline {
                bail!("{name} does not listen: {}", process.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.processes.push((name, process));
        self.targets.push(Target {
            name: name.into(),
            address,
            path: PATH.into(),
            model: "big".into(),
            key: key.into(),
        });
        Ok(())
    }

    pub(super) fn check_alive(&mut self) -> Result<()> {
        self.processes
            .iter_mut()
            .try_for_each(|(_, process)| process.check_alive())
    }

    /// The resident memory of each, in KiB.
    pub(super) fn memory(&self) -> Result<Vec<(&'static str, u64)>> {
        let alive = self
            .processes
            .iter()
            .filter_map(|(name, process)| Some((*name, process.id()?)));
        alive.map(|(name, id)| Ok((name, resident(id)?))).collect()
    }
}

/// With a key of a project that has limits of every kind, and a price.
async fn forebay(
    binary: &Path,
    name: &'static str,
    durability: &str,
    upstream: u16,
    scratch: &Scratch,
) -> Result<(Target, Process)> {
    let rest = format!(
        "[ledger]\ndurability = \"{durability}\"\n\
         [[worker]]\nname = \"instant\"\nengine = \"remote\"\nurl = \"http://127.0.0.1:{upstream}\"\nmodels = [\"big\", \"{HELD}\"]\nslots = 1024\n\
         [[model]]\nname = \"big\"\nprice = {{ prompt = \"0.1\", completion = \"0.2\" }}\n\
         [[model]]\nname = \"{HELD}\"\n"
    );
    let gateway = Gateway::start(binary, name, &rest, scratch).await?;
    let limits = [
        "--requests-per-minute",
        "100000000",
        "--tokens-per-minute",
        "100000000000",
        "--concurrent",
        "100000",
        "--budget-month",
        "100000000",
    ];
    let target = Target {
        name: name.into(),
        address: format!("127.0.0.1:{}", gateway.port),
        path: PATH.into(),
        model: "big".into(),
        key: gateway.project("bench", &limits).await?,
    };
    Ok((target, gateway.process))
}

/// What a process has resident, in KiB.
pub(super) fn resident(id: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmRSS")?.parse()?)
}

/// nginx as a plain reverse proxy that keeps its connections and passes streams on as they come.
fn nginx_command(nginx: &Path, port: u16, upstream: u16, scratch: &Scratch) -> Result<Command> {
    let folder = scratch.file("nginx");
    std::fs::create_dir_all(&folder)?;
    let config = folder.join("nginx.conf");
    let folder = folder.display();
    let text = format!(
        "daemon off;\nworker_processes auto;\npid {folder}/nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections 4096; }}\nhttp {{\n  access_log off;\n  tcp_nodelay on;\n  keepalive_requests 100000000;\n\
         client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n  fastcgi_temp_path {folder}/fastcgi;\n\
         uwsgi_temp_path {folder}/uwsgi;\n  scgi_temp_path {folder}/scgi;\n\
         upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 100000000; }}\n\
         server {{\n  listen 127.0.0.1:{port};\n  location / {{\n    proxy_pass http://up;\n    proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\n    proxy_buffering off;\n  }}\n }}\n}}\n"
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(nginx);
    command
        .arg("-c")
        .arg(&config)
        .arg("-p")
        .arg(format!("{folder}/"))
        .args(["-e", "stderr"]);
    Ok(command)
}
