//! Commands by the operator's binary, against a real agent: receipts, effects, and exit codes.
use std::{fs, path::Path, process::Output, time::Duration};

use pitwall_proto::v1::{self, AgentStatus, CommandState, FindingKind};
use pitwall_tests::{
    binaries::{self, Server},
    client, plans, wait,
};

const SOON: Duration = Duration::from_secs(3);

async fn pitwall(url: &str, args: &[&str]) -> Output {
    let mut command = binaries::pitwall(url, args);
    tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it can be started")
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn team() -> String {
    plans::with(
        "  writer:
    quota: { cpu: 0.15, for: 1s }
    deliverables: { page: { checks: [\"file: page.md\"] } }
  sleeper:
    expected_within: 1s
    deliverables: { story: { checks: [\"file: story.md\"] } }
  docs:
    expected_within: 1s
    deliverables: { guide: { checks: [\"file: guide.md\"] } }
",
    )
}

/// An agent that starts one child which burns CPU, and goes on when that child is gone.
const WITH_RUNAWAY: &str = "sh -c 'while :; do :; done' & wait; while :; do sleep 1; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runaway_is_named_throttled_and_killed_by_identity() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &team());
    let _sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sh", "-c", WITH_RUNAWAY]);
    let client = client::connect(&server.url).await;
    let situation = client::until(&client, "the runaway is named", Duration::from_secs(5), |s| {
        client::finding(s, FindingKind::QuotaExceeded, "writer/cpu").is_some_and(|f| f.process.is_some())
    })
    .await;
    let finding = client::finding(&situation, FindingKind::QuotaExceeded, "writer/cpu").expect("just seen");
    let process = finding.process.clone().expect("just seen");
    assert!(finding.used.is_some_and(|used| used > 0.15), "{finding:?}");

    let held = pitwall(&server.url, &["throttle", "writer", "--cpu", "0.1", "--for", "30s"]).await;
    assert!(held.status.success(), "{}", told(&held));
    client::until(&client, "it is back within its quota", Duration::from_secs(5), |s| {
        client::finding(s, FindingKind::QuotaExceeded, "writer/cpu").is_none()
    })
    .await;
    let released = pitwall(&server.url, &["unthrottle", "writer"]).await;
    assert!(released.status.success(), "{}", told(&released));
    client::until(&client, "the lease is gone", SOON, |s| client::agent(s, "writer").leases.is_empty()).await;

    let killed = pitwall(&server.url, &["kill", "writer", "--pid", &process.pid.to_string(), "--output", "json"]).await;
    assert!(killed.status.success(), "{}", told(&killed));
    wait::until_sync("the process is gone", SOON, || {
        (!Path::new(&format!("/proc/{}", process.pid)).exists()).then_some(())
    });
    let situation = client::until(&client, "the kill is credited", SOON, |s| {
        s.interventions.iter().any(|i| i.kind == "kill" && i.outcome() == v1::InterventionOutcome::Effective)
    })
    .await;
    assert_eq!(client::status(&situation, "writer"), AgentStatus::Active, "the agent itself lives on");

    // Nothing of that pid is the agent's any more.
    let again = pitwall(&server.url, &["kill", "writer", "--pid", &process.pid.to_string()]).await;
    assert!(!again.status.success(), "{}", told(&again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_activated_where_its_sidecar_can_and_rejected_with_what_would_help() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &team());
    let _sidecar =
        binaries::sidecar(dir.path(), &server.url, "sleeper", &["--launch-on-activation", "--", "sleep", "600"]);
    let client = client::connect(&server.url).await;
    let situation = client::until(&client, "both are missing", SOON, |s| {
        client::status(s, "sleeper") == AgentStatus::Missing && client::status(s, "docs") == AgentStatus::Missing
    })
    .await;
    assert_eq!(client::agent(&situation, "sleeper").reason, "sidecar live, agent not started");
    assert_eq!(client::agent(&situation, "docs").reason, "no sidecar ever connected");

    let activated = pitwall(&server.url, &["activate", "sleeper"]).await;
    assert!(activated.status.success(), "{}", told(&activated));
    client::until(&client, "the sleeper was seen", SOON, |s| client::status(s, "sleeper") == AgentStatus::Active).await;

    let rejected = pitwall(&server.url, &["activate", "docs"]).await;
    assert_eq!(rejected.status.code(), Some(3), "{}", told(&rejected));
    assert!(told(&rejected).contains("pitwall-sidecar"), "it says what would enable it: {}", told(&rejected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_gives_the_agent_a_new_incarnation() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &team());
    let _sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let client = client::connect(&server.url).await;
    let before =
        client::until(&client, "the agent is active", SOON, |s| client::status(s, "writer") == AgentStatus::Active)
            .await;
    let before = client::agent(&before, "writer").clone();
    let restarted = pitwall(&server.url, &["restart", "writer"]).await;
    assert!(restarted.status.success(), "{}", told(&restarted));
    client::until(&client, "the new incarnation is seen", SOON, |s| {
        let now = client::agent(s, "writer");
        now.incarnation > before.incarnation && now.status() == AgentStatus::Active && now.root != before.root
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directive_lies_in_the_inbox_and_a_queued_one_can_be_cancelled() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &team());
    let _sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let client = client::connect(&server.url).await;
    client::until(&client, "the agent is active", SOON, |s| client::status(s, "writer") == AgentStatus::Active).await;
    let text = "create page.md first";
    let args = ["tell", "writer", text, "--about", "page", "--priority", "urgent"];
    let told_it = pitwall(&server.url, &args).await;
    assert!(told_it.status.success(), "{}", told(&told_it));
    let files: Vec<_> = fs::read_dir(dir.path().join("writer/inbox"))
        .expect("the inbox")
        .map(|f| f.expect("an entry").path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let name = files[0].file_name().and_then(|n| n.to_str()).expect("UTF-8").to_owned();
    assert!(name.starts_with("URGENT-") && name.ends_with(".md"), "{name}");
    assert!(fs::read_to_string(&files[0]).expect("readable").contains(text));

    // Nobody is there to take this one: it waits, and is cancelled.
    let queued = pitwall(&server.url, &["tell", "docs", "hello", "--no-wait"]).await;
    assert!(queued.status.success(), "{}", told(&queued));
    let id = String::from_utf8_lossy(&queued.stdout).trim().to_owned();
    let cancelled = pitwall(&server.url, &["cancel", &id]).await;
    assert!(cancelled.status.success() || cancelled.status.code() == Some(4), "{}", told(&cancelled));
    let ended = client::until_state(&client, &id, SOON, &[CommandState::Cancelled]).await;
    assert_eq!(ended.agent, "docs");
}

/// By the worst of what it did; what a sidecar cannot hold here is rejected, and the rest holds.
fn exit_of(commands: &[serde_json::Value]) -> i32 {
    let worst = ["UNKNOWN", "FAILED", "REJECTED", "SUCCEEDED"];
    let is = |state: &str| commands.iter().any(|c| c["state"] == format!("COMMAND_STATE_{state}"));
    match worst.into_iter().find(|state| is(state)) {
        Some("SUCCEEDED") => 0,
        Some("FAILED") => 1,
        Some("REJECTED") => 3,
        _ => 5,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_resources_are_held_by_one_command_line_and_a_process_by_its_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plans::writer());
    let _sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sh", "-c", WITH_RUNAWAY]);
    let client = client::connect(&server.url).await;
    client::until(&client, "the agent is read", SOON * 2, |s| {
        let readout = client::agent(s, "writer").readout.as_ref();
        readout.is_some_and(|r| r.top.iter().any(|p| p.identity.as_ref().is_some_and(|i| i.name == "sh")))
    })
    .await;

    let args = ["throttle", "writer", "--cpu", "0.3", "--memory", "1GiB", "--for", "60s", "--output", "json"];
    let held = pitwall(&server.url, &args).await;
    let answer: serde_json::Value = serde_json::from_slice(&held.stdout).expect("one document");
    let commands = answer["commands"].as_array().expect("a list");
    assert_eq!(commands.len(), 2, "{}", told(&held));
    assert_eq!(commands[0]["spec"]["throttle"]["cpu_cores"], 0.3);
    assert_eq!(commands[1]["spec"]["throttle"]["resource"], "RESOURCE_MEMORY");
    assert_eq!(commands[0]["state"], "COMMAND_STATE_SUCCEEDED", "{}", told(&held));
    assert!(commands[0]["detail"].as_str().is_some_and(|d| d.starts_with("asked 0.30, measured ")), "{answer}");
    assert_eq!(held.status.code(), Some(exit_of(commands)), "{}", told(&held));

    let other = pitwall(&server.url, &["throttle", "writer", "--cpu", "0.3", "--for", "60s", "--via", "magic"]).await;
    assert_eq!(other.status.code(), Some(3), "{}", told(&other));
    assert!(told(&other).contains("throttle.cpu.magic") && told(&other).contains("throttle.cpu."), "{}", told(&other));
    let long = pitwall(&server.url, &["throttle", "writer", "--cpu", "0.3", "--freeze", "--for", "5m"]).await;
    assert_eq!(long.status.code(), Some(2), "nothing is issued where one is wrong: {}", told(&long));

    let released = pitwall(&server.url, &["unthrottle", "writer", "--resource", "cpu"]).await;
    assert!(released.status.success() && told(&released).contains("undone"), "{}", told(&released));
    // Its root and the runaway have one name.
    let several = pitwall(&server.url, &["kill", "writer", "sh"]).await;
    assert_eq!(several.status.code(), Some(3), "{}", told(&several));
    assert!(told(&several).contains("PROCESS_AMBIGUOUS"), "{}", told(&several));
    let nobody = pitwall(&server.url, &["kill", "writer", "java", "--tree"]).await;
    assert_eq!(nobody.status.code(), Some(64), "{}", told(&nobody));
}
