//! Project time: the wall clock as it was at the start, carried on by a clock that also counts suspend and never jumps.
use std::time::{SystemTime, UNIX_EPOCH};

use pitwall_core::io::Millis;
use rustix::time::{ClockId, clock_gettime};

#[derive(Clone, Copy, Debug)]
pub struct ProjectClock {
    base: Millis,
    started: Millis,
}

impl ProjectClock {
    /// Starts at the wall clock's time, or at `last` where that is later: a journal's time never runs backwards.
    pub fn start(last: Millis) -> Self {
        Self { base: wall().max(last), started: boot() }
    }

    pub fn now(&self) -> Millis {
        self.base + (boot() - self.started)
    }
}

/// Unix milliseconds.
pub fn wall() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

fn boot() -> Millis {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec * 1_000 + now.tv_nsec / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_from_the_later_of_wall_clock_and_journal() {
        let clock = ProjectClock::start(0);
        assert!((wall() - clock.now()).abs() < 10_000);
        let ahead = wall() + 3_600_000;
        let clock = ProjectClock::start(ahead);
        let first = clock.now();
        assert!(first >= ahead);
        assert!(clock.now() >= first);
    }
}
