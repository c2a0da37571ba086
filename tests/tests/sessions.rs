//! Who may speak for an agent.
use std::{fs, time::Duration};

use pitwall_proto::v1::{self, AgentStatus, FindingKind, SidecarStatus, command_spec::Kind};
use pitwall_tests::{
    binaries::{self, Server},
    client, plans, wait,
};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(3);

fn has(lines: &[String], word: &str) -> bool {
    lines.iter().any(|line| line.contains(word))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_agent_is_refused_with_the_names_that_are_known() {
    let dir = tempfile::tempdir().expect("a folder");
    // In plaintext: with certificates there is no token for an agent that the plan does not have.
    let server = Server::start_with(dir.path(), &plans::writer(), &["--insecure"]);
    let stranger = binaries::sidecar(dir.path(), &server.url, "writter", &["--", "sleep", "600"]);
    wait::until_sync("the refusal is logged", SOON, || {
        (has(&stranger.stderr(), "writter") && has(&stranger.stderr(), "it has: writer")).then_some(())
    });

    let mut client = client::connect(&server.url).await;
    let refused = client::issue(&mut client, "writter", Kind::Unthrottle(Default::default())).await;
    let status = refused.expect_err("there is no such agent");
    assert_eq!(status.code(), tonic::Code::NotFound);
    assert!(status.message().contains("writer"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_instance_for_a_live_agent_is_refused_and_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plans::writer());
    let first = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let client = client::connect(&server.url).await;
    let live =
        client::until(&client, "the first is live", SOON, |s| client::status(s, "writer") == AgentStatus::Active);
    let before = client::agent(&live.await, "writer").root.clone().expect("seen");

    let elsewhere = dir.path().join("elsewhere");
    let second = binaries::sidecar(&elsewhere, &server.url, "writer", &["--", "sleep", "600"]);
    let situation = client::until(&client, "the second is told", SOON, |s| {
        client::finding(s, FindingKind::SecondInstance, "writer").is_some()
    })
    .await;
    assert_eq!(client::agent(&situation, "writer").sidecar(), SidecarStatus::Live);
    wait::until_sync("the second says why", SOON, || has(&second.stderr(), "has a sidecar already").then_some(()));

    // When the first is lost, the second may take its place.
    let _left = first.kill();
    client::until(&client, "the second takes over", Duration::from_secs(10), |s| {
        client::agent(s, "writer").sidecar() == SidecarStatus::Live
            && client::agent(s, "writer").root.as_ref().is_some_and(|root| root.pid != before.pid)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_and_a_copy_of_its_state_only_observe_until_an_operator_adopts_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plans::writer());
    let first = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let client = client::connect(&server.url).await;
    let live =
        client::until(&client, "the first is live", SOON, |s| client::status(s, "writer") == AgentStatus::Active);
    let before = client::agent(&live.await, "writer").clone();

    // Frozen, not dead: its stream stays open while the copy of its state connects.
    first.signal(Signal::STOP);
    let state = dir.path().join("writer/state");
    let copy = dir.path().join("copy/writer/state");
    fs::create_dir_all(&copy).expect("the folder can be made");
    for entry in fs::read_dir(&state).expect("the state") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() {
            fs::copy(entry.path(), copy.join(entry.file_name())).expect("it can be copied");
        }
    }
    let second = binaries::sidecar(&dir.path().join("copy"), &server.url, "writer", &["--", "sleep", "600"]);
    wait::until_sync("the copy is refused", SOON, || has(&second.stderr(), "STATE_MOVED").then_some(()));
    first.signal(Signal::CONT);
    let cloned = |s: &v1::Situation| client::finding(s, FindingKind::SidecarCloned, "writer").is_some();
    let found = client::until(&client, "both are known", SOON, cloned).await;
    for (side, name) in [(&first, "the first"), (&second, "the copy")] {
        wait::until_sync(name, SOON, || has(&side.stderr(), "only observes").then_some(()));
    }
    assert!(!has(&second.stderr(), "started the agent"), "one agent, not two");
    assert_eq!(client::agent(&found, "writer").root, before.root);

    // The finding names both, as `PROCESS (life N on HOST)`.
    let text = client::finding(&found, FindingKind::SidecarCloned, "writer").expect("it is there").message.clone();
    let end = text.find(" (life 1 ").expect("the first is named");
    let process = text[..end].rsplit(' ').next().expect("by its process").to_owned();
    let request = v1::AdoptSidecarRequest { agent: "writer".into(), sidecar: process, ..Default::default() };
    client.clone().adopt_sidecar(request).await.expect("it is adopted");
    wait::until_sync("the first acts again", SOON, || has(&first.stderr(), "acts again").then_some(()));
    client::until(&client, "nothing is doubtful", SOON, |s| !cloned(s)).await;
}
