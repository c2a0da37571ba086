//! Sidecar, orchestrator and pause end and come back: with their volumes nothing is lost and nothing happens twice.
use std::{collections::BTreeSet, fs, time::Duration};

use pitwall_proto::v1::{AgentStatus, SidecarStatus};
use pitwall_tests::{client, identities, wait};

use crate::{
    engine::{Compose, docker, have, proven},
    stack::{SOON, Stack},
};

/// The certificate in a sidecar's state, from outside.
fn certificate(stack: &Stack, agent: &str) -> String {
    let to = stack.home.path().join("identity.json");
    docker(&[
        "cp",
        &format!("{}:/state/identity.json", stack.container(&format!("{agent}-sidecar"))),
        to.to_str().expect("UTF-8"),
    ]);
    let kept: serde_json::Value = serde_json::from_str(&fs::read_to_string(to).expect("it was copied")).expect("JSON");
    kept["certificate"]["certificate_pem"].as_str().expect("it has joined").to_owned()
}

fn enrolled(stack: &Stack) -> usize {
    let audit = identities::audit(&stack.url(), &[]);
    audit.iter().filter(|entry| entry.call.contains("Enrol") && entry.outcome == "OK").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecar_and_orchestrator_are_made_anew_without_joining_again_or_losing_anything() {
    const TEST: &str = "sidecar_and_orchestrator_are_made_anew_without_joining_again_or_losing_anything";
    if !have(TEST, Compose::Two) {
        return;
    }
    let stack = Stack::up(Compose::Two, &[]).await;
    let live = |s: &pitwall_proto::v1::Situation| {
        s.agents.iter().all(|a| a.sidecar() == SidecarStatus::Live) && client::agent(s, "frontend").verified > 0.0
    };
    stack.until("all are live", SOON * 2, live).await;
    stack.pitwall(&["tell", "backend", "a note that stays"]);
    let (joined, first) = (enrolled(&stack), certificate(&stack, "backend"));
    assert_eq!(joined, 3, "each sidecar joined once");
    let before = stack.events().await;

    let old = stack.container("backend-sidecar");
    let agent = stack.life("backend");
    stack.compose(&["up", "-d", "--no-deps", "--force-recreate", "backend-sidecar"]);
    assert_ne!(stack.container("backend-sidecar"), old);
    stack.until("backend's sidecar is live again", SOON, live).await;
    assert_eq!(certificate(&stack, "backend"), first, "it kept its certificate");
    assert_eq!(
        (stack.life("backend"), stack.agent("backend").await.incarnation),
        (agent, 1),
        "its agent noticed nothing"
    );

    let old = stack.container("orchestrator");
    stack.compose(&["up", "-d", "--no-deps", "--force-recreate", "orchestrator"]);
    assert_ne!(stack.container("orchestrator"), old);
    wait::until("the new orchestrator answers", SOON, || {
        let url = stack.url();
        async move { client::try_channel(&url, pitwall_tests::binaries::operator(&url).as_deref()).await.ok() }
    })
    .await;
    stack.until("all are live at the new orchestrator", SOON * 3, live).await;
    assert_eq!(enrolled(&stack), joined, "nobody joined again");

    let after = stack.events().await;
    assert_eq!(after[..before.len()], before[..], "what was told before is told as it was");
    let sequences: BTreeSet<u64> = after.iter().map(|e| e.sequence).collect();
    assert_eq!(sequences.len(), after.len(), "nothing twice");
    let lost: Vec<&str> =
        after.iter().map(|e| e.text.as_str()).filter(|t| t.contains("LOST") || t.contains(" lost")).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let (_, notes) = stack.exec("backend", "ls /inbox/*.md | wc -l");
    assert_eq!(notes.trim(), "1", "the note was put there once");
    proven(
        "sidecar and orchestrator made anew with their volumes",
        TEST,
        &format!(
            "audit: {joined} enrolments before and after, {} events kept, {} notes in the inbox",
            before.len(),
            notes.trim()
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_pause_takes_agent_and_sidecar_with_it_and_what_comes_back_is_known() {
    const TEST: &str = "a_killed_pause_takes_agent_and_sidecar_with_it_and_what_comes_back_is_known";
    if !have(TEST, Compose::One) {
        return;
    }
    let stack = Stack::up(Compose::One, &[]).await;
    stack.until("backend was seen", SOON, |s| client::agent(s, "backend").incarnation == 1).await;
    let pause = stack.pid("backend-pid");
    let victim = rustix::process::Pid::from_raw(pause).expect("a pid");
    rustix::process::kill_process(victim, rustix::process::Signal::KILL).expect("it is killed");
    stack
        .until("what is lost is said", Duration::from_secs(10), |s| {
            let agent = client::agent(s, "backend");
            // Which of them the engine brings back by itself, and in which order, is its own affair.
            matches!(agent.status(), AgentStatus::Lost | AgentStatus::Exited) || agent.incarnation > 1
        })
        .await;
    // An engine may have given up on them; what a person types brings all of it back.
    stack.compose(&["up", "-d"]);
    let back = stack
        .until("what comes back is known", SOON * 4, |s| {
            let agent = client::agent(s, "backend");
            agent.incarnation == 2 && agent.sidecar() == SidecarStatus::Live && agent.status() == AgentStatus::Active
        })
        .await;
    assert!(client::agent(&back, "frontend").incarnation == 1, "others noticed nothing");
    let events = stack.events().await;
    let said: Vec<&str> = events.iter().filter(|e| e.subject == "backend").map(|e| e.text.as_str()).collect();
    assert!(said.iter().any(|text| text.contains("incarnation 2")), "{said:#?}");
    let last = said.iter().rev().find(|text| text.contains("incarnation")).expect("just seen");
    proven(
        "pause container killed",
        TEST,
        &format!("kill -9 {pause}, now pid {}; said: {last}", stack.pid("backend-pid")),
    );
    let restarts = docker(&["inspect", "-f", "{{.RestartCount}}", &stack.container("backend-pid")]);
    assert!(restarts.parse::<u32>().is_ok_and(|n| n >= 1), "the engine restarted the pause: {restarts}");
}
