//! What the model cannot judge, each as narrow as it can be, and how often that was so. An exemption that hides a large
//! part of what its invariant judges makes the run fail: see [`Tally::too_wide`].
use std::collections::BTreeMap;

use super::Invariant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exemption {
    ReopenedByAnOlderCopy,
    ResultOfAnOlderCopy,
    NeitherSideKnows,
    TwinsOfOneState,
    NumbersOfTwins,
    LostWithItsDisk,
    GivenUpAfterDamage,
    AckedByALostHistory,
    CountedAsOverflow,
    ClockJumpedOverAReboot,
    RecordOfTheLimitLost,
    LimitOfTwins,
    DiskFullWhileCancelled,
    OwnerStoodStill,
    NeverSeenAlive,
    NumbersBeforeTheyMet,
}

impl Exemption {
    pub const ALL: [Exemption; 16] = [
        Self::ReopenedByAnOlderCopy,
        Self::ResultOfAnOlderCopy,
        Self::NeitherSideKnows,
        Self::TwinsOfOneState,
        Self::NumbersOfTwins,
        Self::LostWithItsDisk,
        Self::GivenUpAfterDamage,
        Self::AckedByALostHistory,
        Self::CountedAsOverflow,
        Self::ClockJumpedOverAReboot,
        Self::RecordOfTheLimitLost,
        Self::LimitOfTwins,
        Self::DiskFullWhileCancelled,
        Self::OwnerStoodStill,
        Self::NeverSeenAlive,
        Self::NumbersBeforeTheyMet,
    ];

    /// The invariant that it hides, and what exactly is not judged.
    pub fn of(self) -> (Invariant, &'static str) {
        use Invariant as I;
        match self {
            Self::ReopenedByAnOlderCopy => (
                I::EndWithoutEffectHasNone,
                "a command that an older copy has at another step than the file that it replaced, until it ends",
            ),
            Self::ResultOfAnOlderCopy => (
                I::EveryResultArrives,
                "the same command: it may end otherwise than the journal was told before the copy came back",
            ),
            Self::NeitherSideKnows => (
                I::EndWithoutEffectHasNone,
                "an older copy does not have the command, and that it was received never reached the journal",
            ),
            Self::TwinsOfOneState => (
                I::EndWithoutEffectHasNone,
                "a command that was open in the copied file, or was delivered to both of original and clone",
            ),
            Self::NumbersOfTwins => (
                I::EveryDurableFactArrives,
                "a fact that was acknowledged to one of two of the same state: the other gave its number to another fact",
            ),
            Self::LostWithItsDisk => {
                (I::EveryDurableFactArrives, "a fact that only the file had that was lost, set back or thrown away")
            }
            Self::GivenUpAfterDamage => (
                I::EveryDurableFactArrives,
                "a fact before the damage that is not the newest of its topic: nobody can say whether it was sent",
            ),
            Self::AckedByALostHistory => {
                (I::EveryDurableFactArrives, "a fact that only the history before a restore had acknowledged")
            }
            Self::CountedAsOverflow => (I::EveryDurableFactArrives, "a fact that is in an overflow count"),
            Self::ClockJumpedOverAReboot => (
                I::NoStartAfterExpiry,
                "received before a reboot, and the wall clock, which alone bridges it, was set in between",
            ),
            Self::RecordOfTheLimitLost => {
                (I::NoLeasePastItsEnd, "the very value at the very cgroup whose record was lost with its file")
            }
            Self::LimitOfTwins => {
                (I::NoLeasePastItsEnd, "a limit while original and clone both live: each has a record of its own")
            }
            Self::DiskFullWhileCancelled => {
                (I::CancelIsKept, "a cancel that waited for room on a disk until its process ended")
            }
            Self::OwnerStoodStill => {
                (I::StaleIsNeverGreen, "an owner that stands still, went on less than a tick ago, or has said goodbye")
            }
            Self::NeverSeenAlive => {
                (I::EveryDurableFactArrives, "an exit, told to a history that never saw that agent alive")
            }
            Self::NumbersBeforeTheyMet => (
                I::EveryDurableFactArrives,
                "(not played) a state that was set back ends once more before it has met its orchestrator",
            ),
        }
    }
}

/// How much was judged, and how much was not.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    judged: BTreeMap<Invariant, u64>,
    excused: BTreeMap<Exemption, u64>,
}

/// Of what its invariant judges, an exemption may hide so much.
const HIDDEN_PERCENT_MAX: f64 = 5.0;

impl Tally {
    pub fn judged(&mut self, invariant: Invariant, times: u64) {
        *self.judged.entry(invariant).or_default() += times;
    }

    pub fn excused(&mut self, exemption: Exemption, times: u64) {
        if times > 0 {
            *self.excused.entry(exemption).or_default() += times;
        }
    }

    pub fn add(&mut self, other: &Tally) {
        for (invariant, times) in &other.judged {
            self.judged(*invariant, *times);
        }
        for (exemption, times) in &other.excused {
            self.excused(*exemption, *times);
        }
    }

    fn percent(&self, exemption: Exemption) -> f64 {
        let judged = self.judged.get(&exemption.of().0).copied().unwrap_or(0);
        let excused = self.excused.get(&exemption).copied().unwrap_or(0);
        100.0 * excused as f64 / (judged + excused).max(1) as f64
    }

    /// Exemptions that hide too much. By the rule of the issue itself a fact on a lost disk is owed to nobody, however
    /// many there are: those are shown, and not held against it.
    pub fn too_wide(&self) -> Vec<Exemption> {
        let by_rule = |e: &Exemption| matches!(e, Exemption::LostWithItsDisk | Exemption::AckedByALostHistory);
        Exemption::ALL.into_iter().filter(|e| !by_rule(e) && self.percent(*e) > HIDDEN_PERCENT_MAX).collect()
    }

    /// Invariants that were never judged: nothing is shown of them.
    pub fn never_judged(&self) -> Vec<Invariant> {
        Invariant::ALL.iter().copied().filter(|i| !self.judged.contains_key(i)).collect()
    }

    pub fn render(&self) -> String {
        let mut text = String::from("judged, by invariant:\n");
        for invariant in Invariant::ALL {
            let judged = self.judged.get(invariant).copied().unwrap_or(0);
            text += &format!("  {:<32} {judged:>12}\n", format!("{invariant:?}"));
        }
        text += "not judged, by exemption:\n";
        for exemption in Exemption::ALL {
            let (invariant, what) = exemption.of();
            let excused = self.excused.get(&exemption).copied().unwrap_or(0);
            let percent = self.percent(exemption);
            text += &format!(
                "  {:<24} {excused:>9}  {percent:>6.3} % of {:<28} {what}\n",
                format!("{exemption:?}"),
                format!("{invariant:?}")
            );
        }
        text
    }
}
