use std::path::Path;
use std::process::Stdio;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use loadtest::ports;
use tokio::net::TcpStream;
use tokio::process::Command;

use super::instant::HELD;
use crate::gateway::Gateway;
use crate::process::{Process, Scratch};

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Other gateways that peers/gateways.py can start.
const PEERS: [&str; 3] = ["tensorzero", "smg", "vllm-router"];
/// It travels in this binary, so that the test runs from any folder.
const SCRIPT: &str = include_str!("../../peers/gateways.py");
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
    pub(super) async fn start(
        forebay: &Path,
        nginx: &Path,
        upstream_port: Option<u16>,
        scratch: &Scratch,
    ) -> Result<Self> {
        let upstream = match upstream_port {
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
        Ok(servers)
    }

    /// With a key of a project that has limits of every kind, and a price.
    async fn forebay(
        &mut self,
        binary: &Path,
        name: &'static str,
        durability: &str,
        upstream: u16,
        scratch: &Scratch,
    ) -> Result<()> {
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
        let key = gateway.project("bench", &limits).await?;
        self.targets.push(Target {
            name: name.into(),
            address: format!("127.0.0.1:{}", gateway.port),
            path: PATH.into(),
            model: "big".into(),
            key,
        });
        self.processes.push((name, gateway.process));
        Ok(())
    }

    /// The other gateways, from a virtual environment that has their packages.
    pub(super) async fn peers(&mut self, python: &Path, scratch: &Scratch) -> Result<()> {
        for name in PEERS {
            let mut command = Command::new(python);
            command
                .args(["-c", SCRIPT, name, "--upstream", &self.upstream.to_string()])
                // An end of input is the script's sign to leave, also where this process was killed.
                .stdin(Stdio::piped())
                .stdout(Stdio::piped());
            let mut process = Process::start(name, &mut command, scratch)?;
            let ready = process.ready().await?;
            let [address, path, model] = ready.split(' ').collect::<Vec<_>>()[..] else {
                bail!("{name} said READY {ready}");
            };
            self.targets.push(Target {
                name: name.into(),
                address: address.into(),
                path: path.into(),
                model: model.into(),
                key: "none".into(),
            });
            self.processes.push((name, process));
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
        let resident = |id: u32| -> Result<u64> {
            let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let number = line.and_then(|line| line.split_whitespace().next());
            Ok(number.context("no VmRSS")?.parse()?)
        };
        let alive = self
            .processes
            .iter()
            .filter_map(|(name, process)| Some((*name, process.id()?)));
        alive.map(|(name, id)| Ok((name, resident(id)?))).collect()
    }
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
