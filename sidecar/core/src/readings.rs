//! One sample as the orchestrator is shown it (the largest processes by name, all others together), and whether it is
//! worth a frame: where hardly anything moved since the last that was sent, heartbeats say enough. At least once in
//! [`EVERY_MAX_MS`] one is sent, so that what is shown stays of now.
use pitwall_proto::v1;

use crate::io::{Sample, SessionId};

/// Processes that are named.
const TOP_MAX: usize = 20;
/// Readings that are shown grow no older, however seldom heartbeats are.
pub const EVERY_MAX_MS: u64 = 10_000;
/// Less is no news: cores, share of the memory and bytes of it, bytes per second, share of a whole.
const CORES: f64 = 0.01;
const MEMORY_SHARE: f64 = 0.01;
const MEMORY_BYTES: f64 = 1_048_576.0;
const BYTES_PER_S: f64 = 65_536.0;
const SHARE: f64 = 0.05;
/// Of all CPUs of the host, whose other agents are told by their own sidecars.
const HOST_SHARE: f64 = 0.10;

/// The sum of what is known; `None` where nothing is.
fn sum<T: std::ops::Add<Output = T>>(values: impl Iterator<Item = Option<T>>) -> Option<T> {
    values.flatten().reduce(|a, b| a + b)
}

pub fn of(sample: &Sample) -> v1::Readings {
    let (top, rest) = sample.processes.split_at(sample.processes.len().min(TOP_MAX));
    let other = (!rest.is_empty()).then(|| v1::Usage {
        cpu_cores: sum(rest.iter().map(|p| p.cpu_cores)),
        memory_bytes: sum(rest.iter().map(|p| p.memory_bytes)),
        processes: u32::try_from(rest.len()).ok(),
        threads: sum(rest.iter().map(|p| p.threads)),
        read_bytes_per_s: sum(rest.iter().map(|p| p.read_bytes_per_s)),
        write_bytes_per_s: sum(rest.iter().map(|p| p.write_bytes_per_s)),
        ..v1::Usage::default()
    });
    v1::Readings {
        interval_ms: sample.interval_ms,
        agent: Some(sample.agent),
        top: top.to_vec(),
        other,
        host: Some(sample.host.clone()),
        gpus: sample.gpus.clone(),
        sidecar: Some(sample.sidecar),
        // Only who knows the plan can tell.
        named: Vec::new(),
        meter: Some(sample.meter.clone()),
    }
}

/// What was sent last, as far as it is compared.
#[derive(Clone, Debug, Default, PartialEq)]
struct Gist {
    agent: v1::Usage,
    /// Pid, start time, cores, memory.
    top: Vec<(i32, u64, Option<f64>, Option<u64>)>,
    host: (Option<u32>, Option<f64>, Option<u64>, Option<u64>),
    gpus: Vec<v1::GpuUsage>,
    stalls: [Option<f64>; 3],
    short_lived: Option<f64>,
    events: [Option<u64>; 4],
    over_cpu_budget: bool,
    source: String,
}

#[derive(Debug, Default)]
pub struct Told {
    last: Option<(SessionId, u64, Gist)>,
}

impl Told {
    /// Is this sample to be sent in this session? Then it counts as sent.
    pub fn is_due(&mut self, session: SessionId, now: u64, sample: &Sample, heartbeat_every: u64) -> bool {
        let gist = Gist::of(sample);
        let every = heartbeat_every.min(EVERY_MAX_MS);
        let known = self
            .last
            .as_ref()
            .is_some_and(|(of, at, told)| *of == session && now.saturating_sub(*at) < every && told.says_enough(&gist));
        if !known {
            self.last = Some((session, now, gist));
        }
        !known
    }
}

impl Gist {
    fn of(sample: &Sample) -> Self {
        let process = |p: &v1::ProcessUsage| {
            let identity = p.identity.as_ref();
            (identity.map_or(0, |i| i.pid), identity.map_or(0, |i| i.start_ticks), p.cpu_cores, p.memory_bytes)
        };
        let mut top: Vec<_> = sample.processes.iter().take(TOP_MAX).map(process).collect();
        // Which of two equals comes first is no news.
        top.sort_unstable_by_key(|p| (p.0, p.1));
        let (host, meter) = (&sample.host, &sample.meter);
        Self {
            agent: sample.agent,
            top,
            host: (host.cpus, host.cpu_cores, host.memory_used_bytes, host.memory_total_bytes),
            gpus: sample.gpus.clone(),
            stalls: [meter.cpu_stalled, meter.memory_stalled, meter.io_stalled],
            short_lived: meter.short_lived_cores,
            events: [meter.memory_oom, meter.memory_oom_kill, meter.memory_high, meter.memory_max],
            over_cpu_budget: meter.over_cpu_budget,
            source: meter.source.clone(),
        }
    }

    fn says_enough(&self, now: &Self) -> bool {
        let (a, b) = (&self.agent, &now.agent);
        let cpus = f64::from(now.host.0.unwrap_or(1));
        let total = now.host.3.unwrap_or(0) as f64;
        self.host.0 == now.host.0
            && self.events == now.events
            && self.over_cpu_budget == now.over_cpu_budget
            && self.source == now.source
            && (a.processes, a.threads) == (b.processes, b.threads)
            && (a.cpu_limit_cores, a.memory_limit_bytes, a.tasks_limit)
                == (b.cpu_limit_cores, b.memory_limit_bytes, b.tasks_limit)
            && near(a.cpu_cores, b.cpu_cores, CORES)
            && near_bytes(a.memory_bytes, b.memory_bytes)
            && near_bytes(a.swap_bytes, b.swap_bytes)
            && near(a.throttled_share, b.throttled_share, SHARE)
            && near(a.read_bytes_per_s, b.read_bytes_per_s, BYTES_PER_S)
            && near(a.write_bytes_per_s, b.write_bytes_per_s, BYTES_PER_S)
            && near(a.received_bytes_per_s, b.received_bytes_per_s, BYTES_PER_S)
            && near(a.sent_bytes_per_s, b.sent_bytes_per_s, BYTES_PER_S)
            && near(self.short_lived, now.short_lived, CORES)
            && self.stalls.iter().zip(&now.stalls).all(|(a, b)| near(*a, *b, SHARE))
            && near(self.host.1, now.host.1, cpus * HOST_SHARE)
            && near(self.host.2.map(|n| n as f64), now.host.2.map(|n| n as f64), total * MEMORY_SHARE)
            && same_processes(&self.top, &now.top)
            && same_gpus(&self.gpus, &now.gpus)
    }
}

type Process = (i32, u64, Option<f64>, Option<u64>);

fn same_processes(told: &[Process], now: &[Process]) -> bool {
    told.len() == now.len()
        && told.iter().zip(now).all(|(a, b)| {
            // A process has no use on its first sight: that it rests is no news.
            (a.0, a.1) == (b.0, b.1)
                && near(Some(a.2.unwrap_or(0.0)), Some(b.2.unwrap_or(0.0)), CORES)
                && near_bytes(a.3, b.3)
        })
}

fn same_gpus(told: &[v1::GpuUsage], now: &[v1::GpuUsage]) -> bool {
    // Each has figures that move; only one that shows none of them rests.
    let rests = |g: &v1::GpuUsage| g.utilization.is_none_or(|u| u < SHARE);
    told.len() == now.len()
        && told.iter().zip(now).all(|(a, b)| {
            a.index == b.index && rests(a) && rests(b) && near_bytes(a.memory_used_bytes, b.memory_used_bytes)
        })
}

/// Not measured and measured differ, by however little.
fn near(told: Option<f64>, now: Option<f64>, by: f64) -> bool {
    match (told, now) {
        (Some(told), Some(now)) => (told - now).abs() <= by,
        (None, None) => true,
        _ => false,
    }
}

fn near_bytes(told: Option<u64>, now: Option<u64>) -> bool {
    let by = (told.unwrap_or(0) as f64 * MEMORY_SHARE).max(MEMORY_BYTES);
    near(told.map(|n| n as f64), now.map(|n| n as f64), by)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, cpu: f64, memory: u64) -> v1::ProcessUsage {
        v1::ProcessUsage {
            identity: Some(v1::ProcessIdentity { pid, start_ticks: 7, name: "p".into() }),
            cpu_cores: Some(cpu),
            memory_bytes: Some(memory),
            ..Default::default()
        }
    }

    #[test]
    fn the_largest_are_named_and_the_rest_is_summed_up() {
        let process = |n: i32| v1::ProcessUsage {
            identity: Some(v1::ProcessIdentity { pid: n, ..Default::default() }),
            cpu_cores: (n % 2 == 0).then_some(0.5),
            memory_bytes: Some(10),
            ..Default::default()
        };
        let sample = Sample { processes: (0..24).map(process).collect(), ..Default::default() };
        let readings = of(&sample);
        assert_eq!(readings.top.len(), TOP_MAX);
        let other = readings.other.expect("four are left");
        assert_eq!((other.cpu_cores, other.memory_bytes, other.processes), (Some(1.0), Some(40), Some(4)));
        // Not measured stays so.
        assert_eq!(other.threads, None);
        assert_eq!(of(&Sample::default()).other, None);
    }

    /// An agent at rest on a host that does something.
    fn at_rest() -> Sample {
        Sample {
            interval_ms: 1_000,
            processes: vec![process(1, 0.0, 50 << 20), process(2, 0.001, 9 << 20)],
            agent: v1::Usage {
                cpu_cores: Some(0.001),
                memory_bytes: Some(59 << 20),
                processes: Some(2),
                throttled_share: Some(0.0),
                ..Default::default()
            },
            host: v1::HostUsage {
                cpus: Some(4),
                cpu_cores: Some(1.0),
                memory_used_bytes: Some(1 << 30),
                memory_total_bytes: Some(8 << 30),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn what_moved_is_sent_and_what_rests_is_not() {
        type Change = fn(&mut Sample);
        let table: [(&str, Change, bool); 21] = [
            ("nothing", |_| {}, false),
            ("a hair of CPU", |s| s.agent.cpu_cores = Some(0.009), false),
            ("CPU", |s| s.agent.cpu_cores = Some(0.05), true),
            ("CPU is not measured", |s| s.agent.cpu_cores = None, true),
            ("a page of memory", |s| s.agent.memory_bytes = Some((59 << 20) + 4096), false),
            ("memory", |s| s.agent.memory_bytes = Some(80 << 20), true),
            ("throttled", |s| s.agent.throttled_share = Some(0.2), true),
            ("throttling is not measured", |s| s.agent.throttled_share = None, true),
            ("I/O is measured", |s| s.agent.read_bytes_per_s = Some(0.0), true),
            ("one process more", |s| s.processes.push(process(3, 0.0, 1)), true),
            ("another of the same pid", |s| s.processes[1].identity.as_mut().expect("one").start_ticks = 8, true),
            ("another order", |s| s.processes.reverse(), false),
            ("one process does what another did", |s| s.processes[0].cpu_cores = Some(0.3), true),
            ("a process has grown", |s| s.processes[0].memory_bytes = Some(70 << 20), true),
            ("the host does a little more", |s| s.host.cpu_cores = Some(1.3), false),
            ("the host does more", |s| s.host.cpu_cores = Some(1.6), true),
            ("out of memory", |s| s.meter.memory_oom_kill = Some(1), true),
            ("it waits", |s| s.meter.cpu_stalled = Some(0.5), true),
            ("processes come and go", |s| s.meter.short_lived_cores = Some(0.2), true),
            ("over its budget", |s| s.meter.over_cpu_budget = true, true),
            ("a GPU", |s| s.gpus.push(v1::GpuUsage::default()), true),
        ];
        for (what, change, is_sent) in table {
            let mut told = Told::default();
            assert!(told.is_due(1, 1_000, &at_rest(), 10_000), "the first");
            let mut sample = at_rest();
            change(&mut sample);
            assert_eq!(told.is_due(1, 2_000, &sample, 10_000), is_sent, "{what}");
        }
    }

    #[test]
    fn a_busy_gpu_is_news_each_time() {
        let mut sample = at_rest();
        sample.gpus.push(v1::GpuUsage { utilization: Some(0.5), ..Default::default() });
        let mut told = Told::default();
        assert!(told.is_due(1, 1_000, &sample, 10_000) && told.is_due(1, 2_000, &sample, 10_000));
        sample.gpus[0].utilization = Some(0.0);
        assert!(told.is_due(1, 3_000, &sample, 10_000) && !told.is_due(1, 4_000, &sample, 10_000));
    }

    #[test]
    fn what_rests_is_sent_once_in_a_heartbeat_and_at_once_to_a_new_session() {
        for (heartbeat_every, meant) in [(10_000, 10_000), (3_000, 3_000), (60_000, EVERY_MAX_MS)] {
            let mut told = Told::default();
            let sent = (0..=60).map(|s| s * 1_000).filter(|now| told.is_due(1, *now, &at_rest(), heartbeat_every));
            let sent: Vec<u64> = sent.collect();
            assert_eq!(sent, (0..=60_000 / meant).map(|n| n * meant).collect::<Vec<_>>());
            assert!(told.is_due(2, 60_001, &at_rest(), heartbeat_every));
        }
    }

    #[test]
    fn a_slow_drift_is_compared_with_what_was_sent_and_not_with_the_sample_before() {
        let mut told = Told::default();
        let mut sample = at_rest();
        assert!(told.is_due(1, 0, &sample, 10_000));
        let mut sent = 0;
        for n in 1..=9_u64 {
            sample.agent.cpu_cores = Some(0.004 * n as f64);
            sent += u32::from(told.is_due(1, n * 1_000, &sample, 10_000));
        }
        assert!(sent >= 2, "{sent}");
    }
}
