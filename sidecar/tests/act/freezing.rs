//! A freeze: nothing runs, it ends with the sidecar, and whoever is frozen can still be ended.
use std::process::Command;

use pitwall_proto::v1::{ProcessIdentity, Resource};
use pitwall_sidecar::sample::procfs::{ProcFs, Stat, is_alive};
use pitwall_sidecar_core::io::{Effect, HoldState};

use crate::bench::{
    Bench, SIDECAR, Swept, capability, clean_up, examine_slot, hold, launched, ok, raw, release, slot, until, verify,
    without,
};

const RUNGS: [(&str, &str); 2] = [("cgroup2", "cgroup.freeze"), ("cgroup1", "freezer.self_freezing")];

fn ticks(process: &ProcessIdentity) -> u64 {
    ProcFs::default().stat(process.pid).unwrap().cpu_ticks
}

#[tokio::test]
async fn what_is_frozen_does_nothing_and_runs_on_afterwards() {
    for (rung, file) in RUNGS {
        let bench = Bench::shell("while :; do :; done");
        let (actor, _exits) = bench.life();
        let _swept = Swept(&actor);
        if let Err(reason) = capability(&actor, &format!("throttle.freeze.{rung}")) {
            without(&format!("what_is_frozen_does_nothing_and_runs_on_afterwards: {rung}"), &reason);
            continue;
        }
        let root = launched(&actor).await;
        until("it runs", || (ticks(&root) > 5).then_some(())).await;
        let held = examine_slot(&actor, slot(Resource::Freeze, None, rung), 1.0).await.unwrap();
        let detail = hold(&actor, &held).await;
        assert!(!detail.contains("not in effect"), "{detail}");
        let frozen = ticks(&root);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        assert!(ticks(&root) <= frozen + 1, "{rung}: it went on");
        assert_eq!(verify(&actor, &held).await, HoldState::Ours);
        assert_eq!(release(&actor, &held).await, HoldState::Ours);
        assert_eq!(raw(&held.place, file), "0");
        until("it runs on", || (ticks(&root) > frozen + 5).then_some(())).await;

        // Frozen, it is ended by TERM or KILL all the same.
        hold(&actor, &held).await;
        let detail = ok(actor.carry_out(Effect::Kill { process: root.clone(), grace_ms: 5_000, tree: false }).await);
        assert!(detail.contains("ended on TERM") && !is_alive(&root), "{detail}");
        // What was lifted for that is no change of somebody else's.
        assert_eq!(verify(&actor, &held).await, HoldState::Gone);
        clean_up(&actor).await;
    }
}

#[tokio::test]
async fn a_frozen_agent_that_ignores_term_is_ended_with_all_its_tree() {
    for (rung, _) in RUNGS {
        let bench = Bench::shell("trap '' TERM; (while :; do sleep 1000; done) & while :; do sleep 1000; done");
        let (actor, _exits) = bench.life();
        let _swept = Swept(&actor);
        if let Err(reason) = capability(&actor, &format!("throttle.freeze.{rung}")) {
            without(&format!("a_frozen_agent_that_ignores_term_is_ended_with_all_its_tree: {rung}"), &reason);
            continue;
        }
        let root = launched(&actor).await;
        until("it has children", || (crate::bench::living(&actor).len() >= 4).then_some(())).await;
        let held = examine_slot(&actor, slot(Resource::Freeze, None, rung), 1.0).await.unwrap();
        hold(&actor, &held).await;
        let detail = ok(actor.carry_out(Effect::EndAgent { root, grace_ms: 100 }).await);
        assert!(detail.contains("were killed") || detail.contains("was killed"), "{detail}");
        clean_up(&actor).await;
    }
}

#[tokio::test]
async fn a_freeze_ends_with_the_sidecar() {
    for (rung, file) in RUNGS {
        let bench = Bench::shell("exec sleep 1000");
        let (actor, _exits) = bench.life();
        let _swept = Swept(&actor);
        if let Err(reason) = capability(&actor, &format!("throttle.freeze.{rung}")) {
            without(&format!("a_freeze_ends_with_the_sidecar: {rung}"), &reason);
            continue;
        }
        launched(&actor).await;
        let held = examine_slot(&actor, slot(Resource::Freeze, None, rung), 1.0).await.unwrap();
        // A shell stands for the sidecar: it holds the other end of the guardian's pipe, and is killed.
        let script = format!("sleep 1000 | {SIDECAR} thaw {rung} {} {} >/dev/null", held.inode, held.place);
        let mut parent = Command::new("setsid").args(["sh", "-c", &script]).spawn().unwrap();
        let group = parent.id() as i32;
        let of_parent = || {
            let mut pids = Vec::new();
            ProcFs::default().pids(&mut pids);
            let of_parent = |pid: &i32| ProcFs::default().stat(*pid).filter(|s| s.ppid == group);
            pids.iter().filter_map(of_parent).collect::<Vec<Stat>>()
        };
        let thaws = |s: &&Stat| {
            let line = std::fs::read(format!("/proc/{}/cmdline", s.pid)).unwrap_or_default();
            line.split(|b| *b == 0).nth(1) == Some(&b"thaw"[..])
        };
        until("the guardian waits", || of_parent().iter().find(thaws).map(|_| ())).await;
        let holder = until("its pipe is held", || of_parent().into_iter().find(|s| s.name.text() == "sleep")).await;
        let word = if rung == "cgroup2" { "1" } else { "FROZEN" };
        let state = if rung == "cgroup2" { "cgroup.freeze" } else { "freezer.state" };
        std::fs::write(std::path::Path::new(&held.place).join(state), word).unwrap();
        assert_eq!(raw(&held.place, file), "1");
        for pid in [group, holder.pid] {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        parent.wait().unwrap();
        until("it is thawed", || (raw(&held.place, file) == "0").then_some(())).await;

        // The sidecar starts one of its own, which ends with the freeze.
        hold(&actor, &held).await;
        let me = std::process::id() as i32;
        let guardians = || {
            let mut pids = Vec::new();
            ProcFs::default().pids(&mut pids);
            let stats =
                pids.iter().filter_map(|pid| ProcFs::default().stat(*pid)).filter(|s| s.ppid == me && s.alive());
            stats
                .filter(|s| {
                    let line = std::fs::read(format!("/proc/{}/cmdline", s.pid)).unwrap_or_default();
                    String::from_utf8_lossy(&line).contains(&held.place)
                })
                .count()
        };
        assert_eq!(guardians(), 1);
        assert_eq!(verify(&actor, &held).await, HoldState::Ours);
        assert_eq!(guardians(), 1);
        assert_eq!(release(&actor, &held).await, HoldState::Ours);
        assert_eq!(guardians(), 0);
        clean_up(&actor).await;
    }
}
