//! From counters to rates. Pure. Rates hold over the true time between two looks; a counter that went back belongs to
//! something new, and a rate that no machine can have is a fault of the counter: neither is measured, and never a spike.
use pitwall_proto::v1;

use super::counters::Counters;
use super::parse::{Device, Limit};

/// Counters are not read at the same instant as the clock: so much more than all CPUs may seem to be used.
const OVER: f64 = 1.25;

/// What the agent's counters said before, and how long ago. Only of the very same cgroups.
pub type Before<'a> = Option<(&'a Counters, f64)>;

/// Sums over the processes of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    pub processes: usize,
    pub cpu_cores: f64,
    pub memory_bytes: u64,
    pub threads: u32,
    /// Read and written.
    pub io: Option<(f64, f64)>,
    /// Of the process that waited most.
    pub stalled: Option<f64>,
}

pub fn grown(before: Option<u64>, now: Option<u64>) -> Option<u64> {
    now?.checked_sub(before?)
}

/// Cores, where a machine of so many CPUs can have used them.
pub fn possible(cores: f64, cpus: Option<u32>) -> Option<f64> {
    let most = cpus.map_or(f64::MAX, |n| f64::from(n) * OVER);
    (cores.is_finite() && cores >= 0.0 && cores <= most).then_some(cores)
}

/// CPU of the agent's cgroup.
pub fn cpu_cores(now: &Counters, before: Before<'_>, cpus: Option<u32>) -> Option<f64> {
    let (earlier, seconds) = before?;
    possible(grown(earlier.cpu_usec, now.cpu_usec)? as f64 / 1e6 / seconds, cpus)
}

/// The kernel adds the time up over CPUs: the share of periods that hit the limit bounds it.
pub fn throttled_share(now: &Counters, before: Before<'_>) -> Option<f64> {
    let (earlier, seconds) = before?;
    let by_time = grown(earlier.throttled_usec, now.throttled_usec)? as f64 / 1e6 / seconds;
    let periods = grown(earlier.periods, now.periods).filter(|n| *n > 0);
    let hit = grown(earlier.throttled_periods, now.throttled_periods);
    let by_periods = periods.zip(hit).map_or(1.0, |(all, hit)| hit as f64 / all as f64);
    Some(by_time.min(by_periods).clamp(0.0, 1.0))
}

/// For CPU, memory and I/O.
pub fn stalls(now: &Counters, before: Before<'_>) -> [Option<f64>; 3] {
    let mut shares = [None; 3];
    if let Some((earlier, seconds)) = before {
        for (share, (then, now)) in shares.iter_mut().zip(earlier.stalled_usec.iter().zip(&now.stalled_usec)) {
            *share = grown(*then, *now).map(|usec| (usec as f64 / 1e6 / seconds).clamp(0.0, 1.0));
        }
    }
    shares
}

/// By device, in bytes per second. A device that is new has moved nothing before.
pub fn devices(now: &Counters, before: Before<'_>) -> Option<Vec<v1::DeviceUsage>> {
    let (earlier, seconds) = before?;
    let earlier = earlier.devices.as_ref()?;
    let of = |device: &Device| {
        let same = |d: &&Device| (d.major, d.minor) == (device.major, device.minor);
        let then = earlier.iter().find(same).copied().unwrap_or_default();
        let rate = |then, now| grown(Some(then), Some(now)).map(|bytes| bytes as f64 / seconds);
        v1::DeviceUsage {
            device: format!("{}:{}", device.major, device.minor),
            read_bytes_per_s: rate(then.read, device.read),
            write_bytes_per_s: rate(then.written, device.written),
        }
    };
    Some(now.devices.as_ref()?.iter().map(of).collect())
}

fn total(devices: &[v1::DeviceUsage]) -> (Option<f64>, Option<f64>) {
    // One that is not known makes the sum unknown.
    let sum = |of: fn(&v1::DeviceUsage) -> Option<f64>| devices.iter().try_fold(0.0, |sum, d| Some(sum + of(d)?));
    (sum(|d| d.read_bytes_per_s), sum(|d| d.write_bytes_per_s))
}

pub fn agent(
    now: &Counters,
    before: Before<'_>,
    sums: &Sums,
    seconds: Option<f64>,
    moved: Option<&[v1::DeviceUsage]>,
    cpus: Option<u32>,
) -> v1::Usage {
    // Without a counter in the cgroup its processes are added up; an agent that is not there uses nothing.
    let alive = sums.processes > 0;
    let summed = seconds.filter(|_| now.cpu_usec.is_none() && alive).map(|_| sums.cpu_cores);
    let (read, written) = match moved {
        Some(devices) => total(devices),
        None => (sums.io.map(|io| io.0), sums.io.map(|io| io.1)),
    };
    v1::Usage {
        cpu_cores: cpu_cores(now, before, cpus).or(summed.and_then(|cores| possible(cores, cpus))),
        memory_bytes: now.memory_bytes.or(alive.then_some(sums.memory_bytes)),
        processes: u32::try_from(sums.processes).ok(),
        threads: now.tasks.and_then(|n| u32::try_from(n).ok()).or(Some(sums.threads)),
        read_bytes_per_s: read,
        write_bytes_per_s: written,
        throttled_share: throttled_share(now, before),
        cpu_limit_cores: now.cpu_limit.and_then(Limit::at),
        memory_limit_bytes: now.memory_limit.and_then(Limit::at),
        tasks_limit: now.tasks_limit.and_then(Limit::at),
        memory_peak_bytes: now.memory_peak,
        swap_bytes: now.swap_bytes,
        received_bytes_per_s: None,
        sent_bytes_per_s: None,
    }
}

/// What the cgroup counted and no process that was seen did. They are not read at one instant: no less than 0.
pub fn short_lived(now: &Counters, before: Before<'_>, sums: &Sums, cpus: Option<u32>) -> Option<f64> {
    Some((cpu_cores(now, before, cpus)? - sums.cpu_cores).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(usec: u64) -> Counters {
        Counters { cpu_usec: Some(usec), ..Counters::default() }
    }

    /// Recorded rows: what was counted before and now, over how long, on how many CPUs, and what may be said of it.
    #[test]
    fn no_row_gives_a_spike() {
        let rows = [
            ("a second of half a core", 1_000_000, 1_500_000, 1.0, Some(0.5)),
            ("a missed tick", 1_000_000, 2_000_000, 2.0, Some(0.5)),
            ("the machine slept for an hour", 1_000_000, 1_500_000, 3_600.0, Some(0.5 / 3_600.0)),
            ("it rests", 1_000_000, 1_000_000, 1.0, Some(0.0)),
            ("the counter began anew", 9_000_000, 10, 1.0, None),
            ("the counter jumped", 0, 3_600_000_000, 1.0, None),
            ("both CPUs, read a little late", 0, 2_020_000, 1.0, Some(2.02)),
        ];
        for (what, before, now, seconds, meant) in rows {
            let found = cpu_cores(&cpu(now), Some((&cpu(before), seconds)), Some(2));
            assert_eq!(found, meant, "{what}");
        }
        assert_eq!(cpu_cores(&cpu(7), None, Some(2)), None, "the first look, or another cgroup");
        assert_eq!(cpu_cores(&Counters::default(), Some((&cpu(7), 1.0)), Some(2)), None);
    }

    #[test]
    fn the_share_that_was_held_back_is_bounded_by_the_periods_that_were() {
        let counted = |usec, periods, hit| Counters {
            throttled_usec: Some(usec),
            periods: Some(periods),
            throttled_periods: Some(hit),
            ..Counters::default()
        };
        for (now, meant) in [
            (counted(500_000, 50, 50), Some(0.5)),
            // Four threads were each held back for most of it.
            (counted(3_200_000, 50, 40), Some(0.8)),
            (counted(0, 50, 0), Some(0.0)),
            (Counters::default(), None),
        ] {
            assert_eq!(throttled_share(&now, Some((&counted(0, 0, 0), 1.0))), meant, "{now:?}");
        }
    }

    #[test]
    fn devices_come_go_and_begin_anew() {
        let device = |minor, read, written| Device { major: 8, minor, read, written };
        let counted = |devices: &[Device]| Counters { devices: Some(devices.to_vec()), ..Counters::default() };
        let before = counted(&[device(0, 1_000, 50), device(1, 9, 9)]);
        let now = counted(&[device(0, 3_000, 10), device(2, 40, 0)]);
        let found = devices(&now, Some((&before, 2.0))).unwrap();
        let shown: Vec<_> =
            found.iter().map(|d| (d.device.as_str(), d.read_bytes_per_s, d.write_bytes_per_s)).collect();
        assert_eq!(shown, [("8:0", Some(1_000.0), None), ("8:2", Some(20.0), Some(0.0))]);
        let whole = agent(&now, None, &Sums::default(), None, Some(&found), None);
        assert_eq!((whole.read_bytes_per_s, whole.write_bytes_per_s), (Some(1_020.0), None));
        // Nothing was moved, and that is known; or it is not counted at all.
        assert_eq!(total(&[]), (Some(0.0), Some(0.0)));
        assert_eq!(devices(&Counters::default(), Some((&before, 2.0))), None);
    }

    #[test]
    fn what_came_and_went_is_the_rest_of_the_cgroups_and_never_below_0() {
        let sums = |cpu_cores| Sums { processes: 1, cpu_cores, ..Sums::default() };
        let (before, now) = (cpu(0), cpu(1_000_000));
        assert_eq!(short_lived(&now, Some((&before, 1.0)), &sums(0.25), Some(2)), Some(0.75));
        assert_eq!(short_lived(&now, Some((&before, 1.0)), &sums(1.01), Some(2)), Some(0.0));
        assert_eq!(short_lived(&Counters::default(), None, &sums(0.25), Some(2)), None);
    }
}
