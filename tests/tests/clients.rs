//! Real clients that know nothing of this code: grpcurl and Python, driven by the scripts in `clients/`.
use std::{path::Path, process::Command, time::Duration};

use pitwall_proto::v1::AgentStatus;
use pitwall_tests::{
    binaries::{self, Server},
    client, surroundings,
};

const PLAN: &str = "
project: clients
agents:
  writer:
    deliverables:
      page: { checks: [ { file: page.md } ] }
";

fn clients(test: &str) -> bool {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/.venv/bin/grpcurl");
    let found = if installed.exists() { Ok(()) } else { Err("run tests/clients/setup.sh".to_owned()) };
    surroundings::have(test, "clients", found)
}

/// Runs one script against a server with one live sidecar.
async fn drive(script: &str, interpreter: Option<&str>) {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), PLAN);
    let _sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let watcher = client::connect(&server.url).await;
    client::until(&watcher, "the agent is seen", Duration::from_secs(10), |s| {
        client::status(s, "writer") == AgentStatus::Active
    })
    .await;

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let mut command = match interpreter {
        Some(name) => {
            let mut command = Command::new(folder.join(".venv/bin").join(name));
            command.arg(folder.join(script));
            command
        }
        None => Command::new(folder.join(script)),
    };
    let address = server.address().to_owned();
    let operator = binaries::operator(&server.url).expect("it has certificates");
    let output = tokio::task::spawn_blocking(move || command.args([&address, "writer"]).arg(operator).output())
        .await
        .expect("it does not panic")
        .expect("the script can be started");
    assert!(
        output.status.success(),
        "{script}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcurl_lists_describes_watches_and_issues() {
    if clients("grpcurl_lists_describes_watches_and_issues") {
        drive("grpcurl.sh", None).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_lists_watches_and_issues_by_reflection_alone() {
    if clients("python_lists_watches_and_issues_by_reflection_alone") {
        drive("client.py", Some("python3")).await;
    }
}
