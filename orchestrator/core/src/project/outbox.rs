//! What the ledger owes to whom. Level-triggered: after each input every open session is sent what it was not sent yet.
//! Cancels come before commands: a cancel overtakes what waits. To a sidecar that only observes nothing is delivered.
//!
//! Of both, [`UNDER_WAY_MAX`] at most are under way in one stream: what was sent in it and not answered yet. Each answer lets
//! the next one go, in the order of the ledger. So the stream's outbound queue holds all that is owed at once (a stream whose
//! queue is full ends, and would end again in the same place), and what waits behind it arrives. A sidecar takes what it
//! receives in one go, whatever it then does with it: a kill behind many directives waits one round trip for each
//! [`UNDER_WAY_MAX`] of them, not for what they do.
use pitwall_proto::v1::{self, CommandState, connect_response};

use super::Project;
use crate::{io::SessionId, state::CommandRecord};

/// Commands, and cancellations, that are under way in one stream. The shell's queue for a stream holds 256 messages.
const UNDER_WAY_MAX: usize = 64;

impl Project {
    /// Cancellations, deliveries, renewals.
    pub(super) fn owe_sessions(&mut self) {
        for session in self.sessions.ids() {
            self.owe_cancels(session);
            if !self.sessions.get(session).is_some_and(|open| self.only_observes(&open.agent)) {
                self.owe_commands(session);
                self.owe_renewals(session);
            }
            self.owe_pulse(session);
        }
    }

    fn owe_commands(&mut self, session: SessionId) {
        let Some(open) = self.sessions.get(session) else { return };
        let of_agent = |c: &&CommandRecord| c.issued.agent == open.agent;
        let is_under_way = |c: &&CommandRecord| c.state == CommandState::Sent && open.sent.contains(&c.issued.id);
        let under_way = self.state.unfinished_commands().filter(of_agent).filter(is_under_way).count();
        // What is to be cancelled is not delivered again: the sidecar answers the cancellation in any case.
        let owed: Vec<_> = self
            .state
            .unfinished_commands()
            .filter(|c| of_agent(c) && !open.sent.contains(&c.issued.id))
            .filter(|c| matches!(c.state, CommandState::Queued | CommandState::Sent) && !c.cancel_requested)
            .filter(|c| c.issued.expires_ms > self.now)
            .take(UNDER_WAY_MAX.saturating_sub(under_way))
            .map(|c| (c.issued.cursor, c.issued.id.clone(), c.spec.clone(), c.state, c.issued.expires_ms))
            .collect();
        for (cursor, id, spec, state, expires) in owed {
            if state == CommandState::Queued {
                self.step(&id, CommandState::Sent, "");
            }
            if let Some(open) = self.sessions.get_mut(session) {
                open.sent.insert(id.clone());
            }
            let start_within_ms = u32::try_from(expires - self.now).unwrap_or(u32::MAX);
            let delivery = v1::CommandDelivery { id, cursor, spec: Some(spec), start_within_ms };
            self.send(session, connect_response::Body::Command(delivery));
        }
    }

    fn owe_cancels(&mut self, session: SessionId) {
        let Some(open) = self.sessions.get(session) else { return };
        let cancelled =
            |c: &&CommandRecord| c.issued.agent == open.agent && c.cancel_requested && c.state != CommandState::Queued;
        // Answered is one whose command has ended.
        let (under_way, owed): (Vec<String>, Vec<String>) = self
            .state
            .unfinished_commands()
            .filter(cancelled)
            .map(|c| c.issued.id.clone())
            .partition(|id| open.cancels_sent.contains(id));
        for id in owed.into_iter().take(UNDER_WAY_MAX.saturating_sub(under_way.len())) {
            if let Some(open) = self.sessions.get_mut(session) {
                open.cancels_sent.insert(id.clone());
            }
            self.send(session, connect_response::Body::Cancel(v1::CancelDelivery { id }));
        }
    }
}
