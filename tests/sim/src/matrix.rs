//! Every fault strikes just before a step of one side. What cannot happen stands in one table, with the reason.
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Orchestrator,
    Sidecar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// An input is handed to the core.
    Receive,
    /// An intent goes to the disk.
    Persist,
    Send,
    /// An effect begins.
    Act,
    /// What came of it (of an effect, or of what the other side told) goes to the disk.
    Record,
    /// The other side is told that it is durable here.
    Acknowledge,
    /// Operators are told.
    Publish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9: what was written is in the kernel's hands.
    Crash,
    /// SIGTERM: goodbye is said (GoAway, leases undone), then it ends, and comes back later.
    Terminated,
    /// The power fails, and what was not synced is gone.
    UnsyncedLost,
    /// The power fails, and of what was not synced a part is there.
    TornRecord,
    /// A bit of what was durable flips; noticed at the next start. Of the journal a row's checksum tells it, and a backup
    /// that is older has to be restored.
    BitRot,
    DiskFull,
    Partition,
    Delay,
    /// One direction is silent.
    OneWay,
    /// Every link at once.
    Blackout,
    /// At any byte of the frame under way.
    StreamCut,
    ClockAhead,
    ClockBack,
    Suspend,
    Reboot,
    StateLost,
    StateOld,
    StateCloned,
    /// Stopped while another takes over, and comes back.
    PausedOwner,
    /// From a backup: a new lineage.
    Restored,
    PlanChange,
    /// One leaves the plan, and comes back with another one.
    AgentRemoved,
    AgentExit,
    /// Ended and started again before anybody looked.
    AgentReturn,
    WorkspaceGone,
    /// More facts than a spool holds, while nothing can be told.
    SpoolFlood,
}

pub const SIDES: [Side; 2] = [Side::Orchestrator, Side::Sidecar];
pub const STEPS: [Step; 7] =
    [Step::Receive, Step::Persist, Step::Send, Step::Act, Step::Record, Step::Acknowledge, Step::Publish];
pub const FAULTS: [Fault; 26] = [
    Fault::Crash,
    Fault::Terminated,
    Fault::UnsyncedLost,
    Fault::TornRecord,
    Fault::BitRot,
    Fault::DiskFull,
    Fault::Partition,
    Fault::Delay,
    Fault::OneWay,
    Fault::Blackout,
    Fault::StreamCut,
    Fault::ClockAhead,
    Fault::ClockBack,
    Fault::Suspend,
    Fault::Reboot,
    Fault::StateLost,
    Fault::StateOld,
    Fault::StateCloned,
    Fault::PausedOwner,
    Fault::Restored,
    Fault::PlanChange,
    Fault::AgentRemoved,
    Fault::AgentExit,
    Fault::AgentReturn,
    Fault::WorkspaceGone,
    Fault::SpoolFlood,
];

/// Which cells cannot be filled, and why.
pub fn impossible(step: Step, fault: Fault, side: Side) -> Option<&'static str> {
    use Fault as F;
    match (step, fault, side) {
        (Step::Act, _, Side::Orchestrator) => Some("the orchestrator has no effects: it asks sidecars for them"),
        (Step::Publish, _, Side::Sidecar) => Some("a sidecar has nobody to publish to"),
        (_, F::TornRecord, Side::Orchestrator) => {
            Some("a batch is a transaction of the engine, whole or absent; its pages are tested with the real engine")
        }
        (
            Step::Receive | Step::Send | Step::Act | Step::Acknowledge | Step::Publish,
            F::UnsyncedLost | F::TornRecord,
            _,
        ) => Some("nothing is written in this step (Reboot loses what another step has under way)"),
        (
            _,
            F::StateLost
            | F::StateOld
            | F::StateCloned
            | F::AgentExit
            | F::AgentReturn
            | F::WorkspaceGone
            | F::SpoolFlood,
            Side::Orchestrator,
        ) => Some("state directories, spools, workspaces and agents are on the sidecar's side"),
        (_, F::PausedOwner | F::Restored | F::PlanChange | F::AgentRemoved, Side::Sidecar) => {
            Some("ownership, backups and plans are on the orchestrator's side")
        }
        (_, F::Blackout, Side::Sidecar) => Some("of one sidecar's link it is Partition"),
        _ => None,
    }
}

#[derive(Clone, Debug, Default)]
pub struct Matrix(BTreeMap<(Side, Step, Fault), u64>);

impl Matrix {
    pub fn count(&mut self, step: Step, fault: Fault, side: Side) {
        *self.0.entry((side, step, fault)).or_default() += 1;
    }

    pub fn add(&mut self, other: &Matrix) {
        for (cell, count) in &other.0 {
            *self.0.entry(*cell).or_default() += count;
        }
    }

    pub fn empty_cells(&self) -> Vec<(Side, Step, Fault)> {
        let all = SIDES.iter().flat_map(|s| STEPS.iter().flat_map(|t| FAULTS.iter().map(|f| (*s, *t, *f))));
        all.filter(|(s, t, f)| impossible(*t, *f, *s).is_none() && !self.0.contains_key(&(*s, *t, *f))).collect()
    }

    /// One table per side; `n/a` where a reason stands.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut reasons: Vec<&str> = Vec::new();
        for side in SIDES {
            let mut table = comfy_table::Table::new();
            table.load_preset(comfy_table::presets::NOTHING);
            let head = std::iter::once(format!("{side:?}")).chain(STEPS.iter().map(|s| format!("{s:?}")));
            table.set_header(head);
            for fault in FAULTS {
                let cells = STEPS.iter().map(|step| match impossible(*step, fault, side) {
                    Some(why) => {
                        if !reasons.contains(&why) {
                            reasons.push(why);
                        }
                        "n/a".to_owned()
                    }
                    None => self.0.get(&(side, *step, fault)).copied().unwrap_or(0).to_string(),
                });
                table.add_row(std::iter::once(format!("{fault:?}")).chain(cells));
            }
            text += &format!("{table}\n\n");
        }
        text += "n/a, because:\n";
        for why in reasons {
            text += &format!("  {why}\n");
        }
        text
    }
}
