//! What must be so, kept by simple means and without a line of the cores: from the bytes on the disks, the frames on
//! the wire, and what really happened to the agents. Every invariant has a name; a breach is told with it.
mod exempt;
mod fact;
mod journal;
mod leases;
mod site;

use std::collections::BTreeMap;

pub use exempt::{Exemption, Tally};
pub use fact::FactKey;
pub use journal::{Journal, is_end};
pub use leases::Leases;
pub use site::{SetBack, SiteModel, StartBy, records, resource_of};

use pitwall_proto::v1;

macro_rules! invariants {
    ($($name:ident),+ $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Invariant {
            $($name),+
        }

        impl Invariant {
            pub const ALL: &[Invariant] = &[$(Invariant::$name),+];
        }
    };
}

invariants! {
    AcknowledgedOnlyWhatIsDurable,
    PublishedOnlyWhatIsJournaled,
    SentOnlyWhatIsJournaled,
    ToldOnlyWhatIsDurable,
    ActedOnlyOnDurableIntent,
    ActedAtMostOnce,
    CommandMovesForward,
    NumbersOnlyRise,
    ActsOvertakeDirectives,
    NoStartAfterExpiry,
    CancelledNeverStarts,
    CancelIsKept,
    EndWithoutEffectHasNone,
    SuccessMeansDone,
    NoLeasePastItsEnd,
    StaleIsNeverGreen,
    FencedOwnerIsNotFollowed,
    AnotherHistoryIsResynced,
    LostMemoryIsSentNothingOld,
    OneKeyOneCommand,
    SupersededHoldsNothing,
    DamageIsRecognised,
    GoAwayIsHonoured,
    StopIsBounded,
    NewestVerdictIsKept,
    OverflowIsCounted,
    MassLossIsNotLoss,
    EveryDurableFactArrives,
    EveryCommandEnds,
    EveryResultArrives,
    SituationEqualsTruth,
    ReplayEqualsLive,
    LeasesEndWithTheirOwners,
}

#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: Invariant,
    pub at: u64,
    pub text: String,
}

/// What a command was aimed at, when it ended.
#[derive(Clone, Copy, Debug)]
pub struct Victim {
    /// The process of a kill is alive.
    pub alive: bool,
    /// The agent has begun once more since the command was issued.
    pub reborn: bool,
}

/// One effect that really took place.
#[derive(Clone, Debug)]
pub struct Act {
    pub at: u64,
    pub what: &'static str,
}

#[derive(Debug, Default)]
pub struct Model {
    pub violations: Vec<Violation>,
    pub tally: Tally,
    pub journal: Journal,
    pub sites: Vec<SiteModel>,
    pub leases: Vec<Leases>,
    /// By command.
    pub acts: BTreeMap<String, Vec<Act>>,
    /// What operators were promised: key to id.
    pub promised: BTreeMap<String, String>,
    /// Newest moment as of which a check is known to pass, by what has reached the orchestrator.
    pub evidence: BTreeMap<CheckName, u64>,
    /// Commands of which a second act cannot be judged, and why.
    pub excused: BTreeMap<String, Exemption>,
}

/// Agent, deliverable, check.
pub type CheckName = (String, String, String);

impl Model {
    pub fn breach(&mut self, invariant: Invariant, at: u64, text: String) {
        if self.violations.len() < 20 {
            self.violations.push(Violation { invariant, at, text });
        }
    }

    /// One judgement: it holds, or the run has failed.
    pub fn require(&mut self, holds: bool, invariant: Invariant, at: u64, text: impl FnOnce() -> String) {
        self.tally.judged(invariant, 1);
        if !holds {
            self.breach(invariant, at, text());
        }
    }

    /// Judgements that found these.
    pub fn require_none(&mut self, invariant: Invariant, judged: u64, at: u64, breaches: Vec<String>) {
        self.tally.judged(invariant, judged);
        for text in breaches {
            self.breach(invariant, at, text);
        }
    }

    pub fn acted(&mut self, command: &str, what: &'static str, at: u64) {
        let acts = self.acts.entry(command.into()).or_default();
        let before = acts.iter().find(|a| a.what == what).cloned();
        acts.push(Act { at, what });
        self.require(before.is_none(), Invariant::ActedAtMostOnce, at, || {
            format!("{command}: {what} at {} ms and again at {at} ms", before.map_or(0, |b| b.at))
        });
    }

    pub fn acts_of(&self, command: &str) -> usize {
        self.acts.get(command).map_or(0, Vec::len)
    }

    /// Once the journal has an end for a command: what really happened must fit.
    pub fn ended(&mut self, id: &str, state: v1::CommandState, at: u64, victim: Victim) {
        use v1::{CommandState as S, command_spec::Kind};
        let acts = self.acts.get(id).cloned().unwrap_or_default();
        let Some(command) = self.journal.commands.get(id) else { return };
        let kind = command.spec.kind.clone();
        let lasting = matches!(kind, Some(Kind::Throttle(_) | Kind::Unthrottle(_)));
        if matches!(state, S::Rejected | S::Expired | S::Cancelled | S::Superseded) && !lasting {
            match self.excused.get(id).filter(|_| !acts.is_empty()) {
                Some(exemption) => self.tally.excused(*exemption, 1),
                None => self.require(acts.is_empty(), Invariant::EndWithoutEffectHasNone, at, || {
                    format!("{id} ended {state:?}, and yet {}", acts[0].what)
                }),
            }
        }
        if state != S::Succeeded {
            return;
        }
        let done = |what: &str| acts.iter().any(|a| a.what == what);
        let (holds, what) = match kind {
            Some(Kind::Directive(_)) => (done("put"), "no file was put"),
            // After a crash in between the agent may have been started by somebody else.
            Some(Kind::Restart(_) | Kind::Activate(_)) => (done("launch") || victim.reborn, "no other life began"),
            Some(Kind::Kill(_)) => (!victim.alive, "its process lives"),
            Some(Kind::Throttle(_) | Kind::Unthrottle(_)) | None => return,
        };
        self.require(holds, Invariant::SuccessMeansDone, at, || format!("{id} ended SUCCEEDED, and {what}"));
    }
}
