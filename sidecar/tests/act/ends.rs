//! Who is ended: by identity, of the agent only, and all of its tree.
use std::process::Command;

use pitwall_proto::v1;
use pitwall_sidecar::act::Actor;
use pitwall_sidecar::sample::procfs::{Stat, identity_of, is_alive};
use pitwall_sidecar_core::io::Effect;

use crate::bench::{Bench, Swept, clean_up, launched, living, no_cgroup, ok, skip, until, why};

#[tokio::test]
async fn a_kill_is_by_identity_and_only_of_the_agents_processes() {
    let bench = Bench::shell("sleep 1000 & (trap '' TERM; while :; do sleep 1000; done) & wait; exec sleep 1000");
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    let root = launched(&actor).await;
    let kill =
        |process: v1::ProcessIdentity, grace_ms| actor.carry_out(Effect::Kill { process, grace_ms, tree: false });
    let sleep = until("a child sleeps", || {
        living(&actor).into_iter().find(|s| s.ppid == root.pid && s.name.text() == "sleep").map(|s| s.identity())
    })
    .await;
    let later = v1::ProcessIdentity { start_ticks: sleep.start_ticks + 1, ..sleep.clone() };
    assert!(why(kill(later, 100).await).contains("another process by now"));
    assert!(is_alive(&sleep));

    let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
    let foreign = identity_of(other.id() as i32).unwrap();
    let refusal = why(kill(foreign.clone(), 100).await);
    let alive = is_alive(&foreign);
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(alive && refusal.contains("does not belong to the agent"), "{refusal}");
    assert!(why(kill(identity_of(std::process::id() as i32).unwrap(), 100).await).contains("never ended"));

    assert!(ok(kill(sleep.clone(), 5_000).await).contains("ended on TERM"));
    assert!(why(kill(sleep, 100).await).contains("ended already"));
    // It ignores TERM once it has come as far as its own sleep.
    let stubborn = until("a child ignores TERM", || {
        let all = living(&actor);
        let sleeps = |s: &Stat| all.iter().any(|child| child.ppid == s.pid && child.name.text() == "sleep");
        all.iter().find(|s| s.ppid == root.pid && s.name.text() == "sh" && sleeps(s)).map(|s| s.identity())
    })
    .await;
    assert!(ok(kill(stubborn, 200).await).contains("ended on KILL"));
    assert!(is_alive(&root));
    clean_up(&actor).await;
}

/// A tree with a grandchild that left its parent and its session, and one that ignores TERM.
const TREE: &str =
    "(setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' &) ; (sleep 1000 &) ; sleep 1000 & wait";

async fn end_of_a_tree(actor: &Actor) {
    let root = launched(actor).await;
    let all = until("all are there", || {
        let stats = living(actor);
        (stats.iter().filter(|s| s.name.text() == "sleep").count() == 3).then_some(stats)
    })
    .await;
    assert!(all.len() >= 5, "{all:?}");
    let detail = ok(actor.carry_out(Effect::EndAgent { root: root.clone(), grace_ms: 300 }).await);
    assert!(detail.contains("processes were killed"), "{detail}");
    for stat in all {
        assert!(!is_alive(&stat.identity()), "{stat:?} is left");
    }
    clean_up(actor).await;
}

#[tokio::test]
async fn the_end_of_the_agent_leaves_nothing_of_its_tree_in_a_cgroup() {
    let bench = Bench::shell(TREE);
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    if actor.agent().view().places.is_empty() {
        return skip("the_end_of_the_agent_leaves_nothing_of_its_tree_in_a_cgroup", &no_cgroup(&actor));
    }
    end_of_a_tree(&actor).await;
}

#[tokio::test]
async fn the_end_of_the_agent_leaves_nothing_of_its_session_without_a_cgroup() {
    // Who leaves both parent and session before anybody looks is found by a cgroup only.
    let bench = Bench::shell("(trap '' TERM; while :; do sleep 1000; done) & (sleep 1000 &) ; sleep 1000 & wait");
    let (actor, _exits) = bench.life_without_cgroup();
    let _swept = Swept(&actor);
    end_of_a_tree(&actor).await;
}
