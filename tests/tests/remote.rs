//! Remote control: from another network namespace, with nothing but an address and an identity, by the command line, by
//! grpcurl and by Python; and what is not let in from there.
use std::{path::Path, process::Command, time::Duration};

use pitwall_proto::v1::AgentStatus;
use pitwall_tests::{
    binaries::{self, Server},
    client, identities,
    netns::Netns,
    plans, surroundings,
};

const TEST: &str = "from_another_host_by_certificates";

async fn run(mut command: Command) -> (bool, String) {
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let output = output.expect("it can be started");
    (output.status.success(), identities::told(&output))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_another_host_by_certificates() {
    let Some(there) = Netns::new(TEST) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let plan = dir.path().join("plan.yaml");
    std::fs::write(&plan, plans::writer()).expect("the plan can be written");
    let server = Server::serve_with(&plan, &dir.path().join("data"), "0.0.0.0:0", &["--name", &there.here]);
    let port = server.address().rsplit(':').next().expect("a port").to_owned();
    let (address, url) = (format!("{}:{port}", there.here), format!("https://{}:{port}", there.here));

    // The sidecar is over there as well.
    let token = dir.path().join("token");
    binaries::token(&server.url, "writer", &token);
    let mut beside = there.command(binaries::path("pitwall-sidecar"));
    beside.args(["--agent", "writer", "--orchestrator", &url, "--join-token-file"]).arg(&token);
    for folder in ["workspace", "inbox", "state"] {
        let path = dir.path().join("writer").join(folder);
        std::fs::create_dir_all(&path).expect("the folder can be made");
        beside.arg(format!("--{folder}")).arg(path);
    }
    beside.args(["--", "sleep", "600"]);
    let _sidecar = binaries::Running::spawn("pitwall-sidecar", beside);
    let watcher = client::connect(&server.url).await;
    let active = |s: &pitwall_proto::v1::Situation| client::status(s, "writer") == AgentStatus::Active;
    client::until(&watcher, "the sidecar over there reports", Duration::from_secs(10), active).await;

    let ann = identities::create(dir.path(), &server.url, "ann", "operator", &[]);
    let config = dir.path().join("config");
    let pitwall = |args: &[&str]| {
        let mut command = there.command(binaries::path("pitwall"));
        command.args(args).env("PITWALL_CONFIG", &config).env_remove("PITWALL_ORCHESTRATOR");
        // Nothing of this machine's own servers is found by it.
        command.env("XDG_RUNTIME_DIR", dir.path()).env("TMPDIR", dir.path());
        command
    };
    let mut add = pitwall(&["context", "add", "night", "--orchestrator", &url, "--identity"]);
    add.arg(&ann);
    for command in [add, pitwall(&["context", "use", "night"]), pitwall(&["context", "list"])] {
        let (good, told) = run(command).await;
        assert!(good, "{told}");
    }
    let (good, told) = run(pitwall(&["status"])).await;
    assert!(good && told.contains("writer"), "{told}");
    let (good, told) = run(pitwall(&["tell", "writer", "from afar", "--context", "night"])).await;
    assert!(good, "{told}");

    // Without an identity, and in plaintext.
    let (good, told) = run(pitwall(&["status", "--orchestrator", &url])).await;
    assert!(!good && told.contains("--identity"), "{told}");
    let (good, told) = run(pitwall(&["status", "--orchestrator", &format!("http://{address}"), "--insecure"])).await;
    assert!(!good && told.contains("loopback"), "{told}");

    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let installed = clients.join(".venv/bin/grpcurl");
    let found = if installed.exists() { Ok(()) } else { Err("run tests/clients/setup.sh".to_owned()) };
    if surroundings::have(TEST, "clients", found) {
        let mut grpcurl = there.command(clients.join("grpcurl.sh"));
        grpcurl.args([&address, "writer"]).arg(&ann);
        let mut python = there.command(clients.join(".venv/bin/python3"));
        python.arg(clients.join("client.py")).args([&address, "writer"]).arg(&ann);
        for command in [grpcurl, python] {
            let (good, told) = run(command).await;
            assert!(good, "{told}");
        }
    }
}
