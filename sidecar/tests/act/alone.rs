//! One process alone: a cgroup of its own below the agent's, made and removed again; cut short at each step; its end.
use std::path::Path;

use pitwall_proto::v1::{ProcessIdentity, Resource};
use pitwall_sidecar::act::Actor;
use pitwall_sidecar::sample::cgroup::Hierarchies;
use pitwall_sidecar::sample::procfs::{ProcFs, identity_of};
use pitwall_sidecar_core::io::{Effect, Hold, HoldState};

use crate::bench::{
    Bench, Swept, capability, clean_up, examine_slot, hold, launched, living, next_life, ok, raw, release, skip, slot,
    until, verify, why, without,
};

/// Two children; the first starts another one when it is told to.
const TWO: &str = "(while [ ! -e go ]; do sleep 0.05; done; sleep 1000 & wait) & sleep 1000 & wait";

async fn two(actor: &Actor) -> (ProcessIdentity, ProcessIdentity, ProcessIdentity) {
    let root = launched(actor).await;
    let child = |name: &'static str| {
        let root = root.clone();
        move || living(actor).into_iter().find(|s| s.ppid == root.pid && s.name.text() == name).map(|s| s.identity())
    };
    let first = until("a shell is there", child("sh")).await;
    let second = until("a sleep is there", child("sleep")).await;
    (root, first, second)
}

/// The rung that can limit one process here.
fn rung(actor: &Actor) -> Result<&'static str, String> {
    let mut reasons = String::new();
    for rung in ["cgroup2", "cgroup1"] {
        match capability(actor, &format!("throttle.process.{rung}")) {
            Ok(()) => return Ok(rung),
            Err(reason) => reasons += &reason,
        }
    }
    Err(reasons)
}

/// Where a process is in the hierarchy of a hold.
fn place_of(hold: &Hold, pid: i32) -> String {
    let places = Hierarchies::detect().of_process(pid);
    let place = match (hold.rung.as_str(), hold.slot.resource) {
        ("cgroup2", _) => places.v2,
        (_, Resource::Pids) => places.pids,
        (_, Resource::Memory) => places.memory,
        (_, Resource::Freeze) => places.freezer,
        _ => places.cpu,
    };
    place.unwrap().display().to_string().trim_end_matches('/').to_owned()
}

fn leaf(hold: &Hold) -> String {
    Path::new(&hold.place).parent().unwrap().display().to_string()
}

#[tokio::test]
async fn one_process_is_limited_with_what_it_starts_and_nobody_else() {
    let bench = Bench::shell(TWO);
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    let rung = match rung(&actor) {
        Ok(rung) => rung,
        Err(reason) => return skip("one_process_is_limited_with_what_it_starts_and_nobody_else", &reason),
    };
    let (_, first, second) = two(&actor).await;
    let cpu = examine_slot(&actor, slot(Resource::Cpu, Some(&first), rung), 0.2).await.unwrap();
    let weight = examine_slot(&actor, slot(Resource::CpuWeight, Some(&first), rung), 20.0).await.unwrap();
    assert!(!Path::new(&cpu.place).exists(), "examining leaves nothing");
    let control = || (rung == "cgroup2").then(|| raw(&leaf(&cpu), "cgroup.subtree_control"));
    let before = control();
    let detail = hold(&actor, &cpu).await;
    assert!(detail.contains("alone"), "{detail}");
    hold(&actor, &weight).await;
    assert_eq!(weight.place, cpu.place, "both in one");
    let value = if rung == "cgroup2" { raw(&cpu.place, "cpu.max") } else { raw(&cpu.place, "cpu.cfs_quota_us") };
    assert!(value.starts_with("4000"), "{value}");
    assert_eq!(place_of(&cpu, first.pid), cpu.place);
    assert_eq!(place_of(&cpu, second.pid), leaf(&cpu));
    std::fs::write(bench.path("work/go"), "").unwrap();
    let born = until("it starts another", || {
        living(&actor).into_iter().find(|s| s.ppid == first.pid && raw_cmdline(s.pid).contains("1000"))
    })
    .await;
    assert_eq!(place_of(&cpu, born.pid), cpu.place);
    assert_eq!(verify(&actor, &cpu).await, HoldState::Ours);
    // Measured still as the agent's.
    assert!(living(&actor).iter().any(|s| s.is(&first)) && living(&actor).iter().any(|s| s.pid == born.pid));

    // The first end leaves the other limit; the last one removes the cgroup.
    assert_eq!(release(&actor, &cpu).await, HoldState::Ours);
    assert_eq!(verify(&actor, &weight).await, HoldState::Ours);
    assert_eq!(place_of(&cpu, first.pid), cpu.place);
    assert_eq!(release(&actor, &weight).await, HoldState::Ours);
    assert!(!Path::new(&cpu.place).exists());
    for pid in [first.pid, born.pid] {
        assert_eq!(place_of(&cpu, pid), leaf(&cpu));
    }
    assert_eq!(control(), before);
    clean_up(&actor).await;
}

fn raw_cmdline(pid: i32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).replace('\0', " ")
}

#[tokio::test]
async fn whatever_step_was_the_last_the_next_life_knows_what_is_there() {
    let bench = Bench::shell(TWO);
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    let rung = match rung(&actor) {
        Ok(rung) => rung,
        Err(reason) => return skip("whatever_step_was_the_last_the_next_life_knows_what_is_there", &reason),
    };
    let (_, first, _) = two(&actor).await;
    let held = examine_slot(&actor, slot(Resource::Cpu, Some(&first), rung), 0.2).await.unwrap();
    let lifts = || {
        let (file, value) = if rung == "cgroup2" { ("cpu.max", "max") } else { ("cpu.cfs_quota_us", "-1") };
        std::fs::write(Path::new(&held.place).join(file), value).unwrap();
    };
    let leaves = || std::fs::write(Path::new(&leaf(&held)).join("cgroup.procs"), first.pid.to_string()).unwrap();

    // Recorded, and nothing was done.
    let next = next_life(&bench).await;
    assert_eq!(verify(&next, &held).await, HoldState::Foreign(held.old.clone()));
    assert_eq!(release(&next, &held).await, HoldState::Foreign(held.old.clone()));
    // Limited, and not entered: brought to its end.
    hold(&actor, &held).await;
    leaves();
    assert_eq!(verify(&next, &held).await, HoldState::Ours);
    assert_eq!(place_of(&held, first.pid), held.place);
    // The same in a life that saw it there: somebody else moved it.
    leaves();
    assert!(matches!(verify(&next, &held).await, HoldState::Foreign(what) if what.contains("moved")));
    assert_eq!(release(&next, &held).await, HoldState::Ours);
    assert!(!Path::new(&held.place).exists());
    // Whole: adopted, and undone.
    hold(&actor, &held).await;
    std::mem::forget(next);
    let next = next_life(&bench).await;
    assert_eq!(verify(&next, &held).await, HoldState::Ours);
    // Somebody lifted it: as it was before, and nothing of it is left when it is released.
    lifts();
    let state = verify(&next, &held).await;
    assert!(matches!(state, HoldState::Foreign(_)) || rung == "cgroup1", "{state:?}");
    release(&next, &held).await;
    assert!(!Path::new(&held.place).exists());
    std::mem::forget(next);
    clean_up(&actor).await;
}

#[tokio::test]
async fn the_end_of_the_process_is_the_end_of_its_limit() {
    let bench = Bench::shell(TWO);
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    let rung = match rung(&actor) {
        Ok(rung) => rung,
        Err(reason) => return skip("the_end_of_the_process_is_the_end_of_its_limit", &reason),
    };
    let (_, _, second) = two(&actor).await;
    let held = examine_slot(&actor, slot(Resource::Cpu, Some(&second), rung), 0.2).await.unwrap();
    hold(&actor, &held).await;
    ok(actor.carry_out(Effect::Kill { process: second.clone(), grace_ms: 5_000, tree: false }).await);
    until("its parent has seen it", || ProcFs::default().stat(second.pid).is_none_or(|s| !s.alive()).then_some(()))
        .await;
    assert_eq!(verify(&actor, &held).await, HoldState::Gone);
    assert!(!Path::new(&held.place).exists());
    assert_eq!(release(&actor, &held).await, HoldState::Gone);
    let refusal = examine_slot(&actor, held.slot.clone(), 0.2).await.unwrap_err();
    assert!(refusal.contains("ended"), "{refusal}");
    assert!(why(actor.carry_out(Effect::Hold(held)).await).contains("ended"));
    clean_up(&actor).await;
}

#[tokio::test]
async fn a_process_of_nobodys_or_of_a_later_start_is_refused() {
    let bench = Bench::shell("exec sleep 1000");
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    let root = launched(&actor).await;
    let later = ProcessIdentity { start_ticks: root.start_ticks + 1, ..root.clone() };
    let me = identity_of(std::process::id() as i32).unwrap();
    let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let foreign = identity_of(other.id() as i32).unwrap();
    let mut refusals = Vec::new();
    for (process, word) in [(later, "another process by now"), (me, "not an agent's"), (foreign, "does not belong")] {
        refusals.push((examine_slot(&actor, slot(Resource::Cpu, Some(&process), ""), 0.5).await.unwrap_err(), word));
    }
    other.kill().unwrap();
    other.wait().unwrap();
    for (refusal, word) in refusals {
        assert!(refusal.contains(word), "{refusal}");
    }
    clean_up(&actor).await;
}

#[tokio::test]
async fn what_the_kernel_cannot_give_to_one_process_is_refused_with_the_reason() {
    let bench = Bench::shell("sleep 1000 & wait");
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    let root = launched(&actor).await;
    let unified = capability(&actor, "throttle.memory.cgroup2").is_ok();
    if !unified {
        return without(
            "what_the_kernel_cannot_give_to_one_process_is_refused_with_the_reason",
            "no cgroup of version 2",
        );
    }
    for (resource, amount) in [(Resource::Memory, 1e9), (Resource::Io, 1e6)] {
        let refusal = examine_slot(&actor, slot(resource, Some(&root), ""), amount).await.unwrap_err();
        assert!(refusal.contains("limit the whole agent"), "{refusal}");
    }
    clean_up(&actor).await;
}

#[tokio::test]
async fn a_whole_below_its_part_lowers_it_and_gives_it_back() {
    let bench = Bench::shell(TWO);
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    let rung = match rung(&actor) {
        Ok(rung) => rung,
        Err(reason) => return skip("a_whole_below_its_part_lowers_it_and_gives_it_back", &reason),
    };
    let (_, first, _) = two(&actor).await;
    let part = examine_slot(&actor, slot(Resource::Cpu, Some(&first), rung), 0.8).await.unwrap();
    hold(&actor, &part).await;
    for cores in [0.3, 0.5] {
        let whole = examine_slot(&actor, slot(Resource::Cpu, None, rung), cores).await.unwrap();
        hold(&actor, &whole).await;
        assert_eq!(verify(&actor, &whole).await, HoldState::Ours);
        assert_eq!(verify(&actor, &part).await, HoldState::Ours, "{cores}: the stricter one holds both");
    }
    let whole = examine_slot(&actor, slot(Resource::Cpu, None, rung), 0.5).await.unwrap();
    assert_eq!(release(&actor, &whole).await, HoldState::Ours);
    let file = if rung == "cgroup2" { "cpu.max" } else { "cpu.cfs_quota_us" };
    assert!(raw(&part.place, file).starts_with("16000"), "what remains comes back: {}", raw(&part.place, file));
    assert_eq!(verify(&actor, &part).await, HoldState::Ours);
    assert_eq!(release(&actor, &part).await, HoldState::Ours);
    assert!(!Path::new(&part.place).exists());
    clean_up(&actor).await;
}
