//! After every input: whatever follows from the new state becomes events, until nothing more follows.
use std::collections::BTreeMap;

use pitwall_proto::{
    journal::{self, event::Body},
    v1::{AgentStatus, CommandState, FindingKind, InterventionOutcome},
};

use super::Project;
use crate::{
    derive::{self, FindingView},
    io::Millis,
    state::{CommandRecord, Promise},
};

/// Transitions settle in a few rounds; more would be a rule that contradicts itself.
const ROUNDS_MAX: usize = 12;

impl Project {
    /// In stages: agents are judged only once what their deliverables changed is in the state, findings only once
    /// the agents are; else one input would show a status that never was.
    pub(super) fn settle(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let stages = [
            Self::settle_deliverables,
            Self::settle_waits,
            Self::settle_agents,
            Self::settle_findings,
            Self::settle_interventions,
        ];
        for _ in 0..ROUNDS_MAX {
            self.derived = derive::derive(&self.state);
            let before = self.batch.len();
            if !stages.iter().any(|stage| {
                stage(self);
                self.batch.len() > before
            }) {
                return;
            }
        }
        self.derived = derive::derive(&self.state);
    }

    /// Time alone may have changed what is shown.
    pub(super) fn pass_deadlines(&mut self) {
        if let Some((moment, why)) = self.derived.next_deadline.clone()
            && moment <= self.now
        {
            self.emit(Body::DeadlinePassed(journal::DeadlinePassed { why }));
        }
        self.end_silent_sessions();
        self.pass_liveness();
        self.pass_ledger();
    }

    fn settle_deliverables(&mut self) {
        let changed: Vec<_> = self
            .derived
            .deliverables
            .iter()
            .filter(|(id, view)| self.state.deliverables.get(id).is_some_and(|d| d.status != view.status))
            .map(|(id, view)| (id.clone(), self.state.deliverables[id].status, view.status))
            .collect();
        for (id, from, to) in changed {
            self.emit(Body::DeliverableStatusChanged(journal::DeliverableStatusChanged {
                agent: id.agent,
                deliverable: id.name,
                from: from as i32,
                to: to as i32,
            }));
        }
    }

    fn settle_waits(&mut self) {
        let waited = self.derived.waited_for.clone();
        let changed: Vec<_> = self
            .state
            .deliverables
            .iter()
            .filter(|(id, d)| d.waited_since.is_some() != waited.contains(id))
            .map(|(id, d)| (id.clone(), d.waited_since.is_none()))
            .collect();
        for (id, waited_for) in changed {
            self.emit(Body::WaitChanged(journal::WaitChanged { agent: id.agent, deliverable: id.name, waited_for }));
        }
    }

    fn settle_agents(&mut self) {
        let changed: Vec<_> = self
            .derived
            .agents
            .iter()
            .filter_map(|(name, view)| {
                let agent = self.state.agents.get(name)?;
                let same = agent.status == view.status && agent.status_reason == view.reason;
                (!same).then(|| (name.clone(), agent.status, view.status, view.reason.clone()))
            })
            .collect();
        for (agent, from, to, reason) in changed {
            self.emit(Body::AgentStatusChanged(journal::AgentStatusChanged {
                agent,
                from: from as i32,
                to: to as i32,
                reason,
            }));
        }
    }

    fn settle_findings(&mut self) {
        let wanted: BTreeMap<(i32, String), FindingView> =
            self.derived.findings.iter().map(|f| ((f.kind as i32, f.subject.clone()), f.clone())).collect();
        let open: BTreeMap<(i32, String), u64> =
            self.state.findings.iter().map(|(id, f)| ((f.opened.kind, f.opened.subject.clone()), *id)).collect();
        for (key, id) in &open {
            let Some(view) = wanted.get(key) else {
                self.emit(Body::FindingClosed(journal::FindingClosed { id: *id }));
                continue;
            };
            // Running figures in a message are no news; another process, limit, reason or advice is.
            let now = &self.state.findings[id].opened;
            let figures = matches!(view.kind, FindingKind::QuotaExceeded | FindingKind::Misdirected);
            let retold = now.message != view.message && (!figures || !now.message.ends_with(&view.steady));
            if now.process != view.process || now.limit != view.limit || now.next != view.next || retold {
                self.emit(Body::FindingUpdated(journal::FindingUpdated {
                    id: *id,
                    message: view.message.clone(),
                    next: view.next.clone(),
                    process: view.process.clone(),
                    used: view.used,
                    limit: view.limit,
                }));
            }
        }
        for (key, view) in wanted {
            if !open.contains_key(&key) {
                self.emit(Body::FindingOpened(journal::FindingOpened {
                    id: self.state.next_finding,
                    kind: view.kind as i32,
                    subject: view.subject,
                    message: view.message,
                    next: view.next,
                    since_ms: view.since,
                    process: view.process,
                    used: view.used,
                    limit: view.limit,
                }));
            }
        }
    }

    fn settle_interventions(&mut self) {
        let undecided = self.state.commands.values().filter(|c| !c.decided);
        let decided: Vec<journal::InterventionDecided> = undecided
            .filter_map(|command| {
                Some(journal::InterventionDecided {
                    command: command.issued.id.clone(),
                    outcome: outcome(command, self.state.at)? as i32,
                    effect_ms: command.effect.as_ref().map(|(at, _)| *at),
                    evidence: command.effect.as_ref().map(|(_, text)| text.clone()).unwrap_or_default(),
                })
            })
            .collect();
        for event in decided {
            self.emit(Body::InterventionDecided(event));
        }
    }

    /// When the window of an undecided intervention ends.
    pub(super) fn intervention_deadline(&self) -> Option<(Millis, String)> {
        let open = self.state.commands.values().filter(|c| !c.decided && c.promise() != Promise::Nothing);
        open.filter_map(|c| Some((window_ends(c)?, format!("the window of {} ends", c.issued.id)))).min()
    }

    /// Whether an agent is in this status, as of the last event.
    pub fn has_status(&self, agent: &str, status: AgentStatus) -> bool {
        self.derived.is_status(agent, status)
    }

    pub fn has_finding(&self, kind: FindingKind, subject: &str) -> bool {
        self.state.open_finding(kind, subject).is_some()
    }
}

/// What is reported of a command travels after the effect itself: so much earlier than the report of its delivery an
/// effect still counts as later. Not for directives, whose effect is decided here, in the order of arrival.
const REPORT_LAG_MS: Millis = 2_000;

/// When nothing can be credited any more: the window after delivery; after its end, where that is not known.
fn window_ends(command: &CommandRecord) -> Option<Millis> {
    let begins = command.delivered().or_else(|| command.reached(CommandState::Unknown))?;
    Some(begins + Millis::from(command.issued.window_ms))
}

/// Credits a promise only when it was verified after delivery and inside its window. `None`: not decided yet.
fn outcome(command: &CommandRecord, now: Millis) -> Option<InterventionOutcome> {
    use InterventionOutcome as O;
    if command.state == CommandState::Rejected {
        return Some(O::Rejected);
    }
    if command.promise() == Promise::Nothing {
        return command.is_terminal().then_some(O::Undecided);
    }
    let over = window_ends(command).is_some_and(|ends| ends <= now);
    match (command.delivered(), command.effect.as_ref().map(|(at, _)| *at)) {
        (Some(delivered), Some(effect)) if effect < delivered - lag(command) => Some(O::SelfResolved),
        (Some(delivered), Some(effect)) if effect <= delivered + Millis::from(command.issued.window_ms) => {
            Some(O::Effective)
        }
        (Some(_), Some(_)) => Some(O::Ineffective),
        // Sent, and perhaps delivered: the report may be on its way.
        (None, Some(_)) if !command.is_terminal() && command.state != CommandState::Queued => None,
        (None, Some(_)) => Some(O::SelfResolved),
        (_, None) if command.state == CommandState::Failed => Some(O::Ineffective),
        (Some(_), None) => over.then_some(O::Ineffective),
        // It ended before it could have any effect.
        (None, None) => match command.state {
            CommandState::Expired | CommandState::Cancelled | CommandState::Superseded => Some(O::Undecided),
            _ => over.then_some(O::Undecided),
        },
    }
}

fn lag(command: &CommandRecord) -> Millis {
    match (command.promise(), command.reached(CommandState::Sent), command.delivered()) {
        (Promise::Verified(_) | Promise::Nothing, ..) => 0,
        // At most back to when it was sent.
        (_, Some(sent), Some(delivered)) => (delivered - sent).clamp(0, REPORT_LAG_MS),
        (_, _, _) => 0,
    }
}
