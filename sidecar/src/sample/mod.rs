//! Measures the agent, its processes, the host and the sidecar itself.
//!
//! The cgroup's counters are the truth for the agent where it has one of its own; else its processes are added up.
//! Rates hold over the true time since the last sample, however long that was. What cannot be measured is absent.
//! Each second costs what moved: files are kept open (`kept`, `counters`), processes remembered (`table`), and what is
//! dear or seldom changes is looked at every [`SLOW_EVERY`] samples.
use std::path::PathBuf;

use pitwall_proto::v1;
use pitwall_sidecar_core::io::Sample;
use rustix::time::{ClockId, clock_gettime};

use crate::act::AgentHandle;

pub mod beside;
mod beyond;
pub mod cgroup;
mod clocks;
pub mod command;
mod counters;
pub mod gpu;
pub mod host;
mod kept;
mod means;
pub mod members;
mod network;
mod parse;
pub mod procfs;
mod rates;
mod slow;
mod table;

use beyond::Beyond;
use counters::{Counters, Reader};
use gpu::Gpus;
use host::Host;
use kept::Kept;
pub use means::Means;
use members::{is_known, keep_known};
use network::Network;
use procfs::{ProcFs, Stat, parse_stat};
use rates::{Before, Sums};
use slow::SlowLook;
use table::Table;

/// So many samples apart are the looks at what is dear: I/O, descriptors and command lines of the largest processes,
/// limits, network, workspace, the host's memory.
const SLOW_EVERY: u64 = 5;
/// Over less time nothing has a rate: the kernel's own steps are 10 ms.
const INTERVAL_MIN_S: f64 = 0.02;

pub struct Sampler {
    agent: AgentHandle,
    table: Table,
    host: Host,
    gpus: Gpus,
    beyond: Beyond,
    reader: Reader,
    counters: Counters,
    /// As of the sample before.
    earlier: Counters,
    network: Network,
    workspace: Option<PathBuf>,
    filesystem: Option<v1::Filesystem>,
    own: Own,
    ticks_per_second: f64,
    page_bytes: u64,
    tick: u64,
    stats: Vec<Stat>,
    last: Option<Last>,
    slow: SlowLook,
}

/// What rates are measured against.
struct Last {
    boot_ns: u64,
    sidecar_cpu_ns: u64,
    /// By pid and start time.
    members: Vec<(i32, u64)>,
}

/// The sidecar's own memory and threads.
struct Own {
    stat: Kept,
    buffer: Vec<u8>,
    memory_bytes: Option<u64>,
    threads: Option<u32>,
}

impl Sampler {
    pub fn new(agent: AgentHandle) -> Self {
        Self::with_proc(agent, ProcFs::default())
    }

    /// Another `/proc` is for tests.
    pub fn with_proc(agent: AgentHandle, proc: ProcFs) -> Self {
        Self {
            agent,
            table: Table::new(proc),
            host: Host::default(),
            gpus: Gpus::default(),
            beyond: Beyond::default(),
            reader: Reader::default(),
            counters: Counters::default(),
            earlier: Counters::default(),
            network: Network::default(),
            workspace: None,
            filesystem: None,
            own: Own {
                stat: Kept::new("/proc/self/stat".into()),
                buffer: Vec::new(),
                memory_bytes: None,
                threads: None,
            },
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1) as f64,
            page_bytes: rustix::param::page_size() as u64,
            tick: 0,
            stats: Vec::new(),
            last: None,
            slow: SlowLook::default(),
        }
    }

    /// Also tells what is left of the file system there.
    #[must_use]
    pub fn in_workspace(mut self, workspace: PathBuf) -> Self {
        self.workspace = Some(workspace);
        self
    }

    /// `gpu`, or why it is absent.
    pub fn capabilities(&self) -> Vec<v1::Capability> {
        vec![self.gpus.capability()]
    }

    /// Boot id, host name and totals: for the identity, before the first sample.
    pub fn host(&mut self) -> v1::HostUsage {
        self.host.look(true)
    }

    /// One measurement over the time since the last one. Blocks for a few milliseconds at most.
    pub fn sample(&mut self) -> Sample {
        let boot_ns = nanoseconds(ClockId::Boottime);
        self.sample_at(boot_ns)
    }

    fn sample_at(&mut self, boot_ns: u64) -> Sample {
        self.tick += 1;
        let slow = self.tick % SLOW_EVERY == 1;
        let mut stats = std::mem::take(&mut self.stats);
        self.table.begin();
        self.agent.processes(&mut self.table, &mut stats);
        self.table.end();
        self.choose_root(&stats);
        let view = self.agent.view();
        let last = self.last.take();
        let seconds = last.as_ref().map(|l| boot_ns.saturating_sub(l.boot_ns) as f64 / 1e9);
        let seconds = seconds.filter(|s| *s >= INTERVAL_MIN_S);
        let host = self.host.look(slow);

        if slow && view.places.is_empty() {
            self.beyond.look(&mut self.table.proc, &stats);
        }
        let beyond = std::mem::take(&mut self.beyond);
        let places = if view.places.is_empty() { &beyond.places } else { &view.places };
        self.earlier.clone_from(&self.counters);
        let same = self.reader.read(places, slow, &mut self.counters);
        let source = places.source();
        self.beyond = beyond;
        let with_waits = self.counters.stalled_usec.iter().all(Option::is_none);

        let mut sums = Sums { processes: stats.len(), ..Sums::default() };
        let mut processes = Vec::with_capacity(stats.len());
        for stat in &stats {
            if with_waits {
                self.table.look_at_waits(stat.pid);
            }
            let born_at_ns = stat.start_ticks as f64 / self.ticks_per_second * 1e9;
            let is_new = last.as_ref().is_some_and(|l| born_at_ns >= l.boot_ns as f64);
            processes.extend(self.usage(stat, seconds, is_new, host.cpus, &mut sums));
        }
        processes.sort_unstable_by(largest_first);
        if slow {
            let oldest = stats.iter().map(|s| (s.start_ticks, s.pid)).min().map(|(start, pid)| (pid, start));
            self.network.look(&self.table.proc, oldest, boot_ns);
            self.look_closely(&mut processes, boot_ns);
        }
        sums.io = self.slow.io.filter(|_| !stats.is_empty());

        let sidecar_cpu_ns = nanoseconds(ClockId::ProcessCPUTime);
        let own_cores = last.as_ref().zip(seconds);
        let own_cores = own_cores.map(|(l, s)| sidecar_cpu_ns.saturating_sub(l.sidecar_cpu_ns) as f64 / 1e9 / s);
        let sidecar = self.own_usage(own_cores, slow);
        let before = seconds.filter(|_| same).map(|s| (&self.earlier, s));
        let moved = rates::devices(&self.counters, before);
        let mut agent = rates::agent(&self.counters, before, &sums, seconds, moved.as_deref(), host.cpus);
        (agent.received_bytes_per_s, agent.sent_bytes_per_s) =
            (self.network.rates.map(|r| r.0), self.network.rates.map(|r| r.1));
        let stalls = rates::stalls(&self.counters, before);
        let gpus = self.gpus.look(|| stats.iter().map(Stat::identity).collect());
        count_gpu_memory(&gpus, &mut processes);
        let sample = Sample {
            interval_ms: seconds.map_or(0, |s| (s * 1e3).round().min(f64::from(u32::MAX)) as u32),
            root: view.root.clone().filter(|_| !stats.is_empty()),
            agent,
            oom_kills: before.and_then(|(b, _)| rates::grown(b.events.oom_kill, self.counters.events.oom_kill)),
            // Pressure where the agent has a cgroup that counts it, else the process that waited most for a CPU.
            stall_share: stalls.into_iter().flatten().reduce(f64::max).or(sums.stalled.map(|s| s.clamp(0.0, 1.0))),
            processes,
            gpus,
            sidecar,
            meter: self.meter(source, before, &sums, stalls, moved, host.cpus),
            host,
        };
        let mut members = last.map(|l| l.members).unwrap_or_default();
        keep_known(&stats, &mut members);
        self.last = Some(Last { boot_ns, sidecar_cpu_ns, members });
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
        let known = self.last.as_ref().map_or(&[][..], |l| &l.members);
        let continues = |s: &Stat| view.root.as_ref().is_some_and(|root| s.is(root)) || is_known(known, s);
        if view.root.is_some() && (stats.is_empty() || stats.iter().any(continues)) {
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

    fn usage(
        &mut self,
        stat: &Stat,
        seconds: Option<f64>,
        is_new: bool,
        cpus: Option<u32>,
        sums: &mut Sums,
    ) -> Option<v1::ProcessUsage> {
        let entry = self.table.entry(stat.pid)?;
        let memory_bytes = stat.rss_pages.saturating_mul(self.page_bytes);
        sums.memory_bytes = sums.memory_bytes.saturating_add(memory_bytes);
        sums.threads = sums.threads.saturating_add(stat.threads);
        let mut usage = v1::ProcessUsage {
            identity: Some(stat.identity()),
            memory_bytes: Some(memory_bytes),
            threads: Some(stat.threads),
            read_bytes_per_s: entry.slow.rates.map(|r| r.0),
            write_bytes_per_s: entry.slow.rates.map(|r| r.1),
            descriptors: entry.slow.descriptors,
            command: entry.slow.command.clone(),
            ..v1::ProcessUsage::default()
        };
        let Some(seconds) = seconds else { return Some(usage) };
        let cores = |ns: u64| rates::possible(ns as f64 / 1e9 / seconds, cpus);
        usage.cpu_cores = rates::grown(entry.cpu_before, Some(entry.cpu_ns)).and_then(cores);
        // What was born since counts for the agent from its first moment on.
        let newborn = if is_new && entry.cpu_before.is_none() { cores(entry.cpu_ns) } else { None };
        sums.cpu_cores += usage.cpu_cores.or(newborn).unwrap_or(0.0);
        if let Some(waited) = rates::grown(entry.waited_before, entry.waited) {
            let share = waited as f64 / 1e9 / seconds;
            sums.stalled = Some(sums.stalled.unwrap_or(0.0).max(share));
        }
        Some(usage)
    }

    fn own_usage(&mut self, cpu_cores: Option<f64>, slow: bool) -> v1::Usage {
        if slow {
            let own = self.own.stat.read(&mut self.own.buffer).and_then(parse_stat);
            self.own.memory_bytes = own.map(|s| s.rss_pages.saturating_mul(self.page_bytes));
            self.own.threads = own.map(|s| s.threads);
        }
        v1::Usage {
            cpu_cores,
            memory_bytes: self.own.memory_bytes,
            processes: Some(1),
            threads: self.own.threads,
            ..v1::Usage::default()
        }
    }

    fn meter(
        &self,
        source: &str,
        before: Before<'_>,
        sums: &Sums,
        [cpu_stalled, memory_stalled, io_stalled]: [Option<f64>; 3],
        devices: Option<Vec<v1::DeviceUsage>>,
        cpus: Option<u32>,
    ) -> v1::Meter {
        let events = self.counters.events;
        v1::Meter {
            source: source.into(),
            short_lived_cores: rates::short_lived(&self.counters, before, sums, cpus),
            cpu_stalled,
            memory_stalled,
            io_stalled,
            memory_oom: events.oom,
            memory_oom_kill: events.oom_kill,
            memory_high: events.high,
            memory_max: events.max,
            devices: devices.unwrap_or_default(),
            workspace: self.filesystem,
            slow_interval_ms: self.slow.seconds.map_or(0, |s| (s * 1e3).round().min(f64::from(u32::MAX)) as u32),
            ..v1::Meter::default()
        }
    }
}

/// Each process's part of all devices that tell it.
fn count_gpu_memory(gpus: &[v1::GpuUsage], processes: &mut [v1::ProcessUsage]) {
    for on in gpus.iter().flat_map(|gpu| &gpu.processes) {
        let (Some(identity), Some(bytes)) = (&on.identity, on.memory_bytes) else { continue };
        let same = |i: &v1::ProcessIdentity| (i.pid, i.start_ticks) == (identity.pid, identity.start_ticks);
        if let Some(process) = processes.iter_mut().find(|p| p.identity.as_ref().is_some_and(same)) {
            process.gpu_memory_bytes = Some(process.gpu_memory_bytes.unwrap_or(0).saturating_add(bytes));
        }
    }
}

fn largest_first(a: &v1::ProcessUsage, b: &v1::ProcessUsage) -> std::cmp::Ordering {
    let cpu = |u: &v1::ProcessUsage| u.cpu_cores.unwrap_or(0.0);
    let pid = |u: &v1::ProcessUsage| u.identity.as_ref().map_or(0, |i| i.pid);
    cpu(b).total_cmp(&cpu(a)).then(b.memory_bytes.cmp(&a.memory_bytes)).then(pid(a).cmp(&pid(b)))
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
