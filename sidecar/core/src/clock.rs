//! Moments that can be compared across a reboot, and jitter. Ages and windows are counted on boot time; only where
//! the host was restarted in between does wall time bridge the gap, and then the age is marked estimated.
use pitwall_proto::state;

use crate::io::Now;

pub fn moment(now: Now, boot_id: &str) -> state::Moment {
    state::Moment { boot_id: boot_id.into(), boot_ms: now.boot_ms, wall_ms: now.wall_ms }
}

/// How long ago `at` was, and whether that is estimated. Never negative: a wall clock that was set back tells 0.
pub fn age(now: Now, boot_id: &str, at: &state::Moment) -> (u64, bool) {
    if at.boot_id == boot_id {
        return (now.boot_ms.saturating_sub(at.boot_ms), false);
    }
    (u64::try_from(now.wall_ms.saturating_sub(at.wall_ms)).unwrap_or(0), true)
}

/// A moment of this boot on its boot clock; of an earlier boot as if that clock had gone on, at least 0.
pub fn on_this_boot(now: Now, boot_id: &str, at: &state::Moment) -> u64 {
    now.boot_ms.saturating_sub(age(now, boot_id, at).0)
}

/// A small generator (splitmix64) from the shell's seed: spreads retries, guards no secret.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from 0 to `max`, both included.
    pub fn up_to(&mut self, max: u64) -> u64 {
        match max.checked_add(1) {
            Some(count) => self.next() % count,
            None => self.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_exact_on_one_boot_and_estimated_across_two() {
        let at = state::Moment { boot_id: "a".into(), boot_ms: 1_000, wall_ms: 50_000 };
        let now = Now { boot_ms: 4_000, wall_ms: 10 };
        assert_eq!(age(now, "a", &at), (3_000, false));
        assert_eq!(age(Now { boot_ms: 5, wall_ms: 57_000 }, "b", &at), (7_000, true));
        // Set back: no negative age.
        assert_eq!(age(Now { boot_ms: 5, wall_ms: 1_000 }, "b", &at), (0, true));
        assert_eq!(on_this_boot(Now { boot_ms: 5, wall_ms: 57_000 }, "b", &at), 0);
    }

    #[test]
    fn jitter_stays_in_its_range_and_spreads() {
        let mut jitter = Jitter::new(7);
        let drawn: Vec<u64> = (0..1_000).map(|_| jitter.up_to(99)).collect();
        assert!(drawn.iter().all(|d| *d < 100));
        let mean = drawn.iter().sum::<u64>() as f64 / 1_000.0;
        assert!((40.0..60.0).contains(&mean), "{mean}");
        assert_eq!(Jitter::new(1).up_to(0), 0);
    }
}
