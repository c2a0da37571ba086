//! Hard to end: who forks fast, ignores TERM, leaves its parent, or has ended meanwhile.
use pitwall_proto::v1::ProcessIdentity;
use pitwall_sidecar::act::Actor;
use pitwall_sidecar::sample::procfs::{Stat, is_alive};
use pitwall_sidecar_core::io::{Effect, EffectOutcome};

use crate::bench::{Bench, Swept, clean_up, launched, living, ok, until, why};

async fn kill_tree(actor: &Actor, process: &ProcessIdentity, grace_ms: u32) -> EffectOutcome {
    actor.carry_out(Effect::Kill { process: process.clone(), grace_ms, tree: true }).await
}

/// A child of the root by a word of its command line.
async fn child(actor: &Actor, root: &ProcessIdentity, word: &str) -> ProcessIdentity {
    until("the child is there", || {
        living(actor).into_iter().find(|s| s.ppid == root.pid && command(s.pid).contains(word)).map(|s| s.identity())
    })
    .await
}

fn command(pid: i32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).replace('\0', " ")
}

#[tokio::test]
async fn a_tree_ends_and_its_neighbours_live_on() {
    let bench = Bench::shell("sh -c 'sleep 1001 & sh -c \"sleep 1002 & wait\" & wait; :' & sleep 1003 & wait");
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    let root = launched(&actor).await;
    let top = child(&actor, &root, "sleep 1001").await;
    until("all are there", || (living(&actor).len() >= 6).then_some(())).await;
    let detail = ok(kill_tree(&actor, &top, 5_000).await);
    assert!(detail.contains("ended on TERM") && detail.contains("3 that it started"), "{detail}");
    let left: Vec<String> = living(&actor).iter().map(|s| command(s.pid)).collect();
    assert!(left.iter().all(|c| !c.contains("1001") || c.contains("1003")), "{left:?}");
    assert!(left.iter().any(|c| c.starts_with("sleep 1003")), "{left:?}");
    assert!(is_alive(&root));
    assert!(why(kill_tree(&actor, &top, 100).await).contains("ended already"));
    clean_up(&actor).await;
}

#[tokio::test]
async fn who_forks_fast_and_ignores_term_is_ended_with_all_of_it() {
    // Each replaces itself by a child as fast as it can, and a hundred stand by.
    let forker = "trap \"\" TERM; f() { sleep 1004 & i=0; while [ $i -lt 3 ]; do i=$((i+1)); (sleep 0.01); done; }; \
                  while :; do f; done";
    let bench = Bench::shell(&format!("sh -c '{forker}' & sleep 1003 & wait"));
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    let root = launched(&actor).await;
    let top = child(&actor, &root, "trap").await;
    until("it has forked", || (living(&actor).len() >= 12).then_some(())).await;
    let detail = ok(kill_tree(&actor, &top, 100).await);
    assert!(detail.contains("on KILL"), "{detail}");
    let left: Vec<String> = living(&actor).iter().map(|s| command(s.pid)).collect();
    assert!(left.iter().all(|c| !c.contains("1004") || c.contains("1003")), "{left:?}");
    assert!(left.iter().any(|c| c.starts_with("sleep 1003")), "{left:?}");
    clean_up(&actor).await;
}

#[tokio::test]
async fn who_left_its_parent_is_still_the_agents() {
    let bench = Bench::shell("(setsid sh -c 'sleep 1005 & wait' &) ; sleep 1003 & wait");
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    launched(&actor).await;
    let leader = until("it leads a session of its own", || {
        let away = |s: &Stat| s.session == s.pid && command(s.pid).starts_with("sh -c sleep 1005");
        living(&actor).into_iter().find(away).map(|s| s.identity())
    })
    .await;
    let detail = ok(kill_tree(&actor, &leader, 5_000).await);
    assert!(detail.contains("ended on TERM"), "{detail}");
    let left: Vec<String> = living(&actor).iter().map(|s| command(s.pid)).collect();
    assert!(left.iter().all(|c| !c.starts_with("sleep 1005")), "{left:?}");
    clean_up(&actor).await;
}

#[tokio::test]
async fn a_later_process_of_the_same_pid_and_a_foreign_one_are_never_ended() {
    let bench = Bench::shell("sleep 1000 & wait");
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    let root = launched(&actor).await;
    let later = ProcessIdentity { start_ticks: root.start_ticks + 1, ..root.clone() };
    assert!(why(kill_tree(&actor, &later, 100).await).contains("another process by now"));
    let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let foreign = pitwall_sidecar::sample::procfs::identity_of(other.id() as i32).unwrap();
    let refusal = why(kill_tree(&actor, &foreign, 100).await);
    let alive = is_alive(&foreign);
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(alive && is_alive(&root) && refusal.contains("does not belong"), "{refusal}");
    clean_up(&actor).await;
}
