//! Measures the agent, its processes, the host and the sidecar itself.
//!
//! The cgroup's counters are the truth for the agent where it has one of its own; else its processes are added up.
//! Rates hold over the true time since the last sample, however long that was. What cannot be measured is absent.
use std::collections::HashMap;

use pitwall_proto::v1;
use pitwall_sidecar_core::io::Sample;
use rustix::time::{ClockId, clock_gettime};

use crate::act::AgentHandle;

pub mod beside;
pub mod cgroup;
pub mod gpu;
pub mod host;
pub mod members;
pub mod procfs;

use cgroup::Counters;
use gpu::Gpus;
use host::Host;
use procfs::{Io, ProcFs, Stat};

pub struct Sampler {
    agent: AgentHandle,
    proc: ProcFs,
    host: Host,
    gpus: Gpus,
    ticks_per_second: f64,
    page_bytes: u64,
    stats: Vec<Stat>,
    last: Option<Last>,
}

/// What rates are measured against.
struct Last {
    boot_ns: u64,
    counters: Counters,
    processes: HashMap<i32, Seen>,
    sidecar_cpu_ns: u64,
}

#[derive(Clone, Copy)]
struct Seen {
    start_ticks: u64,
    cpu_ticks: u64,
    io: Option<Io>,
    /// Nanoseconds on a run queue.
    waited: Option<u64>,
}

/// Sums over processes that the cgroup does not count.
#[derive(Default)]
struct Sums {
    cpu_cores: f64,
    memory_bytes: u64,
    threads: u32,
    read: Option<f64>,
    written: Option<f64>,
    /// Of the process that waited most.
    stalled: Option<f64>,
}

impl Sampler {
    pub fn new(agent: AgentHandle) -> Self {
        Self::with_proc(agent, ProcFs::default())
    }

    /// Another `/proc` is for tests.
    pub fn with_proc(agent: AgentHandle, proc: ProcFs) -> Self {
        Self {
            agent,
            proc,
            host: Host::default(),
            gpus: Gpus::default(),
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1) as f64,
            page_bytes: rustix::param::page_size() as u64,
            stats: Vec::new(),
            last: None,
        }
    }

    /// `gpu`, or why it is absent.
    pub fn capabilities(&self) -> Vec<v1::Capability> {
        vec![self.gpus.capability()]
    }

    /// Boot id, host name and totals: for the identity, before the first sample.
    pub fn host(&mut self) -> v1::HostUsage {
        self.host.look()
    }

    /// One measurement over the time since the last one. Blocks for a few milliseconds at most.
    pub fn sample(&mut self) -> Sample {
        let boot_ns = nanoseconds(ClockId::Boottime);
        self.sample_at(boot_ns)
    }

    fn sample_at(&mut self, boot_ns: u64) -> Sample {
        let mut stats = std::mem::take(&mut self.stats);
        self.agent.processes(&mut self.proc, &mut stats);
        self.choose_root(&stats);
        let view = self.agent.view();
        let counters = match view.places.is_empty() {
            true => Counters::default(),
            false => Counters::read(&mut self.proc, &view.places),
        };
        let last = self.last.take();
        let seconds = last.as_ref().map(|l| boot_ns.saturating_sub(l.boot_ns) as f64 / 1e9).filter(|s| *s >= 1e-3);

        let mut processes = Vec::with_capacity(stats.len());
        let mut seen = HashMap::with_capacity(stats.len());
        let mut sums = Sums::default();
        for stat in &stats {
            let now = self.look_at(stat, view.places.v2.is_none());
            seen.insert(stat.pid, now);
            let before = last.as_ref().and_then(|l| l.processes.get(&stat.pid));
            let before = before.filter(|b| b.start_ticks == stat.start_ticks);
            let born_at_ns = stat.start_ticks as f64 / self.ticks_per_second * 1e9;
            let is_new = last.as_ref().is_some_and(|l| born_at_ns >= l.boot_ns as f64);
            processes.push(self.usage(stat, now, before, seconds, is_new, &mut sums));
        }
        processes.sort_by(largest_first);

        let sidecar_cpu_ns = nanoseconds(ClockId::ProcessCPUTime);
        let before = last.as_ref().zip(seconds);
        let sample = Sample {
            interval_ms: seconds.map_or(0, |s| (s * 1e3).round().min(f64::from(u32::MAX)) as u32),
            root: view.root.clone().filter(|_| !stats.is_empty()),
            agent: agent_usage(&counters, before.map(|(l, s)| (&l.counters, s)), &sums, stats.len()),
            oom_kills: before.and_then(|(l, _)| grown(l.counters.oom_kills, counters.oom_kills)),
            stall_share: stall_share(&counters, before.map(|(l, s)| (&l.counters, s)), &sums),
            processes,
            host: self.host.look(),
            gpus: self.gpus.look(|| stats.iter().map(Stat::identity).collect()),
            sidecar: self
                .own_usage(before.map(|(l, s)| sidecar_cpu_ns.saturating_sub(l.sidecar_cpu_ns) as f64 / 1e9 / s)),
        };
        self.last = Some(Last { boot_ns, counters, processes: seen, sidecar_cpu_ns });
        self.stats = stats;
        sample
    }

    /// In a cgroup that was named, or beside the sidecar, the oldest process is the root, until none that was seen with
    /// it is left.
    fn choose_root(&mut self, stats: &[Stat]) {
        let view = self.agent.view();
        if view.named_cgroup.is_none() && view.beside.is_none() {
            return;
        }
        let known = self.last.as_ref().map(|l| &l.processes);
        let continues = |s: &&Stat| {
            view.root.as_ref().is_some_and(|root| s.is(root))
                || known.is_some_and(|k| k.get(&s.pid).is_some_and(|seen| seen.start_ticks == s.start_ticks))
        };
        if view.root.is_some() && (stats.is_empty() || stats.iter().any(|s| continues(&s))) {
            return;
        }
        let oldest = stats.iter().min_by_key(|s| (s.start_ticks, s.pid));
        if let Some(oldest) = oldest {
            let root = oldest.identity();
            self.agent.change(|view| {
                if let Some(beside) = &view.beside {
                    // Another container has another cgroup; where that is not bound here, there is none.
                    view.places = beside.places_of(root.pid).unwrap_or_default();
                }
                view.root = Some(root);
            });
        }
    }

    fn look_at(&mut self, stat: &Stat, without_pressure: bool) -> Seen {
        Seen {
            start_ticks: stat.start_ticks,
            cpu_ticks: stat.cpu_ticks,
            io: self.proc.io(stat.pid),
            waited: if without_pressure { self.proc.run_queue_wait(stat.pid) } else { None },
        }
    }

    fn usage(
        &self,
        stat: &Stat,
        now: Seen,
        before: Option<&Seen>,
        seconds: Option<f64>,
        is_new: bool,
        sums: &mut Sums,
    ) -> v1::ProcessUsage {
        let memory_bytes = stat.rss_pages.saturating_mul(self.page_bytes);
        sums.memory_bytes = sums.memory_bytes.saturating_add(memory_bytes);
        sums.threads = sums.threads.saturating_add(stat.threads);
        let mut usage = v1::ProcessUsage {
            identity: Some(stat.identity()),
            memory_bytes: Some(memory_bytes),
            threads: Some(stat.threads),
            ..v1::ProcessUsage::default()
        };
        let Some(seconds) = seconds else { return usage };
        let ticks = before.map(|b| now.cpu_ticks.saturating_sub(b.cpu_ticks));
        let cores = ticks.map(|t| t as f64 / self.ticks_per_second / seconds);
        usage.cpu_cores = cores;
        // What was born since counts for the agent from its first tick on.
        let newborn = is_new.then(|| now.cpu_ticks as f64 / self.ticks_per_second / seconds);
        sums.cpu_cores += cores.or(newborn).unwrap_or(0.0);
        if let Some((io, earlier)) = now.io.zip(before.and_then(|b| b.io)) {
            let read = io.read.saturating_sub(earlier.read) as f64 / seconds;
            let written = io.written.saturating_sub(earlier.written) as f64 / seconds;
            usage.read_bytes_per_s = Some(read);
            usage.write_bytes_per_s = Some(written);
            sums.read = Some(sums.read.unwrap_or(0.0) + read);
            sums.written = Some(sums.written.unwrap_or(0.0) + written);
        }
        if let Some(waited) = grown(before.and_then(|b| b.waited), now.waited) {
            let share = waited as f64 / 1e9 / seconds;
            sums.stalled = Some(sums.stalled.unwrap_or(0.0).max(share));
        }
        usage
    }

    fn own_usage(&mut self, cpu_cores: Option<f64>) -> v1::Usage {
        let own = ProcFs::default().stat(std::process::id() as i32);
        v1::Usage {
            cpu_cores,
            memory_bytes: own.map(|s| s.rss_pages.saturating_mul(self.page_bytes)),
            processes: Some(1),
            threads: own.map(|s| s.threads),
            ..v1::Usage::default()
        }
    }
}

fn largest_first(a: &v1::ProcessUsage, b: &v1::ProcessUsage) -> std::cmp::Ordering {
    let cpu = |u: &v1::ProcessUsage| u.cpu_cores.unwrap_or(0.0);
    let pid = |u: &v1::ProcessUsage| u.identity.as_ref().map_or(0, |i| i.pid);
    cpu(b).total_cmp(&cpu(a)).then(b.memory_bytes.cmp(&a.memory_bytes)).then(pid(a).cmp(&pid(b)))
}

/// A counter that went back belongs to something new: not measured.
fn grown(before: Option<u64>, now: Option<u64>) -> Option<u64> {
    now?.checked_sub(before?)
}

fn agent_usage(counters: &Counters, before: Option<(&Counters, f64)>, sums: &Sums, processes: usize) -> v1::Usage {
    let rate = |now: Option<u64>, field: fn(&Counters) -> Option<u64>| {
        before.and_then(|(b, seconds)| Some(grown(field(b), now)? as f64 / 1e6 / seconds))
    };
    let by_cgroup = rate(counters.cpu_usec, |c| c.cpu_usec);
    // Without a counter in the cgroup its processes are added up; an agent that is not there uses nothing.
    let by_processes = before.filter(|_| counters.cpu_usec.is_none() && processes > 0).map(|_| sums.cpu_cores);
    let summed = (processes > 0).then_some(sums.memory_bytes);
    v1::Usage {
        cpu_cores: by_cgroup.or(by_processes),
        memory_bytes: counters.memory_bytes.or(summed),
        processes: u32::try_from(processes).ok(),
        threads: counters.tasks.and_then(|n| u32::try_from(n).ok()).or(Some(sums.threads)),
        read_bytes_per_s: sums.read,
        write_bytes_per_s: sums.written,
        throttled_share: throttled_share(counters, before),
    }
}

/// The kernel adds the time up over CPUs: the share of periods that hit the limit bounds it.
fn throttled_share(counters: &Counters, before: Option<(&Counters, f64)>) -> Option<f64> {
    let (b, seconds) = before?;
    let by_time = grown(b.throttled_usec, counters.throttled_usec)? as f64 / 1e6 / seconds;
    let periods = grown(b.periods, counters.periods).filter(|n| *n > 0);
    let hit = grown(b.throttled_periods, counters.throttled_periods);
    let by_periods = periods.zip(hit).map_or(1.0, |(all, hit)| hit as f64 / all as f64);
    Some(by_time.min(by_periods).clamp(0.0, 1.0))
}

/// Pressure where the agent has a cgroup that counts it, else the run-queue wait of the process that waited most.
fn stall_share(counters: &Counters, before: Option<(&Counters, f64)>, sums: &Sums) -> Option<f64> {
    let (b, seconds) = before?;
    let pressures = b.stalled_usec.iter().zip(&counters.stalled_usec).filter_map(|(b, now)| grown(*b, *now));
    let most = pressures.max().map(|usec| usec as f64 / 1e6 / seconds);
    most.or(sums.stalled).map(|s| s.clamp(0.0, 1.0))
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    u64::try_from(time.tv_sec)
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests;
