//! How fast the night goes: the plan's windows, and when the agents do what. Short windows make a short night; no
//! clock is scaled anywhere.
use super::{args::Windows, cast::Dice};

/// Milliseconds throughout.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    pub windows: PlanWindows,
    pub moments: Moments,
    /// The night is watched for at least so long: what must not happen would have happened by then.
    pub at_least_ms: u64,
    /// And ends then, whatever is still missing.
    pub deadline_ms: u64,
    /// How long the operator waits whether the owner of something missing comes back to it by itself.
    pub patience_ms: u64,
    pub throttle_for_ms: u32,
    pub throttle_ttl_ms: u32,
}

/// What the plan says.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanWindows {
    /// For those who never show up.
    pub expected_within_ms: u64,
    /// For those who do: long enough for a slow machine to start them all.
    pub expected_within_others_ms: u64,
    pub stall_after_ms: u64,
    pub misdirected_after_ms: u64,
    pub activity_every_ms: u64,
    pub rescan_every_ms: u64,
    pub quota_for_ms: u64,
    pub heartbeat_every_ms: u64,
    pub start_grace_ms: u64,
    pub effect_within_ms: u64,
    pub check_every_ms: u64,
    pub fresh_for_ms: u64,
    pub hysteresis_ms: u64,
    pub estimate_ms: u64,
}

/// When agents do what, from their own start on.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    pub auth_every_ms: u64,
    pub first_claim_ms: u64,
    pub second_claim_ms: u64,
    pub side_every_ms: u64,
    pub look_every_ms: u64,
    /// From reading a note to having done what it says.
    pub obey_after_ms: u64,
    /// When backend makes its API by itself, where it behaves.
    pub own_route_ms: u64,
    pub layout_ms: u64,
    pub login_ms: u64,
    pub poll_every_ms: u64,
    pub page_step_ms: u64,
    pub cpu_ms: u64,
    /// After the CPU.
    pub memory_after_ms: u64,
    pub devops_step_ms: u64,
    pub gpu_ms: u64,
    pub database_ms: u64,
    pub embeddings_ms: u64,
    pub design_step_ms: u64,
}

impl Pace {
    pub fn of(windows: Windows, dice: &mut Dice) -> Self {
        let full = windows == Windows::Full;
        let pick = |long: u64, short: u64| if full { long } else { short };
        let mut about = |long: u64, short: u64| dice.about(pick(long, short));
        let moments = Moments {
            auth_every_ms: about(500, 150),
            first_claim_ms: about(4_000, 1_500),
            second_claim_ms: about(12_000, 4_500),
            side_every_ms: about(1_100, 500),
            look_every_ms: about(700, 300),
            obey_after_ms: about(1_500, 600),
            own_route_ms: about(3_000, 1_000),
            layout_ms: about(4_500, 2_200),
            login_ms: about(9_000, 3_800),
            poll_every_ms: about(500, 250),
            page_step_ms: about(1_600, 1_000),
            cpu_ms: about(14_000, 4_500),
            memory_after_ms: about(16_000, 7_000),
            devops_step_ms: about(1_500, 700),
            gpu_ms: about(18_000, 6_000),
            database_ms: about(32_000, 11_000),
            embeddings_ms: about(6_000, 2_200),
            design_step_ms: about(900, 500),
        };
        let windows = PlanWindows {
            expected_within_ms: pick(8_000, 3_000),
            expected_within_others_ms: pick(20_000, 15_000),
            stall_after_ms: pick(10_000, 3_000),
            misdirected_after_ms: pick(10_000, 3_000),
            activity_every_ms: pick(1_000, 500),
            rescan_every_ms: pick(1_000, 500),
            quota_for_ms: pick(3_000, 1_000),
            heartbeat_every_ms: pick(3_000, 3_000),
            start_grace_ms: pick(5_000, 3_000),
            effect_within_ms: pick(25_000, 8_000),
            check_every_ms: pick(1_000, 500),
            fresh_for_ms: pick(20_000, 15_000),
            hysteresis_ms: pick(2_000, 1_000),
            estimate_ms: pick(150_000, 60_000),
        };
        Self {
            patience_ms: 2 * windows.misdirected_after_ms,
            windows,
            moments,
            at_least_ms: pick(42_000, 17_000),
            deadline_ms: pick(80_000, 26_000),
            throttle_for_ms: if full { 40_000 } else { 15_000 },
            throttle_ttl_ms: if full { 15_000 } else { 6_000 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_seed_the_night_has_room_for_all_of_it() {
        for windows in [Windows::Full, Windows::Short] {
            for seed in 0..200 {
                let pace = Pace::of(windows, &mut Dice::new(seed));
                let (w, m) = (&pace.windows, &pace.moments);
                // Slowest finding: a reading of a second must be complete, and another for the window's end.
                let memory = m.cpu_ms + m.memory_after_ms + w.quota_for_ms + 2_500;
                assert!(memory <= pace.at_least_ms, "seed {seed}: memory at {memory}");
                // Where backend behaves, its API stands before frontend has nothing else to do; what login needs always.
                assert!(m.own_route_ms + 1_500 < m.login_ms, "seed {seed}");
                assert!(3 * m.auth_every_ms + w.check_every_ms + w.rescan_every_ms < m.layout_ms, "seed {seed}");
                assert!(m.layout_ms + 500 < m.login_ms, "seed {seed}");
                // Devops has begun when ai-ml begins to wait.
                assert!(m.devops_step_ms + w.activity_every_ms < m.embeddings_ms, "seed {seed}");
                // Nobody who works is quiet for a window.
                let slowest = [m.side_every_ms, m.devops_step_ms, m.page_step_ms, m.design_step_ms];
                assert!(slowest.iter().all(|ms| 2 * ms < w.stall_after_ms), "seed {seed}");
                // Two directives' worth of time after the last moment at which one is sent.
                let told = m.login_ms + 2_000 + pace.patience_ms + w.effect_within_ms;
                assert!(told < pace.deadline_ms, "seed {seed}: told by {told}");
                assert!(w.estimate_ms > pace.deadline_ms + 10_000, "nothing is overdue in the night");
            }
        }
    }

    #[test]
    fn a_short_night_waits_for_no_window_above_3_seconds() {
        let w = Pace::of(Windows::Short, &mut Dice::new(1)).windows;
        let waited_for = [
            w.expected_within_ms,
            w.stall_after_ms,
            w.misdirected_after_ms,
            w.activity_every_ms,
            w.rescan_every_ms,
            w.quota_for_ms,
            w.heartbeat_every_ms,
            w.check_every_ms,
            w.hysteresis_ms,
        ];
        assert!(waited_for.iter().all(|ms| *ms <= 3_000), "{waited_for:?}");
    }
}
