//! The end of this process: leases undone, an agent that it started ended, all of it told, then exit. Within a deadline,
//! whatever does not answer: what is left then is adopted or undone by the next life.
use super::{
    Core,
    acting::{Purpose, failure},
};
use crate::io::{Action, Effect, EffectOutcome};
use pitwall_proto::v1::LeaseState;

const WITHIN_MS: u64 = 10_000;
/// Kept back from it for the agent's end to be told.
const AGENT_GRACE_MS: u32 = 5_000;
const TELL_WITHIN_MS: u64 = 2_000;
const EXIT_LATE: u8 = 3;

#[derive(Debug)]
pub(super) struct Stop {
    deadline: u64,
    agent: AgentEnd,
    /// Everything is done but telling it.
    telling_until: Option<u64>,
    cleaning: bool,
    exited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AgentEnd {
    ToDo,
    UnderWay,
    Over,
}

impl Core {
    pub(super) fn stop_asked(&mut self) {
        if self.stop.is_some() {
            return;
        }
        self.stop = Some(Stop {
            deadline: self.now.boot_ms + WITHIN_MS,
            agent: AgentEnd::ToDo,
            telling_until: None,
            cleaning: false,
            exited: false,
        });
        for id in self.kept.leases.keys().cloned().collect::<Vec<_>>() {
            self.end_lease(&id, LeaseState::Ended, "the sidecar stops");
        }
    }

    pub(super) fn settle_stop(&mut self) {
        let now = self.now.boot_ms;
        let Some(stop) = &self.stop else { return };
        if stop.exited {
            return;
        }
        if now >= stop.deadline {
            self.log(true, "not everything could be ended and told in time; the next start goes on with it".into());
            return self.exit(EXIT_LATE);
        }
        // Before the first sample nobody knows whether there is an agent to end; it comes at once.
        let unseen = self.launches() && !self.presence.known();
        if stop.agent == AgentEnd::ToDo && !unseen {
            let root = self.presence.root().cloned().filter(|_| self.launches());
            let next = match root {
                Some(root) => {
                    self.act(Purpose::StopAgent, Effect::EndAgent { root, grace_ms: AGENT_GRACE_MS });
                    AgentEnd::UnderWay
                }
                None => AgentEnd::Over,
            };
            self.stop_mut(|s| s.agent = next);
        }
        let ended = self.stop.as_ref().is_some_and(|s| s.agent == AgentEnd::Over);
        if !ended || !self.nothing_held() {
            return;
        }
        let durable = self.store.durable_seq() >= self.kept.spool.last_seq;
        let until = self.stop.as_ref().and_then(|s| s.telling_until).unwrap_or(now + TELL_WITHIN_MS);
        self.stop_mut(|s| s.telling_until = Some(until));
        let told = !self.link.is_welcomed() || self.all_acknowledged() || now >= until;
        if durable && told && !self.stop.as_ref().is_some_and(|s| s.cleaning) {
            self.stop_mut(|s| s.cleaning = true);
            self.act(Purpose::CleanUp, Effect::CleanUp);
        }
    }

    fn stop_mut(&mut self, change: impl FnOnce(&mut Stop)) {
        if let Some(stop) = &mut self.stop {
            change(stop);
        }
    }

    pub(super) fn agent_stopped(&mut self, outcome: EffectOutcome) {
        match outcome {
            EffectOutcome::Ok { .. } => {
                // Its end is a fact of its own; no sample may come any more.
                let mut change = self.presence.sampled(None, true);
                if change.is_none() {
                    change = self.presence.sampled(None, true);
                }
                self.presence_changed(change);
            }
            other => {
                let text = format!("the agent could not be ended: {}", failure(other));
                self.log(true, text);
            }
        }
        self.stop_mut(|s| s.agent = AgentEnd::Over);
    }

    pub(super) fn cleaned_up(&mut self, outcome: EffectOutcome) {
        if let EffectOutcome::Failed { why } = &outcome {
            self.log(false, format!("not all that was made for the agent could be removed: {why}"));
        }
        self.exit(0);
    }

    fn exit(&mut self, code: u8) {
        if self.stop.as_ref().is_none_or(|s| s.exited) {
            return;
        }
        self.stop_mut(|s| s.exited = true);
        if let Some(stream) = self.link.stream() {
            let session = stream.session;
            self.out.push(Action::Disconnect { session });
        }
        self.out.push(Action::Exit { code });
    }

    pub(super) fn stop_deadline(&self) -> Option<u64> {
        let stop = self.stop.as_ref().filter(|s| !s.exited)?;
        Some(stop.telling_until.filter(|_| !stop.cleaning).map_or(stop.deadline, |at| at.min(stop.deadline)))
    }
}
