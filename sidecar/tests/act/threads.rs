//! Affinity and nice: of every thread, those that come later included; undone exactly; another's setting left alone.
use pitwall_proto::v1::{ProcessIdentity, Resource};
use pitwall_sidecar::act::Actor;
use pitwall_sidecar_core::io::{Effect, HoldState};
use rustix::process::{Pid, getpriority_process, setpriority_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::bench::{
    Bench, Swept, capability, clean_up, examine_slot, hold, launched, living, next_life, release, skip, slot, until,
    verify, why,
};

/// Starts another child when it is told to.
const AGENT: &str = "sleep 1000 & while [ ! -e go ]; do sleep 0.05; done; sleep 1001 & wait";

fn cores(pid: i32) -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(pid)).unwrap();
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

fn pin(pid: i32, cores: &[usize]) {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(Pid::from_raw(pid), &set).unwrap();
}

fn nice(pid: i32) -> i32 {
    getpriority_process(Pid::from_raw(pid)).unwrap()
}

async fn sleeper(actor: &Actor, seconds: &str) -> ProcessIdentity {
    let is_it = |pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).nth(1) == Some(seconds.as_bytes())
    };
    until("it sleeps", || living(actor).into_iter().find(|s| is_it(s.pid)).map(|s| s.identity())).await
}

#[tokio::test]
async fn affinity_holds_all_threads_and_gives_each_back_what_it_had() {
    let bench = Bench::shell(AGENT);
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    if let Err(reason) = capability(&actor, "throttle.cpu.affinity") {
        return skip("affinity_holds_all_threads_and_gives_each_back_what_it_had", &reason);
    }
    let root = launched(&actor).await;
    let before = cores(root.pid);
    let pinned = sleeper(&actor, "1000").await;
    pin(pinned.pid, &before[1..2]);
    let asked = slot(Resource::Cpu, None, "affinity");
    let held = examine_slot(&actor, asked.clone(), 0.6).await.unwrap();
    assert_eq!((held.rung.as_str(), held.place.as_str()), ("affinity", root.pid.to_string().as_str()));
    assert_eq!(cores(root.pid), before, "examining changes nothing");
    hold(&actor, &held).await;
    for pid in [root.pid, pinned.pid] {
        assert_eq!(cores(pid), before[..1]);
    }
    std::fs::write(bench.path("work/go"), "").unwrap();
    let later = sleeper(&actor, "1001").await;
    assert_eq!(cores(later.pid), before[..1]);
    assert_eq!(verify(&actor, &held).await, HoldState::Ours);
    assert_eq!(examine_slot(&actor, asked, 0.6).await.unwrap().old, held.old, "it is known what stood there at first");

    // A write that was cut short is brought to its end by the next life.
    pin(later.pid, &before);
    let next = next_life(&bench).await;
    assert_eq!(verify(&next, &held).await, HoldState::Ours);
    assert_eq!(cores(later.pid), before[..1]);
    assert_eq!(release(&next, &held).await, HoldState::Ours);
    assert_eq!(
        (cores(root.pid), cores(later.pid), cores(pinned.pid)),
        (before.clone(), before.clone(), before[1..2].to_vec())
    );
    assert_eq!(verify(&next, &held).await, HoldState::Foreign(held.old.clone()));
    std::mem::forget(next);

    // Another writer is left alone.
    hold(&actor, &held).await;
    pin(later.pid, &before[1..2]);
    assert!(matches!(verify(&actor, &held).await, HoldState::Foreign(what) if what.contains(&later.pid.to_string())));
    assert!(matches!(release(&actor, &held).await, HoldState::Foreign(_)));
    assert_eq!((cores(root.pid), cores(later.pid)), (before.clone(), before[1..2].to_vec()));

    // Not asked for by name, it is taken for whole cores alone: here a limit below one core cannot be held by it.
    let lesser = next_life(&bench).await;
    lesser.agent().change(|view| (view.places, view.launched) = (Default::default(), false));
    let refusal = examine_slot(&lesser, slot(Resource::Cpu, Some(&root), ""), 0.5).await.unwrap_err();
    assert!(refusal.contains("affinity: "), "{refusal}");
    std::mem::forget(lesser);
    clean_up(&actor).await;
    assert_eq!(verify(&actor, &held).await, HoldState::Gone);
    assert!(why(actor.carry_out(Effect::Hold(held)).await).contains("not the agent"));
}

#[tokio::test]
async fn nice_holds_one_process_or_all_and_is_undone_exactly() {
    let bench = Bench::shell(AGENT);
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    if let Err(reason) = capability(&actor, "throttle.weight.nice") {
        return skip("nice_holds_one_process_or_all_and_is_undone_exactly", &reason);
    }
    let root = launched(&actor).await;
    let usual = nice(root.pid);
    let one = sleeper(&actor, "1000").await;
    let alone = examine_slot(&actor, slot(Resource::CpuWeight, Some(&one), "nice"), 10.0).await.unwrap();
    hold(&actor, &alone).await;
    assert_eq!((nice(root.pid), nice(one.pid)), (usual, 10.max(usual)));
    assert_eq!(verify(&actor, &alone).await, HoldState::Ours);
    assert_eq!(release(&actor, &alone).await, HoldState::Ours);
    assert_eq!(nice(one.pid), usual);

    setpriority_process(Pid::from_raw(one.pid), 15).unwrap();
    let all = examine_slot(&actor, slot(Resource::CpuWeight, None, "nice"), 10.0).await.unwrap();
    hold(&actor, &all).await;
    assert_eq!((nice(root.pid), nice(one.pid)), (10.max(usual), 15), "never looser than what stands there");
    let next = next_life(&bench).await;
    assert_eq!(verify(&next, &all).await, HoldState::Ours);
    setpriority_process(Pid::from_raw(root.pid), usual - 1).unwrap();
    assert!(matches!(verify(&next, &all).await, HoldState::Foreign(_)));
    assert!(matches!(release(&next, &all).await, HoldState::Foreign(_)));
    assert_eq!((nice(root.pid), nice(one.pid)), (usual - 1, 15));
    std::mem::forget(next);
    clean_up(&actor).await;
}
