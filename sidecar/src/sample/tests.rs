//! Tables over a fake `/proc` and a fake cgroup.
use std::fs;
use std::path::Path;

use super::*;
use crate::act::agent::AgentView;

const SECOND: u64 = 1_000_000_000;

struct Fake {
    tree: tempfile::TempDir,
}

impl Fake {
    fn new() -> Self {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("proc")).unwrap();
        Self { tree }
    }

    fn proc(&self) -> std::path::PathBuf {
        self.tree.path().join("proc")
    }

    /// Ticks are those of this machine: 100 a second on every Linux there is.
    fn process(&self, pid: i32, ppid: i32, start: u64, ticks: u64, pages: u64) {
        let directory = self.proc().join(pid.to_string());
        fs::create_dir_all(&directory).unwrap();
        let stat =
            format!("{pid} (p{pid}) R {ppid} {pid} {pid} 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 3 0 {start} 0 {pages} 0");
        fs::write(directory.join("stat"), stat).unwrap();
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn end(&self, pid: i32) {
        fs::remove_dir_all(self.proc().join(pid.to_string())).unwrap();
    }

    fn sampler(&self, view: AgentView) -> Sampler {
        Sampler::with_proc(AgentHandle::new(view), ProcFs::at(self.proc()))
    }
}

fn root(pid: i32, start_ticks: u64) -> AgentView {
    let root = v1::ProcessIdentity { pid, start_ticks, name: format!("p{pid}") };
    AgentView { root: Some(root), ..AgentView::default() }
}

fn cores(sample: &Sample) -> Vec<(i32, Option<f64>)> {
    sample.processes.iter().map(|p| (p.identity.as_ref().unwrap().pid, p.cpu_cores)).collect()
}

#[test]
fn the_first_sample_has_no_rates_and_the_next_ones_hold_over_the_true_interval() {
    let fake = Fake::new();
    fake.process(10, 1, 500, 1_000, 7);
    fake.process(11, 10, 600, 50, 3);
    let mut sampler = fake.sampler(root(10, 500));
    let first = sampler.sample_at(100 * SECOND);
    assert_eq!(first.interval_ms, 0);
    assert_eq!(cores(&first), [(10, None), (11, None)]);
    assert_eq!((first.agent.cpu_cores, first.stall_share, first.oom_kills), (None, None, None));
    assert_eq!(first.agent.memory_bytes, Some(10 * sampler.page_bytes));
    assert_eq!((first.agent.processes, first.agent.threads), (Some(2), Some(6)));

    fake.process(10, 1, 500, 1_050, 7);
    fake.process(11, 10, 600, 170, 3);
    let next = sampler.sample_at(101 * SECOND);
    assert_eq!(next.interval_ms, 1_000);
    assert_eq!(cores(&next), [(11, Some(1.2)), (10, Some(0.5))]);
    assert_eq!(next.agent.cpu_cores, Some(1.7));

    // The host slept: the same use over ten times the time.
    fake.process(11, 10, 600, 290, 3);
    let late = sampler.sample_at(111 * SECOND);
    assert_eq!((late.interval_ms, late.agent.cpu_cores), (10_000, Some(0.12)));
}

#[test]
fn a_pid_that_was_given_again_starts_anew_and_a_newborn_counts_for_the_agent() {
    let fake = Fake::new();
    fake.process(10, 1, 500, 0, 1);
    fake.process(11, 10, 600, 9_000, 1);
    let mut sampler = fake.sampler(root(10, 500));
    sampler.sample_at(100 * SECOND);
    fake.process(11, 10, 10_050, 40, 1);
    let next = sampler.sample_at(101 * SECOND);
    assert_eq!(cores(&next), [(10, Some(0.0)), (11, None)]);
    assert_eq!(next.agent.cpu_cores, Some(0.4));
}

#[test]
fn the_agent_is_gone_when_none_of_its_processes_is_left() {
    let fake = Fake::new();
    fake.process(10, 1, 500, 0, 1);
    fake.process(11, 10, 600, 0, 1);
    let mut sampler = fake.sampler(root(10, 500));
    assert_eq!(sampler.sample_at(SECOND).root.unwrap().pid, 10);
    fake.end(10);
    fake.process(11, 1, 600, 0, 1);
    assert_eq!(sampler.sample_at(2 * SECOND).root.unwrap().pid, 10, "it lives on in its children");
    fake.end(11);
    let gone = sampler.sample_at(3 * SECOND);
    assert_eq!((gone.root, gone.agent.processes, gone.agent.memory_bytes), (None, Some(0), None));
    assert_eq!(gone.agent.cpu_cores, None);
}

fn cgroup(fake: &Fake, usage_usec: u64, pressure: u64, oom: u64) {
    fake.file("cg/cgroup.controllers", "cpu memory\n");
    fake.file("cg/cgroup.procs", "10\n");
    let stat = format!("usage_usec {usage_usec}\nnr_periods 50\nnr_throttled 40\nthrottled_usec {}\n", usage_usec * 4);
    fake.file("cg/cpu.stat", &stat);
    fake.file("cg/memory.current", "1000000\n");
    fake.file("cg/memory.stat", "anon 1\ninactive_file 400000\n");
    fake.file("cg/memory.events", &format!("oom 0\noom_kill {oom}\n"));
    fake.file("cg/cpu.pressure", &format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={pressure}\n"));
}

fn named(path: &Path) -> AgentView {
    AgentView { named_cgroup: Some(path.to_owned()), ..AgentView::default() }
}

#[test]
fn a_cgroup_of_its_own_is_the_truth_for_the_agent() {
    let fake = Fake::new();
    fake.process(10, 1, 500, 0, 1);
    cgroup(&fake, 1_000_000, 0, 3);
    let mut sampler = fake.sampler(named(&fake.tree.path().join("cg")));
    let first = sampler.sample_at(10 * SECOND);
    assert_eq!(first.root.unwrap().pid, 10);
    assert_eq!(first.agent.memory_bytes, Some(600_000));
    cgroup(&fake, 1_200_000, 900_000, 4);
    let next = sampler.sample_at(11 * SECOND);
    assert_eq!(next.agent.cpu_cores, Some(0.2));
    assert_eq!(next.agent.throttled_share, Some(0.8));
    assert_eq!((next.stall_share, next.oom_kills), (Some(0.9), Some(1)));
    // Another cgroup of the same name counts from 0: not measured, never negative.
    cgroup(&fake, 5, 5, 0);
    let anew = sampler.sample_at(12 * SECOND);
    assert_eq!((anew.agent.cpu_cores, anew.stall_share, anew.oom_kills), (None, None, None));
}

#[test]
fn the_root_of_a_named_cgroup_is_its_oldest_until_all_that_was_seen_with_it_is_gone() {
    let fake = Fake::new();
    let directory = fake.tree.path().join("cg");
    let mut sampler = fake.sampler(named(&directory));
    assert_eq!(sampler.sample_at(SECOND).root, None, "the cgroup is not there yet");
    fake.file("cg/cgroup.controllers", "");
    fake.file("cg/cgroup.procs", "12\n10\n");
    fake.process(10, 1, 500, 0, 1);
    fake.process(12, 10, 700, 0, 1);
    assert_eq!(sampler.sample_at(2 * SECOND).root.unwrap().pid, 10);
    fake.end(10);
    fake.file("cg/cgroup.procs", "12\n");
    assert_eq!(sampler.sample_at(3 * SECOND).root.unwrap().pid, 10);
    fake.end(12);
    fake.process(20, 1, 900, 0, 1);
    fake.file("cg/cgroup.procs", "20\n");
    assert_eq!(sampler.sample_at(4 * SECOND).root.unwrap().pid, 20);
}

#[test]
fn waiting_is_the_run_queues_where_no_pressure_is_counted() {
    let fake = Fake::new();
    fake.process(10, 1, 500, 0, 1);
    fake.file("proc/10/schedstat", "5 1000000000 3\n");
    let mut sampler = fake.sampler(root(10, 500));
    sampler.sample_at(10 * SECOND);
    fake.file("proc/10/schedstat", "5 1700000000 9\n");
    assert_eq!(sampler.sample_at(11 * SECOND).stall_share, Some(0.7));
}

/// One slow look, the cheap ones after it, and the next slow one a second apart each.
fn to_the_next_slow_look(sampler: &mut Sampler, from: u64) -> Sample {
    (1..=SLOW_EVERY).map(|n| sampler.sample_at((from + n) * SECOND)).last().unwrap()
}

#[test]
fn io_rates_are_absent_where_they_may_not_be_read_and_never_0() {
    let fake = Fake::new();
    fake.process(10, 1, 500, 0, 1);
    fake.process(11, 10, 501, 0, 1);
    fake.file("proc/10/io", "rchar: 9\nread_bytes: 4096\nwrite_bytes: 0\n");
    let mut sampler = fake.sampler(root(10, 500));
    let first = sampler.sample_at(10 * SECOND);
    assert_eq!((first.agent.read_bytes_per_s, first.meter.slow_interval_ms), (None, 0));
    fake.file("proc/10/io", "rchar: 9\nread_bytes: 14336\nwrite_bytes: 100\n");
    fake.process(10, 1, 500, 3, 1);
    let sample = to_the_next_slow_look(&mut sampler, 10);
    assert_eq!((sample.agent.read_bytes_per_s, sample.agent.write_bytes_per_s), (Some(2048.0), Some(20.0)));
    assert_eq!((sample.interval_ms, sample.meter.slow_interval_ms), (1_000, 5_000));
    let other = sample.processes.iter().find(|p| p.identity.as_ref().unwrap().pid == 11).unwrap();
    assert_eq!(other.read_bytes_per_s, None);
    // Until the next one it stands, with what it covers; then it rests.
    assert_eq!(sampler.sample_at(16 * SECOND).agent.read_bytes_per_s, Some(2048.0));
    assert_eq!(to_the_next_slow_look(&mut sampler, 15).agent.read_bytes_per_s, Some(0.0));
}

#[test]
fn the_largest_are_looked_at_closely_and_their_secrets_are_not_told() {
    let fake = Fake::new();
    fake.process(10, 1, 500, 0, 1);
    fake.file("proc/10/cmdline", "node\0server.js\0--token\0hunter2\0");
    for fd in 0..3 {
        fake.file(&format!("proc/10/fd/{fd}"), "");
    }
    let sample = fake.sampler(root(10, 500)).sample_at(10 * SECOND);
    assert_eq!(sample.processes[0].command, "node server.js --token ***");
    assert!(sample.processes[0].descriptors.is_some());
    // A kernel that gives no size, or a process that may not be looked at.
    fake.process(11, 1, 500, 0, 1);
    assert_eq!(fake.sampler(root(11, 500)).sample_at(SECOND).processes[0].descriptors, None);
}

#[test]
fn what_came_and_went_is_told_by_a_cgroup_and_is_not_attributed_without_one() {
    let fake = Fake::new();
    fake.process(10, 1, 500, 0, 1);
    cgroup(&fake, 1_000_000, 0, 0);
    let mut sampler = fake.sampler(named(&fake.tree.path().join("cg")));
    assert_eq!(sampler.sample_at(10 * SECOND).meter.short_lived_cores, None);
    cgroup(&fake, 2_000_000, 0, 0);
    fake.process(10, 1, 500, 25, 1);
    let sample = sampler.sample_at(11 * SECOND);
    assert_eq!((sample.agent.cpu_cores, sample.meter.short_lived_cores), (Some(1.0), Some(0.75)));
    assert_eq!(sample.meter.source, "cgroup v2");
    let mut alone = fake.sampler(root(10, 500));
    alone.sample_at(10 * SECOND);
    let sample = alone.sample_at(11 * SECOND);
    assert_eq!((sample.meter.short_lived_cores, sample.meter.source.as_str()), (None, "processes"));
}

#[test]
fn another_cgroup_of_the_name_has_no_rate_however_much_it_has_used() {
    let fake = Fake::new();
    fake.process(10, 1, 500, 0, 1);
    cgroup(&fake, 1_000_000, 0, 0);
    let directory = fake.tree.path().join("cg");
    let mut sampler = fake.sampler(named(&directory));
    sampler.sample_at(10 * SECOND);
    fs::rename(&directory, fake.tree.path().join("old")).unwrap();
    cgroup(&fake, 1_900_000, 900_000, 7);
    // The old one is not gone here, as a real one would be: at the slow pace it is asked which one it is.
    for second in 11..15 {
        assert_eq!(sampler.sample_at(second * SECOND).agent.cpu_cores, Some(0.0));
    }
    let sample = sampler.sample_at(15 * SECOND);
    assert_eq!((sample.agent.cpu_cores, sample.stall_share, sample.oom_kills), (None, None, None));
    assert_eq!(sample.meter.memory_oom_kill, Some(7));
}

#[test]
fn no_gap_in_time_and_no_step_of_a_clock_makes_a_spike() {
    let fake = Fake::new();
    fake.process(10, 1, 500, 0, 1);
    let mut sampler = fake.sampler(root(10, 500));
    sampler.sample_at(100 * SECOND);
    // At, how much CPU in all (ticks), and what may be said.
    for (what, at_ms, ticks, meant) in [
        ("a second", 101_000, 50, Some(0.5)),
        ("three missed ones", 105_000, 250, Some(0.5)),
        ("an hour asleep", 3_705_000, 270, Some(0.2 / 3_600.0)),
        ("at once again", 3_705_001, 280, None),
        ("the clock stands", 3_705_001, 281, None),
        ("the clock went back", 3_704_000, 290, None),
        ("as ever", 3_705_000, 340, Some(0.5)),
        ("more than the machine has", 3_706_000, 99_999, None),
        ("it rests", 3_707_000, 99_999, Some(0.0)),
    ] {
        fake.process(10, 1, 500, ticks, 1);
        let sample = sampler.sample_at(at_ms * 1_000_000);
        let process = sample.processes[0].cpu_cores;
        let near = |found: Option<f64>| match (found, meant) {
            (Some(found), Some(meant)) => (found - meant).abs() < 1e-9,
            (found, meant) => found == meant,
        };
        assert!(near(process), "{what}: {process:?}");
        // A sum without the one that is not known is not known to be complete, yet never more than was seen.
        assert!(sample.agent.cpu_cores.unwrap_or(0.0) <= meant.unwrap_or(0.0) + 1e-9, "{what}: {sample:?}");
    }
}

#[test]
fn a_busy_process_is_measured_by_its_clock() {
    let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
    let identity = procfs::identity_of(child.id() as i32).unwrap();
    let view = AgentView { root: Some(identity), ..AgentView::default() };
    let mut sampler = Sampler::new(AgentHandle::new(view));
    assert!(sampler.table.has_clocks());
    sampler.sample();
    let mut seen = 0.0;
    for _ in 0..200 {
        let since = std::time::Instant::now();
        while since.elapsed().as_secs_f64() < 2.0 * INTERVAL_MIN_S {
            std::thread::yield_now();
        }
        seen = sampler.sample().processes[0].cpu_cores.unwrap_or(0.0);
        if seen > 0.0 {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen > 0.0 && seen < 1.3, "{seen}");
    let gone = sampler.sample();
    assert_eq!((gone.root, gone.agent.processes), (None, Some(0)));
}

#[test]
fn the_sidecar_measures_itself_and_the_host() {
    let mut sampler = Sampler::new(AgentHandle::default());
    let first = sampler.sample();
    assert!(first.sidecar.memory_bytes.unwrap() > 100_000 && first.sidecar.cpu_cores.is_none());
    assert!(!first.host.boot_id.is_empty() && first.host.cpus.unwrap() >= 1);
    assert_eq!((first.root, first.agent.processes), (None, Some(0)));
}
