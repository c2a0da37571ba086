//! A real sidecar with its agent beside whatever else happens, whose agent is killed in the end: the kill gets through.
use std::{
    path::Path,
    time::{Duration, Instant},
};

use pitwall_proto::v1::{self, AgentStatus, CommandState, ProcessIdentity, command_spec::Kind};

use crate::{
    binaries::{self, Running, Server},
    client::{self, Client},
    plans,
};

const SOON: Duration = Duration::from_secs(3);

pub struct Honest {
    pub client: Client,
    root: ProcessIdentity,
    _sidecar: Running,
}

/// Of a writer, and of one whose place a test takes.
pub fn plan() -> String {
    let page = "{ deliverables: { page: { checks: [\"file: page.md\"] } } }";
    plans::with(&format!("  writer: {page}\n  noisy: {page}\n"))
}

pub fn kill(process: ProcessIdentity) -> Kind {
    Kind::Kill(v1::Kill { process: Some(process), grace_ms: 500, tree: false })
}

impl Honest {
    pub async fn start(dir: &Path, server: &Server) -> Self {
        let sidecar = binaries::sidecar(dir, &server.url, "writer", &["--", "sleep", "600"]);
        let client = client::connect(&server.url).await;
        let active = |s: &v1::Situation| client::status(s, "writer") == AgentStatus::Active;
        let seen = client::until(&client, "the agent is active", SOON, active).await;
        let root = client::agent(&seen, "writer").root.clone().expect("it was seen");
        Self { client, root, _sidecar: sidecar }
    }

    /// Soon, once.
    pub async fn is_killed(&self) {
        let began = Instant::now();
        let issued = client::issue(&mut self.client.clone(), "writer", kill(self.root.clone())).await;
        let issued = issued.expect("it is taken");
        client::until_state(&self.client, &issued.id, SOON, &[CommandState::Succeeded]).await;
        println!("killed after {:?}", began.elapsed());
    }
}
