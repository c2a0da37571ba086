//! Either side killed with -9 in the middle: nothing acknowledged is lost, nothing happens twice, limits end.
use std::{fs, path::Path, process::Command, time::Duration};

use pitwall_proto::v1::{
    self, AgentStatus, CommandState, DeliverableStatus, Outcome, SidecarStatus, command_spec::Kind,
};
use pitwall_tests::{
    binaries::{self, Running, Server},
    cgroup, client, plans, surroundings, wait,
};

const SOON: Duration = Duration::from_secs(3);
const FINISHED: &str = "export default function Page() { return null }\n";
/// Four heartbeats of the plan.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// A throttle's use is measured for 5 s before it is said to hold.
const MEASURED: Duration = Duration::from_secs(15);

fn write_page(dir: &Path) {
    let app = dir.join("writer/workspace/app");
    fs::create_dir_all(&app).expect("the folder can be made");
    fs::write(app.join("page.tsx"), FINISHED).expect("the page can be written");
}

fn directive(text: &str) -> Kind {
    Kind::Directive(v1::Directive { text: text.into(), ..Default::default() })
}

fn inbox(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir.join("writer/inbox")).expect("the inbox");
    let mut texts: Vec<String> =
        files.map(|f| fs::read_to_string(f.expect("an entry").path()).expect("a directive")).collect();
    texts.sort();
    texts
}

fn serve_again(dir: &Path, address: &str) -> Server {
    Server::serve(&dir.join("plan.yaml"), &dir.join("data"), address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orchestrator_killed_in_the_middle_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plans::writer());
    let address = server.address().to_owned();
    let sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let mut client = client::connect(&server.url).await;
    client::until(&client, "the agent is active", SOON, |s| client::status(s, "writer") == AgentStatus::Active).await;
    let delivered = client::issue(&mut client, "writer", directive("before")).await.expect("issued");
    client::until_state(&client, &delivered.id, SOON, &[CommandState::Succeeded]).await;
    let before = client::situation(&mut client).await;
    // Acknowledged to this client, perhaps not sent: it must be there after the kill.
    let queued = client::issue(&mut client, "writer", directive("in the middle")).await.expect("issued");
    server.process.kill();

    // The sidecar works on: a fact that only it knows until the orchestrator is back.
    write_page(dir.path());
    let server = serve_again(dir.path(), &address);
    let mut client = client::connect(&server.url).await;
    let after = client::situation(&mut client).await;
    let (old, new) = (before.revision.expect("set"), after.revision.clone().expect("set"));
    assert_eq!(old.lineage, new.lineage);
    assert!(new.sequence >= old.sequence, "{new:?} is behind {old:?}");
    // Nobody is called lost during the grace.
    assert_ne!(client::agent(&after, "writer").sidecar(), SidecarStatus::Lost);
    assert_ne!(client::status(&after, "writer"), AgentStatus::Lost);

    client::until_state(&client, &queued.id, SOON, &[CommandState::Succeeded]).await;
    client::until(&client, "the fact of meanwhile arrives", SOON, |s| {
        client::deliverable(s, "writer", "page").status() == DeliverableStatus::Verified
    })
    .await;
    let texts = inbox(dir.path());
    assert_eq!(texts.len(), 2, "each directive once: {texts:#?}");
    let ended = client::command(&mut client, &delivered.id).await;
    let ends = ended.history.iter().filter(|s| s.state() == CommandState::Succeeded).count();
    assert_eq!(ends, 1, "a command ends once: {ended:#?}");
    drop(sidecar);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_killed_is_lost_and_comes_back_without_acting_twice() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plans::writer());
    let agent = ["--", "sleep", "600"];
    let sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &agent);
    let mut client = client::connect(&server.url).await;
    write_page(dir.path());
    let before = client::until(&client, "the page is verified", SOON, |s| {
        client::deliverable(s, "writer", "page").status() == DeliverableStatus::Verified
    })
    .await;
    let root = client::agent(&before, "writer").root.clone().expect("the agent was seen");
    let told = client::issue(&mut client, "writer", directive("once")).await.expect("issued");
    client::until_state(&client, &told.id, SOON, &[CommandState::Succeeded]).await;

    let _left = sidecar.kill();
    let lost =
        client::until(&client, "the agent is lost", LOST_AFTER, |s| client::status(s, "writer") == AgentStatus::Lost)
            .await;
    let page = client::deliverable(&lost, "writer", "page");
    assert_ne!(page.status(), DeliverableStatus::Verified, "stale evidence is never green");
    assert_eq!(page.checks[0].outcome(), Outcome::Unknown);
    assert!(Path::new(&format!("/proc/{}", root.pid)).exists(), "the agent outlives its sidecar");

    let while_lost = client::issue(&mut client, "writer", directive("twice")).await.expect("issued");
    let _sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &agent);
    let back = client::until(&client, "it is back", SOON, |s| {
        client::deliverable(s, "writer", "page").status() == DeliverableStatus::Verified
    })
    .await;
    let now = client::agent(&back, "writer");
    assert_eq!(now.root.as_ref().map(|r| (r.pid, r.start_ticks)), Some((root.pid, root.start_ticks)), "adopted");
    assert_eq!(now.incarnation, client::agent(&before, "writer").incarnation);
    client::until_state(&client, &while_lost.id, SOON, &[CommandState::Succeeded]).await;
    let texts = inbox(dir.path());
    assert_eq!(texts.len(), 2, "each directive once: {texts:#?}");
}

fn throttle(for_ms: u32, ttl_ms: u32) -> Kind {
    Kind::Throttle(v1::Throttle { cpu_cores: 0.3, for_ms, ttl_ms, ..Default::default() })
}

fn spinning(dir: &Path, server: &Server) -> Running {
    binaries::sidecar(dir, &server.url, "writer", &["--", "sh", "-c", "while :; do :; done"])
}

/// Cores that the agent's own cgroup allows it, read from the cgroup itself; `None`: no limit.
fn allowed(test: &str, pid: i32) -> Option<Option<f64>> {
    let found = cgroup::cpu_limit(pid);
    let have = surroundings::have(test, "cgroup", found.as_ref().map(|_| ()).map_err(Clone::clone));
    have.then(|| found.expect("it is there"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_adopted_by_the_next_life_and_undone_when_nobody_renews_it() {
    let test = "a_lease_is_adopted_by_the_next_life_and_undone_when_nobody_renews_it";
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plans::writer());
    let address = server.address().to_owned();
    let sidecar = spinning(dir.path(), &server);
    let mut client = client::connect(&server.url).await;
    let seen =
        client::until(&client, "the agent is active", SOON, |s| client::status(s, "writer") == AgentStatus::Active)
            .await;
    let pid = client::agent(&seen, "writer").root.as_ref().expect("seen").pid;
    let Some(before) = allowed(test, pid) else { return };
    assert_eq!(before, None, "the agent begins without a limit");
    let held = client::issue(&mut client, "writer", throttle(60_000, 3_000)).await.expect("issued");
    let ends = [CommandState::Succeeded, CommandState::Failed, CommandState::Rejected];
    let held = client::until_state(&client, &held.id, MEASURED, &ends).await;
    assert_eq!(held.state(), CommandState::Succeeded, "{held:#?}");
    assert_eq!(allowed(test, pid), Some(Some(0.3)));

    // The next life adopts it: still held, and renewed beyond its time to live.
    let _left = sidecar.kill();
    let sidecar = spinning(dir.path(), &server);
    let adopted_at = std::time::Instant::now();
    wait::until("the lease outlives its time to live, as it is renewed", SOON, || {
        let client = client.clone();
        let id = held.id.clone();
        async move {
            assert_eq!(allowed(test, pid), Some(Some(0.3)), "{:?} after the new life", adopted_at.elapsed());
            let now = client::situation(&mut client.clone()).await;
            let shown = client::agent(&now, "writer").leases.iter().any(|l| l.command == id);
            (shown && adopted_at.elapsed() > Duration::from_millis(3_500)).then_some(())
        }
    })
    .await;

    // Nobody renews it: undone at its time to live, and told once the orchestrator is back.
    server.process.kill();
    wait::until("the lease is undone without an orchestrator", Duration::from_secs(3), || async {
        (allowed(test, pid) == Some(None)).then_some(())
    })
    .await;
    let server = serve_again(dir.path(), &address);
    let client = client::connect(&server.url).await;
    client::until(&client, "the lapse is told", Duration::from_secs(5), |s| {
        client::finding(s, v1::FindingKind::LeaseLapsed, "writer").is_some()
            && client::agent(s, "writer").leases.is_empty()
    })
    .await;
    drop(sidecar);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_ended_while_the_sidecar_was_dead_is_undone_at_its_start() {
    let test = "a_lease_that_ended_while_the_sidecar_was_dead_is_undone_at_its_start";
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plans::writer());
    let sidecar = spinning(dir.path(), &server);
    let mut client = client::connect(&server.url).await;
    let seen =
        client::until(&client, "the agent is active", SOON, |s| client::status(s, "writer") == AgentStatus::Active)
            .await;
    let pid = client::agent(&seen, "writer").root.as_ref().expect("seen").pid;
    if allowed(test, pid).is_none() {
        return;
    }
    let issued_at = std::time::Instant::now();
    let held = client::issue(&mut client, "writer", throttle(14_000, 60_000)).await.expect("issued");
    client::until_state(&client, &held.id, MEASURED, &[CommandState::Succeeded]).await;
    let _left = sidecar.kill();
    client::until(&client, "the agent is lost", LOST_AFTER, |s| client::status(s, "writer") == AgentStatus::Lost).await;
    // Past its end, which counts whether anybody is there or not.
    wait::until("the end has passed", Duration::from_secs(20), || async {
        (issued_at.elapsed() > Duration::from_secs(16)).then_some(())
    })
    .await;
    assert_eq!(allowed(test, pid), Some(Some(0.3)), "nobody was there to undo it");
    let _sidecar = spinning(dir.path(), &server);
    wait::until("the lease is undone at the start", SOON, || async {
        (allowed(test, pid) == Some(None)).then_some(())
    })
    .await;
    client::until(&client, "no lease is shown", SOON, |s| client::agent(s, "writer").leases.is_empty()).await;
}

#[test]
fn terminating_the_sidecar_ends_the_agent_it_started() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plans::writer());
    let mut sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "607"]);
    let alive = || {
        let listed = Command::new("pgrep").args(["-f", "^sleep 607"]).output().expect("pgrep is there");
        listed.status.success()
    };
    wait::until_sync("the agent runs", SOON, || alive().then_some(()));
    sidecar.signal(rustix::process::Signal::TERM);
    let status = sidecar.ended(Duration::from_secs(10));
    assert!(status.success(), "{status:?}: {:#?}", sidecar.stderr());
    assert!(!alive(), "the agent outlived a terminated sidecar");
}
