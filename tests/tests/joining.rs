//! How a team comes to its certificates: secrets made before any server runs, tokens that are for one agent, and what is
//! told where one side speaks plaintext.
use std::{fs, path::Path, process::Command, time::Duration};

use pitwall_proto::v1::{self, AgentStatus};
use pitwall_tests::{
    binaries::{self, Running, Server},
    client, identities, plans, wait,
};

const SOON: Duration = Duration::from_secs(3);

fn agents(names: &[&str]) -> String {
    let one = |name: &&str| format!("  {name}:\n    deliverables: {{ page: {{ checks: [\"file: page.md\"] }} }}\n");
    plans::with(&names.iter().map(one).collect::<String>())
}

/// `pitwall setup`: its exit code, and what it told.
fn setup(plan: &Path, data: &Path, secrets: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(binaries::path("pitwall"));
    command.arg("setup").arg("--plan").arg(plan).arg("--data").arg(data).arg("--secrets").arg(secrets);
    let output = command.output().expect("it can be started");
    (output.status.code(), identities::told(&output))
}

fn says(running: &Running, part: &str) {
    wait::until_sync(&format!("{part} is told"), SOON, || {
        running.stderr().iter().any(|line| line.contains(part)).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_made_before_any_server_runs_and_setup_may_run_at_any_time() {
    let dir = tempfile::tempdir().expect("a folder");
    let [plan, data, secrets] = ["plan.yaml", "data", "secrets"].map(|name| dir.path().join(name));
    fs::write(&plan, agents(&["writer", "reader"])).expect("the plan can be written");
    let (code, told) = setup(&plan, &data, &secrets);
    assert!(code == Some(0) && told.matches("written").count() == 2, "{told}");
    let server = Server::serve(&plan, &data, "127.0.0.1:0");
    // The harness takes the token that is there.
    fs::create_dir_all(dir.path().join("writer")).expect("the folder can be made");
    fs::copy(secrets.join("writer.token"), dir.path().join("writer/token")).expect("it was written");
    let sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let client = client::connect(&server.url).await;
    let live = |s: &v1::Situation| client::status(s, "writer") == AgentStatus::Active;
    client::until(&client, "the sidecar joined with its secret", SOON, live).await;

    // While the server runs.
    let (code, told) = setup(&plan, &data, &secrets);
    assert_eq!(code, Some(0), "{told}");
    for part in ["not needed, has joined", "kept, not used yet"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let (_, told) = setup(&plan, &data, &dir.path().join("elsewhere"));
    assert!(told.contains("no secret for reader\n"), "{told}");
    fs::write(&plan, agents(&["writer", "reader", "late"])).expect("the plan can be written");
    let (code, told) = setup(&plan, &data, &secrets);
    assert!(code == Some(1) && told.contains("no secret for late"), "{told}");
    assert!(told.contains("pitwall token create --agent late"), "{told}");
    // And after it.
    drop((sidecar, server));
    let (code, told) = setup(&plan, &data, &secrets);
    assert!(code == Some(0) && told.matches("written").count() == 1, "{told}");
    assert!(secrets.join("late.token").exists());
}

#[test]
fn on_the_same_machine_nothing_needs_to_be_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let [plan, data] = ["plan.yaml", "data"].map(|name| dir.path().join(name));
    fs::write(&plan, agents(&["writer"])).expect("the plan can be written");
    // Only this server announces itself there.
    let pitwall = |args: &[&str]| {
        let mut command = Command::new(binaries::path("pitwall"));
        command.args(args).env("TMPDIR", dir.path()).env("PITWALL_CONFIG", dir.path()).env_remove("XDG_RUNTIME_DIR");
        for variable in ["PITWALL_ORCHESTRATOR", "PITWALL_IDENTITY", "PITWALL_CONTEXT", "PITWALL_INSECURE"] {
            command.env_remove(variable);
        }
        command
    };
    let mut serve = pitwall(&["serve", "--listen", "127.0.0.1:0"]);
    serve.arg("--plan").arg(&plan).arg("--data").arg(&data);
    let _server = Server::spawn(serve, &data);
    for args in [&["status"][..], &["token", "create", "--agent", "writer"], &["identity", "list"], &["audit"]] {
        let output = pitwall(args).output().expect("it can be started");
        assert!(output.status.success(), "{args:?}: {}", identities::told(&output));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_another_agent_is_refused_unspent() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &agents(&["writer", "reader"]));
    let token = dir.path().join("writer/token");
    fs::create_dir_all(dir.path().join("writer")).expect("the folder can be made");
    binaries::token(&server.url, "reader", &token);
    let sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    says(&sidecar, "REQUEST_ASKS_FOR_MORE");
    says(&sidecar, "spiffe://pitwall/agent/e2e/reader");
    let listed = identities::done(&server.url, &["identity", "list"]);
    assert!(listed.contains("reader") && !listed.contains("used"), "{listed}");
    // With the right one it joins, without a restart.
    binaries::token(&server.url, "writer", &token);
    let client = client::connect(&server.url).await;
    let live = |s: &v1::Situation| client::status(s, "writer") == AgentStatus::Active;
    client::until(&client, "it joined", Duration::from_secs(10), live).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_whose_answer_was_lost_is_repeated_with_the_same_key() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &agents(&["writer"]));
    let client = client::connect(&server.url).await;
    let live = |s: &v1::Situation| client::status(s, "writer") == AgentStatus::Active;
    let sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    client::until(&client, "it joined", SOON, live).await;
    drop(sidecar);
    // As if the answer had never come: the key is there, the certificate is not, and the token is spent.
    let file = dir.path().join("writer/state/identity.json");
    let text = fs::read_to_string(&file).expect("it has joined");
    let mut kept: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    kept["certificate"] = serde_json::Value::Null;
    fs::write(&file, kept.to_string()).expect("it can be written");
    let sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    says(&sidecar, "joined as spiffe://pitwall/agent/e2e/writer");
    client::until(&client, "it reports", SOON, live).await;
    drop(sidecar);
    // Another key, which is what a thief of the token has.
    fs::remove_file(&file).expect("it is there");
    let thief = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    says(&thief, "TOKEN_SPENT");
    let found = |s: &v1::Situation| client::finding(s, v1::FindingKind::TokenMisused, "writer").is_some();
    client::until(&client, "the finding opens", SOON, found).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_side_speaks_plaintext_that_is_what_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let safe = Server::start(dir.path(), &plans::writer());
    let plain_dir = dir.path().join("plain");
    fs::create_dir(&plain_dir).expect("the folder can be made");
    let plain = Server::start_with(&plain_dir, &plans::writer(), &["--insecure"]);
    let status = |url: &str, more: &[&str]| {
        let mut command = Command::new(binaries::path("pitwall"));
        let output = command.args(["status", "--orchestrator", url]).args(more).output().expect("it can be started");
        (output.status.code(), identities::told(&output))
    };
    let as_http = safe.url.replace("https://", "http://");
    let as_https = plain.url.replace("http://", "https://");
    let (code, told) = status(&as_http, &["--insecure"]);
    assert!(code == Some(69) && told.contains("https:// where it has certificates"), "{code:?} {told}");
    let operator = binaries::operator(&safe.url).expect("it has certificates");
    let (code, told) = status(&as_https, &["--identity", operator.to_str().expect("UTF-8")]);
    assert!(code == Some(69) && told.contains("does not speak TLS"), "{code:?} {told}");
    // There are no identities, and that is said.
    let mut refused = binaries::pitwall(&plain.url, &["token", "create", "--agent", "writer"]);
    let output = refused.output().expect("it can be started");
    assert_eq!(output.status.code(), Some(3));
    assert!(identities::told(&output).contains("NO_IDENTITIES"));

    let sidecar = binaries::sidecar(dir.path(), &as_http, "writer", &["--", "sleep", "600"]);
    says(&sidecar, "write https://");
}
