//! The real orchestrator and real sidecars, over mTLS, that a measurement or a test of limits runs on; and what an
//! operator reads there.
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use pitwall_proto::v1;
use pitwall_tests::{
    binaries::{self, Running, Server},
    client::{self, Client},
    wait,
};

/// Until a new sidecar has joined and told its first reading.
const JOINS_WITHIN: Duration = Duration::from_secs(10);

/// Which binaries are measured.
#[derive(Clone, Debug)]
pub struct Binaries {
    pub sidecar: PathBuf,
    pub limit: PathBuf,
}

impl Binaries {
    /// From one folder, or from those that cargo fills: the sidecar that ships, and the orchestrator of a release.
    pub fn find(folder: Option<&Path>) -> Result<Self> {
        let target = std::env::current_exe()?;
        let target = target.parent().and_then(Path::parent).context("this program lies in no target folder")?;
        let (small, large) = match folder {
            Some(folder) => (folder.to_owned(), folder.to_owned()),
            None => (target.join("sidecar"), target.join("release")),
        };
        let all = Self { sidecar: small.join("pitwall-sidecar"), limit: small.join("pitwall-footprint-limit") };
        let pitwall = large.join("pitwall");
        for path in [&all.sidecar, &pitwall] {
            ensure!(
                path.exists(),
                "{} is not built: cargo build --release -p pitwall --bin pitwall && cargo build --profile sidecar \
                 -p pitwall-sidecar --bin pitwall-sidecar -p pitwall-footprint --bin pitwall-footprint-limit",
                path.display()
            );
        }
        binaries::place("pitwall", &pitwall);
        binaries::place("pitwall-sidecar", &all.sidecar);
        Ok(all)
    }
}

/// One orchestrator, its operator, and a folder of their own.
pub struct Stage {
    pub dir: tempfile::TempDir,
    pub server: Server,
    pub client: Client,
}

impl Stage {
    pub async fn new(agents: &[&str], windows: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let server = Server::start(dir.path(), &plan(agents, windows));
        let client = client::connect(&server.url).await;
        Ok(Self { dir, server, client })
    }

    pub fn sidecar(&self, agent: &str, more: &[String]) -> Running {
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        binaries::sidecar(self.dir.path(), &self.server.url, agent, &more)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub async fn agent(&self, name: &str) -> v1::Agent {
        let now = client::situation(&mut self.client.clone()).await;
        client::agent(&now, name).clone()
    }

    /// Waits for a reading that covers an interval, with so many processes at least.
    pub async fn measured(&self, name: &str, processes: u32) -> v1::Agent {
        wait::until(&format!("a reading of {name}"), JOINS_WITHIN, || async {
            let agent = self.agent(name).await;
            let readout = agent.readout.as_ref()?;
            let usage = readout.agent.as_ref()?;
            (usage.processes? >= processes && usage.cpu_cores.is_some()).then_some(agent)
        })
        .await
    }
}

fn plan(agents: &[&str], windows: &str) -> String {
    let agents: String = agents
        .iter()
        .map(|name| {
            format!("  {name}:\n    deliverables:\n      page:\n        checks:\n          - file: {{ path: app/{name}.tsx }}\n")
        })
        .collect();
    format!("project: footprint\n{windows}\nagents:\n{agents}")
}

/// A moment to be waited for, in a plain loop of a measurement.
pub async fn until(moment: Instant) {
    tokio::time::sleep_until(moment.into()).await;
}
