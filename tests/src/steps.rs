//! In which step of a command each side was when it was stopped, from what both had on disk and what really happened; and
//! where to aim the next kill so that each step is met.
use std::fmt;

use crate::audit::{Journal, Kept, is_end};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The orchestrator: asked, and not in the journal. The sidecar: on its way to it, and not in its file.
    Persist,
    /// The orchestrator: in the journal, and not at the sidecar. The sidecar: its result, which the journal lacks.
    Send,
    /// At the sidecar, and nothing has happened.
    Act,
    /// It happened, and there is no result: in the sidecar's file. The orchestrator: in the journal.
    Record,
    /// The result is in the journal, and the sidecar does not know that.
    Acknowledge,
}

impl Step {
    pub const ALL: [Self; 5] = [Self::Persist, Self::Send, Self::Act, Self::Record, Self::Acknowledge];

    /// When it comes, of all that an orchestrator does.
    const fn on_orchestrator(self) -> usize {
        match self {
            Self::Persist => 0,
            Self::Send => 1,
            Self::Act => 2,
            Self::Record => 4,
            Self::Acknowledge => 5,
        }
    }

    const fn on_sidecar(self) -> usize {
        match self {
            Self::Persist => 1,
            Self::Act => 2,
            Self::Record => 3,
            Self::Send => 4,
            Self::Acknowledge => 5,
        }
    }
}

/// One moment of both sides; `None`: nothing of this command was in flight there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub orchestrator: Option<Step>,
    pub sidecar: Option<Step>,
    /// How far it all is, in order.
    stage: usize,
}

impl Cut {
    /// Of the command with this key, of which so much has happened.
    pub fn of(journal: &Journal, kept: &Kept, key: &str, happened: bool) -> Self {
        let cut = |orchestrator, sidecar, stage| Self { orchestrator, sidecar, stage };
        let Some(way) = journal.asked_with(key) else { return cut(Some(Step::Persist), None, 0) };
        let (o, s) = match (way.ended(), kept.command(&way.id)) {
            (false, None) => (Some(Step::Send), Some(Step::Persist)),
            (false, Some((state, _))) if is_end(state) => (Some(Step::Record), Some(Step::Send)),
            (false, Some(_)) => (Some(Step::Act), Some(if happened { Step::Record } else { Step::Act })),
            (true, Some((_, false))) => (Some(Step::Acknowledge), Some(Step::Acknowledge)),
            (true, Some((_, true)) | None) => (None, None),
        };
        let stage = s.map_or(6, Step::on_sidecar);
        cut(o, s, stage)
    }

    pub fn on(&self, side: Side) -> Option<Step> {
        match side {
            Side::Orchestrator => self.orchestrator,
            Side::Sidecar => self.sidecar,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Orchestrator,
    Sidecar,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Orchestrator, Self::Sidecar];
}

/// What was met so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// Of each kind of command: so many microseconds after it was asked for, this was met.
    met: Vec<(&'static str, u64, Cut)>,
    counts: [[usize; 5]; 2],
}

/// Only what was met last says how fast this machine is now.
const REMEMBERED: usize = 40;

impl Seen {
    /// `killed`: the sides whose step was cut short.
    pub fn note(&mut self, kind: &'static str, after: u64, cut: Cut, killed: &[Side]) {
        self.met.push((kind, after, cut));
        for side in killed {
            if let Some(step) = cut.on(*side) {
                self.counts[*side as usize][step as usize] += 1;
            }
        }
    }

    pub fn count(&self, side: Side, step: Step) -> usize {
        self.counts[side as usize][step as usize]
    }

    pub fn missing(&self) -> Vec<(Side, Step)> {
        let all = Side::BOTH.into_iter().flat_map(|side| Step::ALL.map(|step| (side, step)));
        all.filter(|(side, step)| self.count(*side, *step) == 0).collect()
    }

    /// Which step of which side was met least.
    pub fn rarest(&self) -> (Side, Step) {
        let all = Side::BOTH.into_iter().flat_map(|side| Step::ALL.map(|step| (side, step)));
        all.min_by_key(|(side, step)| self.count(*side, *step)).unwrap_or((Side::Orchestrator, Step::Act))
    }

    /// Microseconds within which a command of this kind was, or must have been, in this step.
    pub fn aim(&self, kind: &str, side: Side, step: Step, longest: u64) -> (u64, u64) {
        let wanted = match side {
            Side::Orchestrator => step.on_orchestrator(),
            Side::Sidecar => step.on_sidecar(),
        };
        let same = || self.met.iter().rev().filter(|(of, _, _)| *of == kind).take(REMEMBERED);
        let hits = || same().filter(|(_, _, cut)| cut.stage == wanted).map(|(_, after, _)| *after);
        let before = same().filter(|(_, _, cut)| cut.stage < wanted).map(|(_, after, _)| *after);
        let behind = same().filter(|(_, _, cut)| cut.stage > wanted).map(|(_, after, _)| *after);
        // No command is as fast as the one before it: what came too early and too late overlaps.
        match (hits().min(), hits().max()) {
            (Some(from), Some(to)) => (from / 5 * 4, to / 4 * 5 + 1),
            _ => {
                let (a, b) = (before.max().unwrap_or(0), behind.min().unwrap_or(longest));
                (a.min(b) / 5 * 4, a.max(b) / 4 * 5 + 1)
            }
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<14}{}", "killed in", Step::ALL.map(|step| format!("{:>13}", format!("{step:?}"))).concat())?;
        for side in Side::BOTH {
            let counts = Step::ALL.map(|step| format!("{:>13}", self.count(side, step))).concat();
            writeln!(f, "{:<14}{counts}", format!("{side:?}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(side: Option<Step>, stage: usize) -> Cut {
        Cut { orchestrator: side, sidecar: side, stage }
    }

    #[test]
    fn the_aim_closes_in_on_a_step_that_was_never_met() {
        let mut seen = Seen::default();
        assert_eq!(seen.aim("restart", Side::Sidecar, Step::Act, 1_000), (0, 1_251));
        seen.note("restart", 100, cut(Some(Step::Persist), 1), &Side::BOTH);
        seen.note("restart", 500, cut(Some(Step::Send), 4), &Side::BOTH);
        seen.note("directive", 300, cut(Some(Step::Act), 2), &[]);
        assert_eq!(seen.aim("restart", Side::Sidecar, Step::Act, 1_000), (80, 626));
        seen.note("restart", 200, cut(Some(Step::Act), 2), &[Side::Sidecar]);
        assert_eq!(seen.aim("restart", Side::Sidecar, Step::Act, 1_000), (160, 251));
        assert_eq!((seen.count(Side::Sidecar, Step::Act), seen.count(Side::Orchestrator, Step::Act)), (1, 0));
        assert!(seen.missing().contains(&(Side::Orchestrator, Step::Act)));
    }
}
