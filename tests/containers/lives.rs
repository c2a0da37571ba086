//! Lives of an agent beside one and the same sidecar: restarted, crashed, stopped and started, made anew.
use std::fs;

use pitwall_proto::v1::AgentStatus;
use pitwall_tests::{client, wait};

use crate::{
    engine::{Compose, docker, have, proven},
    stack::{SOON, Stack},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_outlives_its_agent_whatever_ends_it() {
    const TEST: &str = "a_sidecar_outlives_its_agent_whatever_ends_it";
    if !have(TEST, Compose::One) {
        return;
    }
    let stack = Stack::up(Compose::One, &[]).await;
    let is = |incarnation: u64| {
        move |s: &pitwall_proto::v1::Situation| {
            let agent = client::agent(s, "backend");
            agent.incarnation == incarnation && agent.status() == AgentStatus::Active
        }
    };
    stack.until("backend was seen", SOON, is(1)).await;
    let sidecar = stack.life("backend-sidecar");

    let before = stack.life("backend");
    stack.pitwall(&["restart", "backend", "--grace", "1s"]);
    stack.until("the restart's life is seen", SOON, is(2)).await;
    let after = stack.another_life("backend", &before);
    proven(
        "restart, with the new incarnation seen",
        TEST,
        &format!("{before} -> {after}, RestartCount {}", stack.inspect("backend", "{{.RestartCount}}")),
    );

    let pid = stack.pid("backend");
    let victim = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(victim, rustix::process::Signal::KILL).expect("it is killed");
    stack.until("the life after the crash is seen", SOON, is(3)).await;
    stack.another_life("backend", &after);
    proven("agent crash", TEST, &format!("kill -9 {pid}, now pid {}", stack.pid("backend")));

    stack.compose(&["stop", "-t", "1", "backend"]);
    let stopped = stack.until("its end is seen", SOON, |s| client::status(s, "backend") == AgentStatus::Exited).await;
    assert_eq!(client::agent(&stopped, "backend").incarnation, 3);
    let state = stack.inspect("backend", "{{.State.Status}}");
    stack.compose(&["start", "backend"]);
    stack.until("the life after stop and start is seen", SOON, is(4)).await;
    proven("agent stop/start", TEST, &format!("{state}, then {}", stack.inspect("backend", "{{.State.Status}}")));

    let old = stack.container("backend");
    stack.compose(&["up", "-d", "--no-deps", "--force-recreate", "backend"]);
    stack.until("the life of the new container is seen", SOON, is(5)).await;
    assert_ne!(stack.container("backend"), old);
    proven("agent made anew", TEST, &format!("{old} -> {}", stack.container("backend")));

    // What lost its parent comes to the pause, and is reaped; and no signal but KILL reaches that one.
    let pause = stack.life("backend-pid");
    stack.exec("backend", "(sleep 0.1 & sleep 0.1 &) ; sleep 0.3");
    let zombies = || {
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", stack.pid("backend-pid"))).ok();
        let all = fs::read_dir("/proc").expect("/proc").flatten().map(|e| e.path());
        let here = all.filter(|p| fs::read_link(p.join("ns/pid")).ok() == namespace && namespace.is_some());
        here.filter(|p| fs::read_to_string(p.join("stat")).is_ok_and(|stat| stat.contains(") Z "))).count()
    };
    wait::until_sync("no zombie is left", SOON, || (zombies() == 0).then_some(()));
    for signal in ["TERM", "INT", "HUP", "CHLD", "USR1"] {
        docker(&["kill", "-s", signal, &stack.container("backend-pid")]);
    }
    assert_eq!(stack.life("backend-pid"), pause);
    proven(
        "pause: reaps, ignores everything but KILL",
        TEST,
        &format!("after TERM INT HUP CHLD USR1: {}", stack.inspect("backend-pid", "{{.State.Status}}")),
    );

    assert_eq!(stack.life("backend-sidecar"), sidecar, "the sidecar never ended");
    let events = stack.events().await;
    assert!(!events.iter().any(|e| e.subject == "backend" && e.text.contains("LOST")), "{events:?}");
    proven("sidecar alive through all of it", TEST, &sidecar);
}
