//! The two clocks of the contract, and the one timer of the run loop. Boot time is the clock of every deadline, as it
//! goes on while the machine is suspended. Cannot fail.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pitwall_sidecar_core::io::Now;
use rustix::time::{ClockId, clock_gettime};

/// The runtime's timers stand still while the machine is suspended, so boot time is asked this often: a deadline that
/// passed meanwhile is late by no more than this after waking up.
const ASK_EVERY: Duration = Duration::from_secs(1);

#[must_use]
pub fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// The same in the unit of `/proc/PID/stat`, where the start of a process stands.
#[must_use]
pub fn boot_ticks() -> u64 {
    boot_ms() * rustix::param::clock_ticks_per_second() / 1_000
}

#[must_use]
pub fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[must_use]
pub fn now() -> Now {
    Now { boot_ms: boot_ms(), wall_ms: wall_ms() }
}

/// Returns at or after this moment of boot time, at once where that has passed; never for `None`.
pub async fn until(at_ms: Option<u64>) {
    let Some(at_ms) = at_ms else {
        return std::future::pending().await;
    };
    loop {
        let left = at_ms.saturating_sub(boot_ms());
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(left).min(ASK_EVERY)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_deadline_is_met_not_early_and_one_that_passed_at_once() {
        let start = boot_ms();
        until(Some(start + 20)).await;
        assert!(boot_ms() >= start + 20);
        until(Some(start)).await;
        tokio::select! {
            biased;
            () = until(Some(start + 600_000)) => panic!("early"),
            () = until(None) => panic!("never"),
            () = tokio::task::yield_now() => {}
        }
    }
}
