//! Limits that hold, are undone exactly, and outlive whoever set them no longer than they should.
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pitwall_sidecar::act::{Actor, Started};
use pitwall_sidecar::sample::Sampler;
use pitwall_sidecar::sample::procfs::{ProcFs, Stat, is_alive};
use pitwall_sidecar_core::io::{Effect, EffectOutcome, Hold, HoldState};

use crate::bench::{
    Bench, SIDECAR, Swept, cgroup_rung, clean_up, examine, launched, living, no_cgroup, ok, skip, until, why,
};

const WINDOW: Duration = Duration::from_secs(2);
const WINDOWS: usize = 5;

/// A reading within the range, over a window that is long enough to be held against a limit. What else runs here may
/// delay whoever holds the limit; what was used too much then is paid back soon after.
async fn measured(actor: &Actor, range: RangeInclusive<f64>) {
    let mut sampler = Sampler::new(actor.agent());
    let mut seen = Vec::new();
    for _ in 0..WINDOWS {
        sampler.sample();
        tokio::time::sleep(WINDOW).await;
        seen.push(sampler.sample().agent.cpu_cores.unwrap());
        if seen.last().is_some_and(|cores| range.contains(cores)) {
            return;
        }
    }
    panic!("in {WINDOWS} windows of {WINDOW:?} never {range:?} cores: {seen:?}");
}

/// Spinning agents take turns: two of them would hold each other, whatever the limit.
static SPINNING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn a_cgroup_limit_holds_a_spinning_process_and_is_undone_exactly() {
    let _turn = SPINNING.lock().await;
    let bench = Bench::shell("while :; do :; done");
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    let Some(rung) = cgroup_rung(&actor) else {
        return skip(
            "a_cgroup_limit_holds_a_spinning_process_and_is_undone_exactly",
            "no CPU limit can be written here",
        );
    };
    launched(&actor).await;
    let hold = examine(&actor, 0.2).await;
    assert!(rung.ends_with(&hold.rung) && hold.old != hold.new, "{hold:?}");
    let value = || read_limit(&hold);
    assert_eq!(value(), hold.old, "examining changes nothing");
    let detail = ok(actor.carry_out(Effect::Hold(hold.clone())).await);
    assert!(detail.contains(&hold.place) && detail.contains("->"), "{detail}");
    measured(&actor, 0.14..=0.26).await;
    assert_eq!(actor.carry_out(Effect::Verify(hold.clone())).await, EffectOutcome::Verified(HoldState::Ours));

    // A newer one takes its place; the older one's end leaves it alone; then what was there at first comes back.
    let newer = examine(&actor, 0.5).await;
    assert_eq!((&newer.old, newer.inode), (&hold.old, hold.inode));
    ok(actor.carry_out(Effect::Hold(newer.clone())).await);
    assert_eq!(actor.carry_out(Effect::Release(hold.clone())).await, EffectOutcome::Released(HoldState::Ours));
    assert_eq!(value(), newer.new);
    assert_eq!(actor.carry_out(Effect::Release(newer.clone())).await, EffectOutcome::Released(HoldState::Ours));
    assert_eq!(value(), hold.old);

    // The next life finds it in the state file.
    ok(actor.carry_out(Effect::Hold(hold.clone())).await);
    if hold.rung == "cgroup1" {
        // Cut short after the first of its steps.
        std::fs::write(Path::new(&hold.place).join("cpu.cfs_quota_us"), "-1").unwrap();
    }
    let (next, _) = bench.life();
    assert!(matches!(next.start().await.unwrap(), Started::Adopted(_)));
    assert_eq!(next.carry_out(Effect::Verify(hold.clone())).await, EffectOutcome::Verified(HoldState::Ours));
    assert_eq!(value(), hold.new, "in effect, and not only ours");
    assert_eq!(next.carry_out(Effect::Release(hold.clone())).await, EffectOutcome::Released(HoldState::Ours));
    assert_eq!(value(), hold.old);
    clean_up(&next).await;
    assert_eq!(actor.carry_out(Effect::Verify(hold.clone())).await, EffectOutcome::Verified(HoldState::Gone));
    assert_eq!(actor.carry_out(Effect::Release(hold)).await, EffectOutcome::Released(HoldState::Gone));
}

fn read_limit(hold: &Hold) -> String {
    let line = |file: &str| std::fs::read_to_string(Path::new(&hold.place).join(file)).unwrap().trim().to_owned();
    match hold.rung.as_str() {
        "cgroup2" => line("cpu.max"),
        _ => format!("{}\n{}", line("cpu.cfs_quota_us"), line("cpu.cfs_period_us")),
    }
}

#[tokio::test]
async fn a_limit_that_somebody_else_changed_is_left_alone() {
    let bench = Bench::shell("exec sleep 1000");
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    if cgroup_rung(&actor).is_none() {
        return skip("a_limit_that_somebody_else_changed_is_left_alone", &no_cgroup(&actor));
    }
    launched(&actor).await;
    let hold = examine(&actor, 0.3).await;
    ok(actor.carry_out(Effect::Hold(hold.clone())).await);
    let (file, text) = if hold.rung == "cgroup2" { ("cpu.max", "7000 20000") } else { ("cpu.cfs_quota_us", "7000") };
    std::fs::write(Path::new(&hold.place).join(file), text).unwrap();
    let theirs = read_limit(&hold);
    let foreign = HoldState::Foreign(theirs.clone());
    assert_eq!(actor.carry_out(Effect::Verify(hold.clone())).await, EffectOutcome::Verified(foreign.clone()));
    assert!(why(actor.carry_out(Effect::Hold(hold.clone())).await).is_empty() || read_limit(&hold) == theirs);
    assert_eq!(actor.carry_out(Effect::Release(hold.clone())).await, EffectOutcome::Released(foreign));
    assert_eq!(read_limit(&hold), theirs);
    for other in [Hold { inode: hold.inode + 1, ..hold.clone() }, Hold { boot_id: "another".into(), ..hold.clone() }] {
        assert_eq!(actor.carry_out(Effect::Release(other)).await, EffectOutcome::Released(HoldState::Gone));
    }
    clean_up(&actor).await;
}

#[tokio::test]
async fn a_duty_cycle_holds_a_spinning_agent_and_ends_with_it_running() {
    let _turn = SPINNING.lock().await;
    let bench = Bench::shell("(while :; do :; done) & while :; do :; done");
    let (actor, _exits) = bench.life_without_cgroup();
    let _swept = Swept(&actor);
    launched(&actor).await;
    let hold = examine(&actor, 0.2).await;
    assert_eq!(hold.rung, "duty-cycle");
    ok(actor.carry_out(Effect::Hold(hold.clone())).await);
    measured(&actor, 0.12..=0.28).await;
    assert_eq!(actor.carry_out(Effect::Verify(hold.clone())).await, EffectOutcome::Verified(HoldState::Ours));
    assert_eq!(actor.carry_out(Effect::Release(hold.clone())).await, EffectOutcome::Released(HoldState::Ours));
    until("all of it runs", || living(&actor).iter().all(|s| s.state != b'T').then_some(())).await;

    // The next life takes it up again, as the guardian ended with the earlier one.
    let (next, _) = bench.life_without_cgroup();
    assert!(matches!(next.start().await.unwrap(), Started::Adopted(_)));
    assert_eq!(next.carry_out(Effect::Verify(hold.clone())).await, EffectOutcome::Verified(HoldState::Ours));
    until("it is stopped now and then", || living(&next).iter().any(|s| s.state == b'T').then_some(())).await;
    clean_up(&next).await;
    assert_eq!(next.carry_out(Effect::Verify(hold)).await, EffectOutcome::Verified(HoldState::Gone));
}

#[tokio::test]
async fn the_guardian_continues_the_agent_when_the_sidecar_dies() {
    let _turn = SPINNING.lock().await;
    let bench = Bench::shell("while :; do :; done");
    let (actor, _exits) = bench.life_without_cgroup();
    let _swept = Swept(&actor);
    let root = launched(&actor).await;
    // Its parent is a shell that holds the other end of its pipe, as the sidecar does.
    let script = format!("sleep 1000 | {SIDECAR} guardian {} {} 0.1", root.pid, root.start_ticks);
    let mut parent = Command::new("setsid").args(["sh", "-c", &script]).spawn().unwrap();
    let state = || ProcFs::default().stat(root.pid).unwrap().state;
    until("the agent is stopped", || (state() == b'T').then_some(())).await;
    let group = parent.id() as i32;
    let mut pids = Vec::new();
    ProcFs::default().pids(&mut pids);
    let of_parent = |pid: &i32| ProcFs::default().stat(*pid).filter(|s| s.ppid == group);
    let children: Vec<Stat> = pids.iter().filter_map(of_parent).collect();
    let guardian = children.iter().find(|s| s.name.text() != "sleep").unwrap().identity();
    let holder = children.iter().find(|s| s.name.text() == "sleep").unwrap();
    for pid in [parent.id() as i32, holder.pid] {
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
    }
    parent.wait().unwrap();
    until("the guardian has ended", || (!is_alive(&guardian)).then_some(())).await;
    assert_ne!(state(), b'T');
    clean_up(&actor).await;
}

#[tokio::test]
async fn the_sidecar_continues_the_agent_when_the_guardian_is_killed() {
    let _turn = SPINNING.lock().await;
    let bench = Bench::shell("while :; do :; done");
    let (actor, _exits) = bench.life_without_cgroup();
    let _swept = Swept(&actor);
    let root = launched(&actor).await;
    let hold = examine(&actor, 0.1).await;
    ok(actor.carry_out(Effect::Hold(hold)).await);
    let me = std::process::id() as i32;
    let is_guardian = |s: &Stat| {
        let line = std::fs::read(format!("/proc/{}/cmdline", s.pid)).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        words.get(1) == Some(&&b"guardian"[..]) && words.get(2) == Some(&root.pid.to_string().as_bytes())
    };
    let guardian = until("the guardian is there", || {
        let mut pids = Vec::new();
        ProcFs::default().pids(&mut pids);
        pids.iter().filter_map(|pid| ProcFs::default().stat(*pid)).find(|s| s.ppid == me && is_guardian(s))
    })
    .await;
    let state = || ProcFs::default().stat(root.pid).unwrap().state;
    until("the agent is stopped", || (state() == b'T').then_some(())).await;
    let pid = rustix::process::Pid::from_raw(guardian.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until("the guardian has ended", || (!is_alive(&guardian.identity())).then_some(())).await;
    until("the agent goes on", || (state() != b'T').then_some(())).await;
    clean_up(&actor).await;
}
