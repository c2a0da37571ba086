//! The guardian: a process of its own that stops and continues the agent so that it stays below its limit.
//!
//! It holds the reading end of a pipe whose other end only the sidecar has: when that closes, for whatever reason, it
//! continues every process of the agent and ends. A closed loop: what the agent used is measured, and paid back by
//! stop phases, each shorter than a tenth of a second.
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pitwall_proto::v1;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::agent::AgentView;
use super::process;
use crate::sample::cgroup::Places;
use crate::sample::members::Members;
use crate::sample::procfs::{ProcFs, Stat};

pub const NAME: &str = "guardian";
/// Said once, when the agent is regulated.
pub const READY: u8 = b'r';
const STOP_MAX: Duration = Duration::from_millis(90);
/// Between two stop phases of a large debt, so that the agent is never stopped for longer.
const RUN_MIN: Duration = Duration::from_millis(1);
const RUN: Duration = Duration::from_millis(10);
/// Without a cgroup the whole process table must be read to find new processes.
const RESCAN: Duration = Duration::from_millis(500);
/// Unused time that may be caught up on.
const SAVED_MAX: Duration = Duration::from_millis(50);

#[derive(Debug, PartialEq)]
pub struct Task {
    pub root: v1::ProcessIdentity,
    pub cores: f64,
    pub cgroup: Option<PathBuf>,
}

impl Task {
    pub fn args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec![
            NAME.into(),
            self.root.pid.to_string().into(),
            self.root.start_ticks.to_string().into(),
            self.cores.to_string().into(),
        ];
        args.extend(self.cgroup.iter().map(|d| d.as_os_str().to_owned()));
        args
    }

    fn parse(args: &[OsString]) -> Option<Self> {
        let text = |at: usize| args.get(at).and_then(|a| a.to_str());
        Some(Self {
            root: v1::ProcessIdentity {
                pid: text(0)?.parse().ok().filter(|pid| *pid > 1)?,
                start_ticks: text(1)?.parse().ok()?,
                name: String::new(),
            },
            cores: text(2)?.parse().ok().filter(|c: &f64| c.is_finite() && *c > 0.0)?,
            cgroup: args.get(3).map(PathBuf::from),
        })
    }
}

/// 0: the pipe closed or the agent ended; 2: wrong arguments.
pub fn run(args: &[OsString]) -> u8 {
    let Some(task) = Task::parse(args) else { return 2 };
    // A signal to the terminal's foreground group must not end the guardian while the agent is stopped.
    let _ = rustix::process::setsid();
    let mut guard = Guard::new(&task);
    guard.regulate(task.cores);
    guard.signal(Signal::CONT);
    0
}

struct Guard {
    view: AgentView,
    proc: ProcFs,
    members: Members,
    stats: Vec<Stat>,
    held: HashMap<i32, Held>,
    scanned: Option<Instant>,
    first: bool,
}

struct Held {
    start_ticks: u64,
    cpu_ticks: u64,
    fd: OwnedFd,
}

impl Guard {
    fn new(task: &Task) -> Self {
        let places = Places { v2: task.cgroup.clone(), ..Places::default() };
        let view = AgentView { root: Some(task.root.clone()), launched: true, places, ..AgentView::default() };
        Self {
            view,
            proc: ProcFs::default(),
            members: Members::default(),
            stats: Vec::new(),
            held: HashMap::new(),
            scanned: None,
            first: true,
        }
    }

    fn regulate(&mut self, cores: f64) {
        let mut balance = Balance::new(cores);
        self.measure();
        let mut measured = Instant::now();
        // From here on the limit holds: the sidecar waits for this byte.
        let _ = std::io::stdout().write_all(&[READY]).and_then(|()| std::io::stdout().flush());
        let mut stopping = false;
        loop {
            if pipe_closed(balance.run_for()) {
                return;
            }
            // Where a stop phase is likely, it begins before the measurement: the agent must not run on meanwhile.
            let stopped = Instant::now();
            if stopping {
                self.signal(Signal::STOP);
            }
            let used = self.measure();
            if self.held.is_empty() {
                return;
            }
            balance.add(measured.elapsed(), used);
            measured = Instant::now();
            let stop = balance.stop_for();
            let begins = !stopping;
            stopping = !stop.is_zero();
            if stopping {
                // Once more also for those that were born meanwhile.
                self.signal(Signal::STOP);
                let already = if begins { Duration::ZERO } else { stopped.elapsed() };
                if pipe_closed(stop.saturating_sub(already)) {
                    return;
                }
            }
            self.signal(Signal::CONT);
        }
    }

    /// CPU seconds used since the last time, by all processes of the agent.
    fn measure(&mut self) -> f64 {
        let whole = !self.view.places.is_empty() || self.scanned.is_none_or(|at| at.elapsed() >= RESCAN);
        if whole {
            self.members.look(&mut self.proc, &self.view, std::process::id() as i32, &mut self.stats);
            self.scanned = Some(Instant::now());
        } else {
            let proc = &mut self.proc;
            let again = |old: &Stat| proc.stat(old.pid).filter(|s| s.alive() && s.start_ticks == old.start_ticks);
            self.stats = self.stats.iter().filter_map(again).collect();
        }
        let stats = &self.stats;
        self.held.retain(|pid, held| stats.iter().any(|s| s.pid == *pid && s.start_ticks == held.start_ticks));
        let mut ticks = 0;
        for stat in &self.stats {
            match self.held.get_mut(&stat.pid) {
                Some(held) => {
                    ticks += stat.cpu_ticks.saturating_sub(held.cpu_ticks);
                    held.cpu_ticks = stat.cpu_ticks;
                }
                None => {
                    let Ok(fd) = process::open(&stat.identity()) else { continue };
                    let held = Held { start_ticks: stat.start_ticks, cpu_ticks: stat.cpu_ticks, fd };
                    self.held.insert(stat.pid, held);
                    // What is seen first later on was born meanwhile; what ran before the limit is forgiven.
                    ticks += if self.first { 0 } else { stat.cpu_ticks.min(100) };
                }
            }
        }
        self.first = false;
        ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64
    }

    fn signal(&self, what: Signal) {
        for held in self.held.values() {
            let _ = process::signal(&held.fd, what);
        }
    }
}

/// What the agent may still use, in CPU seconds. Below 0: a debt, to be paid by stop phases.
struct Balance {
    cores: f64,
    seconds: f64,
}

impl Balance {
    fn new(cores: f64) -> Self {
        Self { cores, seconds: 0.0 }
    }

    fn add(&mut self, time: Duration, used: f64) {
        let saved = self.cores * SAVED_MAX.as_secs_f64();
        self.seconds = (self.seconds + self.cores * time.as_secs_f64() - used).min(saved);
    }

    fn stop_for(&self) -> Duration {
        Duration::try_from_secs_f64(-self.seconds / self.cores).unwrap_or(Duration::ZERO).min(STOP_MAX)
    }

    /// After a stop phase that could not pay all, the next comes soon.
    fn run_for(&self) -> Duration {
        if -self.seconds / self.cores > STOP_MAX.as_secs_f64() { RUN_MIN } else { RUN }
    }
}

/// Waits, at most for `time`. The sidecar writes nothing: whatever comes is the end.
fn pipe_closed(time: Duration) -> bool {
    let stdin = std::io::stdin();
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            // Without the pipe there is no guarding.
            Err(_) => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_come_back_as_they_were() {
        let root = v1::ProcessIdentity { pid: 12, start_ticks: 99, name: String::new() };
        for cgroup in [None, Some(PathBuf::from("/c d"))] {
            let task = Task { root: root.clone(), cores: 0.2, cgroup };
            assert_eq!(Task::parse(&task.args()[1..]), Some(task));
        }
        assert_eq!(Task::parse(&["1".into(), "5".into(), "0.2".into()]), None);
        assert_eq!(Task::parse(&["12".into(), "5".into(), "nan".into()]), None);
        assert_eq!(run(&[]), 2);
    }

    #[test]
    fn debts_are_paid_by_stop_phases_under_a_tenth_of_a_second_and_savings_are_bounded() {
        let ms = Duration::from_millis;
        let mut balance = Balance::new(0.2);
        balance.add(ms(10), 0.010);
        assert!((balance.stop_for().as_secs_f64() - 0.040).abs() < 1e-6);
        balance.add(ms(40), 0.0);
        assert!(balance.stop_for() < ms(1) && balance.run_for() == RUN);
        balance.add(ms(10), 0.100);
        assert_eq!((balance.stop_for(), balance.run_for()), (STOP_MAX, RUN_MIN));
        balance.add(Duration::from_secs(3600), 0.0);
        assert!((balance.seconds - 0.010).abs() < 1e-9, "an idle hour is no licence");
    }

    /// The loop against a model of `threads` spinning ones, whose use is told in whole clock ticks.
    #[test]
    fn a_model_of_spinning_threads_is_held_to_its_limit() {
        for (threads, cores) in [(1.0, 0.1), (1.0, 0.2), (2.0, 0.5), (4.0, 0.3)] {
            let mut balance = Balance::new(cores);
            let (mut time, mut used, mut told) = (0.0, 0.0, 0.0);
            let mut stopped = Duration::ZERO;
            while time < 20.0 {
                let run = balance.run_for();
                used += threads * run.as_secs_f64();
                time += run.as_secs_f64();
                let now = (used * 100.0_f64).floor() / 100.0;
                balance.add(run + stopped, now - told);
                told = now;
                stopped = balance.stop_for();
                time += stopped.as_secs_f64();
            }
            let measured: f64 = used / time;
            assert!((measured - cores).abs() < cores * 0.05, "{threads} threads at {cores}: {measured}");
        }
    }
}
