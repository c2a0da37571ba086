//! What a sidecar does by itself, for real: quotas that act while nobody commands, crash loops that are given up, services
//! that come back, notes for the next life, health.
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use pitwall_proto::v1::{self, CommandState, DeliverableStatus, FindingKind, command_spec::Kind};
use pitwall_tests::{
    binaries::{self, Running, Server},
    cgroup,
    client::{self, Client},
    plans, surroundings, wait,
};

const SOON: Duration = Duration::from_secs(5);
/// A sample, the time above the limit, the act, and what a busy machine adds.
const ACTS_WITHIN: Duration = Duration::from_secs(8);

/// One agent with this beside a deliverable that it never delivers.
fn plan(policy: &str) -> String {
    plans::with(&format!("  writer:\n    deliverables: {{ page: {{ checks: [ file: page ] }} }}\n{policy}"))
}

fn agent(dir: &Path, server: &Server, script: &str) -> Running {
    binaries::sidecar(dir, &server.url, "writer", &["--", "sh", "-c", script])
}

fn workspace(dir: &Path) -> PathBuf {
    dir.join("writer/workspace")
}

async fn events(client: &mut Client, kind: &str) -> Vec<String> {
    let request = v1::ListEventsRequest { limit: 2_000, ..Default::default() };
    let events = client.list_events(request).await.expect("events").into_inner().events;
    events.into_iter().filter(|e| e.kind == kind).map(|e| e.text).collect()
}

async fn until_event(client: &Client, kind: &str, within: Duration, fits: impl Fn(&str) -> bool) -> String {
    wait::until(&format!("an event {kind}"), within, || {
        let (mut client, fits) = (client.clone(), &fits);
        async move { events(&mut client, kind).await.into_iter().find(|text| fits(text)) }
    })
    .await
}

async fn until_finding(client: &Client, kind: FindingKind, subject: &str, within: Duration) -> v1::Finding {
    let fits = |s: &v1::Situation| client::finding(s, kind, subject).is_some();
    let situation = client::until(client, &format!("a finding about {subject}"), within, fits).await;
    client::finding(&situation, kind, subject).cloned().expect("just seen")
}

/// The process of this name that works in the folder, with its resident memory in bytes.
fn process(folder: &Path, name: &str) -> Option<(i32, u64)> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let own = fs::read_link(entry.path().join("cwd")).ok()?.starts_with(folder);
        let called = fs::read_to_string(entry.path().join("comm")).ok()?.trim() == name;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kilobytes: u64 = resident.trim().strip_suffix(" kB")?.parse().ok()?;
        (own && called).then_some((pid, kilobytes * 1_024))
    })
}

/// Waits for a file, then keeps 150 MB in `tail`, which gets them through a pipe that stays open. Its shell lives on.
const HOG: &str = "while [ ! -e go ]; do sleep 0.1; done
    { head -c 150000000 /dev/zero; exec sleep 600; } | tail > /dev/null &
    exec sleep 600";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_hog_is_killed_by_its_sidecar_while_nobody_commands() {
    let dir = tempfile::tempdir().expect("a folder");
    let policy = "    quota: { memory: { soft: 50MB, hard: 100MB, for: 1s, on_exceed: kill_process } }\n";
    let server = Server::start(dir.path(), &plan(policy));
    let address = server.address().to_owned();
    let sidecar = agent(dir.path(), &server, HOG);
    let client = client::connect(&server.url).await;
    client::until(&client, "the agent is seen", SOON, |s| client::agent(s, "writer").incarnation == 1).await;
    drop(client);
    server.process.kill();

    fs::write(workspace(dir.path()).join("go"), "").expect("written");
    let big = |(_, bytes): &(i32, u64)| *bytes > 100_000_000;
    let (hog, _) = wait::until_sync("the hog is big", SOON, || process(&workspace(dir.path()), "tail").filter(big));
    wait::until_sync("the hog is gone", ACTS_WITHIN, || {
        process(&workspace(dir.path()), "tail").is_none_or(|(pid, _)| pid != hog).then_some(())
    });
    let left = process(&workspace(dir.path()), "sleep");
    assert!(left.is_some(), "nothing else was killed");

    let server = Server::serve(&dir.path().join("plan.yaml"), &dir.path().join("data"), &address);
    let client = client::connect(&server.url).await;
    let acted = until_event(&client, "quota_acted", SOON, |_| true).await;
    assert!(acted.contains(&format!("killed tail (pid {hog})")), "{acted}");
    let finding = until_finding(&client, FindingKind::QuotaExceeded, "writer/memory", SOON).await;
    assert!(finding.message.ends_with(&format!("killed tail (pid {hog})")), "{}", finding.message);
    drop(sidecar);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_throttles_with_the_orchestrator_away_and_outlives_the_ttl() {
    let test = "a_quota_throttles_with_the_orchestrator_away_and_outlives_the_ttl";
    let dir = tempfile::tempdir().expect("a folder");
    let policy = "    quota: { cpu: { hard: 0.3, for: 1s, on_exceed: throttle } }\n";
    let server = Server::start(dir.path(), &plan(policy));
    let address = server.address().to_owned();
    let script = "while [ ! -e go ]; do sleep 0.1; done; while [ -e go ]; do :; done; exec sleep 600";
    let sidecar = agent(dir.path(), &server, script);
    let client = client::connect(&server.url).await;
    let seen = client::until(&client, "the agent is seen", SOON, |s| client::agent(s, "writer").incarnation == 1).await;
    let pid = client::agent(&seen, "writer").root.as_ref().map_or(0, |p| p.pid);
    let limit = cgroup::cpu_limit(pid);
    if !surroundings::have(test, "cgroup", limit.map(drop)) {
        return;
    }
    drop(client);
    server.process.kill();
    fs::write(workspace(dir.path()).join("go"), "").expect("written");
    wait::until_sync("it is held", ACTS_WITHIN, || (cgroup::cpu_limit(pid) == Ok(Some(0.3))).then_some(()));

    let server = Server::serve(&dir.path().join("plan.yaml"), &dir.path().join("data"), &address);
    let client = client::connect(&server.url).await;
    let finding = until_finding(&client, FindingKind::QuotaExceeded, "writer/cpu", SOON).await;
    assert!(finding.message.ends_with("held at 0.30 cores"), "{}", finding.message);
    assert_eq!(cgroup::cpu_limit(pid), Ok(Some(0.3)), "an orchestrator that comes back does not end it");
    fs::remove_file(workspace(dir.path()).join("go")).expect("removed");
    let released = Duration::from_secs(15);
    wait::until_sync("it is released", released, || (cgroup::cpu_limit(pid) == Ok(None)).then_some(()));
    drop(sidecar);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loop_is_given_up_and_an_operator_begins_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let policy = "    restart: { on: failure, backoff: 100ms, backoff_max: 400ms, max: 2 }\n";
    let server = Server::start(dir.path(), &plan(policy));
    let sidecar = agent(dir.path(), &server, "[ -e good ] && exec sleep 600; exit 3");
    let mut client = client::connect(&server.url).await;
    let gave_up = until_finding(&client, FindingKind::RestartsGaveUp, "writer", ACTS_WITHIN).await;
    assert!(gave_up.message.contains("code 3") && gave_up.message.contains("2 times in a row"), "{}", gave_up.message);
    let inbox = dir.path().join("writer/inbox");
    for note in ["RESUME-2.md", "RESUME-3.md"] {
        let text = fs::read_to_string(inbox.join(note)).unwrap_or_else(|e| panic!("{note}: {e}"));
        assert!(text.contains("ended with code 3") && text.contains("- page"), "{text}");
    }
    assert!(!inbox.join("RESUME-4.md").exists(), "no further life was begun");
    let situation = client::situation(&mut client).await;
    assert_eq!(client::agent(&situation, "writer").incarnation, 3);

    fs::write(workspace(dir.path()).join("good"), "").expect("written");
    let restart = client::issue(&mut client, "writer", Kind::Restart(v1::Restart::default())).await.expect("issued");
    client::until_state(&client, &restart.id, SOON, &[CommandState::Succeeded]).await;
    client::until(&client, "the finding is closed", SOON, |s| {
        client::finding(s, FindingKind::RestartsGaveUp, "writer").is_none()
    })
    .await;
    let text = fs::read_to_string(inbox.join("RESUME-4.md")).expect("a note for the life that the operator began");
    assert!(text.contains(&restart.id), "{text}");
    drop(sidecar);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_inside_an_agent_is_killed_for_its_own_quota_and_watched_for_its_return() {
    let dir = tempfile::tempdir().expect("a folder");
    let policy = "    processes:
      worker: { match: { name: sleep, command: sleep 54321 }, quota: { memory: { hard: 4KiB, for: 1s, cooldown: 1h } }, on_exceed: kill_process }
";
    let server = Server::start(dir.path(), &plan(policy));
    let sidecar = agent(dir.path(), &server, "while :; do sleep 54321; done");
    let client = client::connect(&server.url).await;
    let acted = until_event(&client, "quota_acted", ACTS_WITHIN, |_| true).await;
    assert!(acted.starts_with("worker: used ") && acted.contains("killed sleep (pid "), "{acted}");
    let returned = until_event(&client, "process_returned", SOON, |_| true).await;
    assert!(returned.starts_with("worker came back after "), "{returned}");
    until_finding(&client, FindingKind::QuotaExceeded, "writer/worker/memory", SOON).await;
    let mut client = client;
    assert_eq!(events(&mut client, "quota_acted").await.len(), 1, "once in its cooldown");
    drop(sidecar);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unhealthy_agent_is_told_and_started_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let policy = format!(
        "    restart: {{ backoff: 100ms, max: 1 }}
    health: {{ web: {{ tcp: \"{address}\", every: 300ms, failures: 2, startup: {{ within: 1s }}, on_failure: restart }} }}\n"
    );
    let server = Server::start(dir.path(), &plan(&policy));
    let sidecar = agent(dir.path(), &server, "exec sleep 600");
    let client = client::connect(&server.url).await;
    until_event(&client, "health", SOON, |text| text.contains("web is well")).await;
    drop(listener);
    let finding = until_finding(&client, FindingKind::Unhealthy, "writer/web", ACTS_WITHIN).await;
    assert!(finding.message.contains("refused"), "{}", finding.message);
    client::until(&client, "it is started again", ACTS_WITHIN, |s| client::agent(s, "writer").incarnation == 2).await;
    let note = fs::read_to_string(dir.path().join("writer/inbox/RESUME-2.md")).expect("a note");
    assert!(note.contains("health check web failed"), "{note}");
    until_finding(&client, FindingKind::RestartsGaveUp, "writer", ACTS_WITHIN).await;
    let back = std::net::TcpListener::bind(address).expect("the port is free");
    client::until(&client, "it is well again", ACTS_WITHIN, |s| {
        client::finding(s, FindingKind::Unhealthy, "writer/web").is_none()
    })
    .await;
    drop((back, sidecar));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_health_is_asked_of_a_real_server() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let listen = format!("127.0.0.1:{port}");
    let text = plans::with(&format!(
        "  writer:
    deliverables:
      serves: {{ checks: [ \"grpc: {listen}\" ] }}
      strange: {{ checks: [ {{ grpc: {{ address: \"{listen}\", service: nobody.knows }} }} ] }}
    health: {{ api: {{ grpc: \"{listen}\", every: 300ms }} }}\n"
    ));
    let file = dir.path().join("plan.yaml");
    fs::write(&file, text).expect("written");
    let server = Server::serve_with(&file, &dir.path().join("data"), &listen, &["--insecure"]);
    let sidecar = agent(dir.path(), &server, "exec sleep 600");
    let client = client::connect(&server.url).await;
    client::until(&client, "its health is seen", ACTS_WITHIN, |s| {
        client::deliverable(s, "writer", "serves").status() == DeliverableStatus::Verified
    })
    .await;
    let situation = client::until(&client, "an unknown service fails", ACTS_WITHIN, |s| {
        client::deliverable(s, "writer", "strange").checks[0].outcome() == v1::Outcome::Failed
    })
    .await;
    let check = &client::deliverable(&situation, "writer", "strange").checks[0];
    let summary = check.evidence.as_ref().map_or("", |e| e.summary.as_str());
    assert!(summary.contains("unknown to its server"), "{summary}");
    until_event(&client, "health", SOON, |text| text.contains("api is well")).await;
    drop(sidecar);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_workspace_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plan("    quota: { disk: 1MiB, for: 1s }\n"));
    let script = "mkdir -p node_modules; head -c 3000000 /dev/zero > node_modules/big; exec sleep 600";
    let sidecar = agent(dir.path(), &server, script);
    let client = client::connect(&server.url).await;
    let finding = until_finding(&client, FindingKind::QuotaExceeded, "writer/disk", ACTS_WITHIN).await;
    assert!(finding.used.is_some_and(|used| (3e6..4e6).contains(&used)), "{finding:?}");
    drop(sidecar);
}
