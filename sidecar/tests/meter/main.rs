//! What is measured of real processes, against what the kernel accounts to them: in a cgroup of their own, of whichever
//! version there is, and without one.
#![allow(clippy::unwrap_used, reason = "a test says by it what must be there")]

#[allow(dead_code, reason = "shared with the tests of acting")]
#[path = "../act/bench.rs"]
mod bench;

use std::path::Path;
use std::time::{Duration, Instant};

use pitwall_sidecar::act::Actor;
use pitwall_sidecar::sample::Sampler;
use pitwall_sidecar::sample::cgroup::Places;
use pitwall_sidecar_core::io::Sample;

use bench::{Bench, SLACK, Swept, cgroup_rung, clean_up, launched, no_cgroup, skip, until};

/// Clock ticks of the kernel's account, and what passes between two looks at it.
const SLACK_MS: f64 = 25.0;
/// More samples than lie between two slow looks.
const SLOW_LOOKS: usize = 6;

/// Does something when told to, and then waits to be told again.
fn told_to(script: &str) -> Bench {
    let bench = Bench::shell(&format!("mkfifo go; read x < go; {script}; echo > done; read x < go"));
    assert!(bench.path("work").is_dir());
    bench
}

async fn tell(bench: &Bench) {
    let go = bench.path("work/go");
    until("it waits", || go.exists().then_some(())).await;
    // Returns when the other end was opened.
    tokio::task::spawn_blocking(move || std::fs::write(go, "go\n")).await.unwrap().unwrap();
    let done = bench.path("work/done");
    // An emulated kernel takes its time.
    let deadline = Instant::now() + 8 * SLACK;
    while !done.exists() {
        assert!(Instant::now() < deadline, "never: it is done");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Milliseconds of CPU: its own, and that of children it has waited for.
fn accounted(pid: i32) -> (f64, f64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ms = |at: usize| fields[at].parse::<f64>().unwrap() * 1e3 / rustix::param::clock_ticks_per_second() as f64;
    // Numbered from 3 in proc(5): 14 to 17.
    (ms(11) + ms(12), ms(13) + ms(14))
}

fn used_ms(sample: &Sample, cores: Option<f64>) -> f64 {
    cores.expect("measured") * f64::from(sample.interval_ms)
}

/// Needs a cgroup with counters of the agent alone.
fn lacks_cgroup(test: &str, actor: &Actor) -> bool {
    let lacks = cgroup_rung(actor).is_none();
    if lacks {
        skip(test, &no_cgroup(actor));
    }
    lacks
}

#[tokio::test]
async fn what_forks_is_measured_whole_in_a_cgroup_of_its_own() {
    let bench = told_to("i=0; while [ $i -lt 300 ]; do (:); i=$((i+1)); done");
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    if lacks_cgroup("what_forks_is_measured_whole_in_a_cgroup_of_its_own", &actor) {
        return;
    }
    let root = launched(&actor).await;
    let mut sampler = Sampler::new(actor.agent());
    until("its first moments are over", || bench.path("work/go").exists().then_some(())).await;
    assert_eq!(sampler.sample().agent.cpu_cores, None);
    let before = accounted(root.pid);
    tell(&bench).await;
    let sample = sampler.sample();
    let after = accounted(root.pid);
    let (own, children) = (after.0 - before.0, after.1 - before.1);
    let measured = used_ms(&sample, sample.agent.cpu_cores);
    let truth = own + children;
    assert!((measured - truth).abs() <= truth * 0.05 + SLACK_MS, "measured {measured} of {truth} ms");
    let short = used_ms(&sample, sample.meter.short_lived_cores);
    assert!((short - children).abs() <= children * 0.05 + 2.0 * SLACK_MS, "short-lived {short} of {children} ms");
    assert!(sample.meter.source.starts_with("cgroup"), "{}", sample.meter.source);
    clean_up(&actor).await;
}

#[tokio::test]
async fn without_a_cgroup_what_forks_is_not_attributed_and_the_rest_is_exact() {
    let bench = told_to("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done");
    let (actor, _exits) = bench.life_without_cgroup();
    let _swept = Swept(&actor);
    let root = launched(&actor).await;
    let mut sampler = Sampler::new(actor.agent());
    until("its first moments are over", || bench.path("work/go").exists().then_some(())).await;
    sampler.sample();
    let before = accounted(root.pid);
    tell(&bench).await;
    let sample = sampler.sample();
    let truth = accounted(root.pid).0 - before.0;
    let measured = used_ms(&sample, sample.agent.cpu_cores);
    assert!((measured - truth).abs() <= truth * 0.05 + SLACK_MS, "measured {measured} of {truth} ms");
    assert_eq!((sample.meter.short_lived_cores, sample.meter.source.as_str()), (None, "processes"));
}

#[tokio::test]
async fn memory_and_limits_are_those_of_the_cgroup() {
    let bench = told_to("x=$(head -c 12582912 /dev/zero | tr '\\0' x)");
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    if lacks_cgroup("memory_and_limits_are_those_of_the_cgroup", &actor) {
        return;
    }
    launched(&actor).await;
    let mut sampler = Sampler::new(actor.agent());
    let before = sampler.sample();
    assert_eq!(before.agent.cpu_limit_cores, None, "nobody limits it yet");
    tell(&bench).await;
    let places = actor.agent().view().places.clone();
    limit_cpu(&places);
    let samples: Vec<Sample> = (0..SLOW_LOOKS).map(|_| sampler.sample()).collect();
    let last = samples.last().unwrap();
    assert!(samples.iter().any(|s| s.agent.cpu_limit_cores == Some(0.5)), "{last:?}");
    const HELD: u64 = 12 << 20;
    assert!(last.processes[0].memory_bytes.unwrap() >= HELD, "{last:?}");
    assert!(last.agent.memory_bytes.unwrap() >= HELD, "{last:?}");
    let peaks = samples.iter().filter_map(|s| s.agent.memory_peak_bytes);
    assert!(peaks.max().is_none_or(|peak| peak >= HELD), "{last:?}");
    assert_eq!(last.meter.memory_oom_kill.unwrap_or(0), 0);
    clean_up(&actor).await;
}

fn limit_cpu(places: &Places) {
    let write = |directory: &Path, file: &str, value: &str| std::fs::write(directory.join(file), value).is_ok();
    let v1 = places.cpu.as_ref().is_some_and(|d| write(d, "cpu.cfs_quota_us", "50000"));
    let v2 = places.v2.as_ref().is_some_and(|d| d.join("cpu.max").exists() && write(d, "cpu.max", "50000 100000"));
    assert!(v1 || v2, "{places:?}");
}
