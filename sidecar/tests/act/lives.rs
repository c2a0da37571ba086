//! The agent's start, its end by itself, and whose process it is.
use std::path::PathBuf;
use std::process::{Command, Stdio};

use pitwall_sidecar::act::{Actor, AgentTarget, Config, Exited, Started};
use pitwall_sidecar::sample::Sampler;
use pitwall_sidecar::sample::cgroup::Places;
use pitwall_sidecar::sample::procfs::identity_of;
use pitwall_sidecar_core::io::{Effect, EffectOutcome};
use tokio::sync::mpsc;

use crate::bench::{Bench, SIDECAR, Swept, clean_up, launched, living, ok, skip, until, whole_cpu, why};

#[tokio::test]
async fn the_end_of_a_launched_agent_is_told_once_with_its_code() {
    let bench = Bench::shell("echo said; exit 3");
    let (actor, mut exits) = bench.life();
    let _swept = Swept(&actor);
    let root = launched(&actor).await;
    assert_eq!(exits.recv().await, Some(Exited { root, code: Some(3), signal: None }));
    assert_eq!(std::fs::read_to_string(bench.path("state/agent.log")).unwrap(), "said\n");
    assert!(matches!(actor.carry_out(Effect::Launch).await, EffectOutcome::Launched { .. }));
    assert_eq!(exits.recv().await.unwrap().code, Some(3));
    assert!(exits.try_recv().is_err());
    assert_eq!(std::fs::read_to_string(bench.path("state/agent.log.1")).unwrap(), "said\n");
    clean_up(&actor).await;
}

#[tokio::test]
async fn what_cannot_be_started_is_an_error_with_the_reason() {
    let bench = Bench::new(&["/no/such/command"]);
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    let error = actor.start().await.unwrap_err().to_string();
    assert!(error.starts_with("/no/such/command cannot be started: No such file"), "{error}");
    assert!(!bench.path("state/agent.json").exists());
    std::fs::remove_dir(bench.path("work")).unwrap();
    let error = why(actor.carry_out(Effect::Launch).await);
    assert!(error.contains("the workspace") && error.contains("create it"), "{error}");
    clean_up(&actor).await;
}

#[tokio::test]
async fn a_held_agent_waits_for_its_activation() {
    let bench = Bench::shell("exec sleep 1000");
    let (told, _exits) = mpsc::channel(8);
    let actor = Actor::new(Config { held: true, ..bench.config(AgentTarget::Command) }, told).unwrap();
    let _swept = Swept(&actor);
    assert_eq!(actor.start().await.unwrap(), Started::Held);
    assert!(living(&actor).is_empty() && Sampler::new(actor.agent()).sample().root.is_none());
    let EffectOutcome::Launched { root } = actor.carry_out(Effect::Launch).await else { panic!() };
    assert_eq!(Sampler::new(actor.agent()).sample().root, Some(root));
    assert!(why(actor.carry_out(Effect::Launch).await).contains("running already"));
    clean_up(&actor).await;
}

#[tokio::test]
async fn a_sidecar_that_ends_before_it_launched_leaves_no_cgroup() {
    let bench = Bench::shell("exec sleep 1000");
    let (actor, _exits) = bench.life();
    let places = actor.agent().view().places.clone();
    assert!(places.directories().iter().all(|d| d.is_dir()));
    drop(actor);
    assert_eq!(places.existing(), Places::default());
}

#[tokio::test]
async fn the_next_life_adopts_the_agent_and_launches_only_where_none_is_alive() {
    let bench = Bench::shell("sleep 1000 & sleep 1000");
    let (first, _) = bench.life();
    let root = launched(&first).await;
    let (second, mut exits) = bench.life();
    let _swept = Swept(&second);
    assert_eq!(second.start().await.unwrap(), Started::Adopted(root.clone()));
    assert_eq!(second.agent().view().places, first.agent().view().places);
    let detail = ok(second.carry_out(Effect::EndAgent { root: root.clone(), grace_ms: 5_000 }).await);
    assert!(detail.contains("ended on TERM"), "{detail}");
    assert_eq!(exits.recv().await, Some(Exited { root: root.clone(), code: None, signal: None }));
    assert!(living(&second).is_empty());
    let (third, _) = bench.life();
    let again = launched(&third).await;
    assert_ne!((again.pid, again.start_ticks), (root.pid, root.start_ticks));
    clean_up(&third).await;
    assert!(!bench.path("state/agent.json").exists());
}

#[test]
fn a_sidecar_that_dies_before_it_recorded_the_agent_starts_none() {
    let bench = Bench::new(&[]);
    let proof = bench.path("proof");
    let status = Command::new(SIDECAR)
        .args(["exec-in", "--log", "/dev/null", "--", "touch"])
        .arg(&proof)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    assert_eq!(status.unwrap().code(), Some(127));
    assert!(!proof.exists());
}

#[tokio::test]
async fn a_process_of_somebody_else_is_measured_and_never_started_or_stopped() {
    let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
    let root =
        until("it is that program by now", || identity_of(other.id() as i32).filter(|p| p.name == "sleep")).await;
    let bench = Bench::new(&[]);
    let (told, _exits) = mpsc::channel(8);
    let actor = Actor::new(bench.config(AgentTarget::Pid(root.pid)), told).unwrap();
    let started = actor.start().await.unwrap();
    let sample = Sampler::new(actor.agent()).sample();
    let absent: Vec<String> = actor
        .capabilities()
        .into_iter()
        .filter(|c| !c.available)
        .map(|c| format!("{}: {}; {}", c.name, c.reason, c.enabled_by))
        .collect();
    let end = why(actor.carry_out(Effect::EndAgent { root: root.clone(), grace_ms: 100 }).await);
    let limit = why(actor.carry_out(Effect::Examine { slot: whole_cpu(), amount: 0.5 }).await);
    let kill = ok(actor.carry_out(Effect::Kill { process: root.clone(), grace_ms: 5_000 }).await);
    other.wait().unwrap();
    assert_eq!((started, sample.root), (Started::Watching, Some(root)));
    for name in ["launch", "activate", "restart", "throttle.cpu.duty-cycle", "throttle.cpu.cgroup1"] {
        let line = absent.iter().find(|c| c.starts_with(&format!("{name}:"))).unwrap();
        assert!(line.len() > name.len() + 40, "{line}");
    }
    assert!(end.contains("did not start the agent"), "{end}");
    assert!(limit.contains("cannot be limited here"), "{limit}");
    assert!(kill.contains("ended on TERM"), "{kill}");
    assert!(Sampler::new(actor.agent()).sample().root.is_none());
}

#[test]
fn a_target_that_holds_the_sidecar_itself_is_refused() {
    let bench = Bench::new(&[]);
    for target in [AgentTarget::Pid(std::process::id() as i32), AgentTarget::Pid(1), AgentTarget::Pid(i32::MAX)] {
        let (told, _exits) = mpsc::channel(8);
        assert!(Actor::new(bench.config(target.clone()), told).is_err(), "{target:?}");
    }
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = text.lines().find(|l| l.contains(" - cgroup")).and_then(|l| l.split(' ').nth(4)).map(PathBuf::from);
    let Some(top) = point else {
        return skip("a_target_that_holds_the_sidecar_itself_is_refused", "no cgroup hierarchy is mounted");
    };
    let (told, _exits) = mpsc::channel(8);
    let refusal = Actor::new(bench.config(AgentTarget::Cgroup(top)), told).err().unwrap().to_string();
    assert!(refusal.contains("the sidecar itself"), "{refusal}");
}
