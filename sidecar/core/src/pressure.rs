//! Is the agent itself hurt: held back by a CPU limit, waiting for resources, or short of memory? Only transitions are
//! told. What a whole host suffers is no business of this machine.
use pitwall_proto::v1::{self, Resource};

use crate::{io::Sample, quota, window::Window};

const ON_FROM: f64 = 0.40;
const OFF_BELOW: f64 = 0.30;
const MEASURED: f64 = 0.9;
/// The share is judged over the stall window, at most over this.
const SPAN_MAX_MS: u64 = 10_000;

#[derive(Debug, Default)]
pub struct Pressure {
    throttled: Window,
    stalled: Window,
    /// Until when an out-of-memory kill counts.
    oom_until: u64,
    on: bool,
}

impl Pressure {
    /// As told by an earlier life.
    pub fn new(on: bool) -> Self {
        Self { on, ..Self::default() }
    }

    pub fn sampled(&mut self, now: u64, sample: &Sample, stall_after: u64) -> Option<v1::PressureFact> {
        let span = stall_after.clamp(1, SPAN_MAX_MS);
        let interval = u64::from(sample.interval_ms);
        if let Some(share) = sample.agent.throttled_share {
            self.throttled.add(now, interval, share, span);
        }
        if let Some(share) = sample.stall_share {
            self.stalled.add(now, interval, share, span);
        }
        let killed = sample.oom_kills.unwrap_or(0);
        if killed > 0 {
            self.oom_until = now + stall_after;
        }
        let from = now.saturating_sub(span);
        let throttled = self.throttled.mean(from, now, MEASURED);
        let stalled = self.stalled.mean(from, now, MEASURED);
        let limit = if self.on { OFF_BELOW } else { ON_FROM };
        let over = |share: Option<f64>| share.is_some_and(|s| s >= limit);
        let seconds = span as f64 / 1_000.0;
        // Its own limit or its own size hurt it; else it is short of what others use.
        let waits = now >= self.oom_until && !over(throttled) && over(stalled);
        let what = if now < self.oom_until {
            Some(match killed {
                0 => "out of memory, processes were killed".into(),
                1 => "out of memory, 1 process killed".to_string(),
                n => format!("out of memory, {n} processes killed"),
            })
        } else if over(throttled) {
            Some(format!("throttled {:.0} % of {seconds:.0} s", throttled.unwrap_or(0.0) * 100.0))
        } else if over(stalled) {
            Some(format!("waited for a resource {:.0} % of {seconds:.0} s", stalled.unwrap_or(0.0) * 100.0))
        } else if self.on && throttled.is_none() && stalled.is_none() && self.oom_until == 0 {
            // A new life knows nothing yet: what was told stands.
            return None;
        } else {
            None
        };
        if what.is_some() == self.on {
            return None;
        }
        self.on = what.is_some();
        let resource = if now < self.oom_until { Resource::Memory } else { Resource::Cpu };
        let process = if self.on { quota::largest(resource, &sample.processes).map(|(p, _)| p) } else { None };
        Some(v1::PressureFact { on: self.on, what: what.unwrap_or_default(), process, waits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that is up for a while.
    const BEGIN: u64 = 1_000_000;

    fn sample(throttled: Option<f64>, stalled: Option<f64>, oom: u64) -> Sample {
        Sample {
            interval_ms: 1_000,
            agent: v1::Usage { throttled_share: throttled, ..Default::default() },
            stall_share: stalled,
            oom_kills: Some(oom),
            ..Default::default()
        }
    }

    fn run(row: impl IntoIterator<Item = Sample>) -> Vec<(u64, bool, String)> {
        let mut pressure = Pressure::default();
        let told = row.into_iter().enumerate().filter_map(|(n, sample)| {
            let now = n as u64 + 1;
            pressure.sampled(BEGIN + now * 1_000, &sample, 3_000).map(|f| (now, f.on, f.what))
        });
        told.collect()
    }

    #[test]
    fn throttled_for_most_of_the_window_and_then_no_more() {
        let row = [0.6; 5].into_iter().chain([0.0; 4]).map(|s| sample(Some(s), None, 0));
        let told = run(row);
        assert_eq!(told.iter().map(|t| (t.0, t.1)).collect::<Vec<_>>(), [(3, true), (7, false)]);
        assert_eq!(told[0].2, "throttled 60 % of 3 s");
    }

    #[test]
    fn a_share_between_the_limits_changes_nothing() {
        assert!(run([0.35; 9].map(|s| sample(Some(s), Some(s), 0))).is_empty());
        let row = [0.5, 0.5, 0.5, 0.35, 0.35, 0.35, 0.35].map(|s| sample(None, Some(s), 0));
        assert_eq!(run(row).iter().map(|t| (t.0, t.1)).collect::<Vec<_>>(), [(3, true)]);
    }

    #[test]
    fn an_out_of_memory_kill_hurts_for_a_window() {
        let row = [0, 2, 0, 0, 0].map(|oom| sample(Some(0.0), None, oom));
        let told = run(row);
        assert_eq!(told.iter().map(|t| (t.0, t.1)).collect::<Vec<_>>(), [(2, true), (5, false)]);
        assert_eq!(told[0].2, "out of memory, 2 processes killed");
    }

    #[test]
    fn nothing_measured_is_no_pressure() {
        assert!(run([(); 9].map(|()| sample(None, None, 0))).is_empty());
    }
}
