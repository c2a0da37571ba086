//! What the orchestrator has in its journal is not sent again, and need not be kept.
use pitwall_proto::{
    state::{self, record::Body},
    v1::{self, fact::Kind},
};

use super::{Core, commands, session::Welcomed};
use crate::kept::Stated as _;

impl Core {
    pub(super) fn facts_acked(&mut self, seq: u64) {
        let now = self.now.boot_ms;
        let Some(welcomed) = self.link.welcomed() else { return };
        // What was never sent cannot be acknowledged.
        let seq = seq.min(welcomed.sent);
        while welcomed.in_flight.front().is_some_and(|last| *last <= seq) {
            welcomed.in_flight.pop_front();
        }
        welcomed.answered(now);
        if seq > self.kept.spool.acked {
            let last_seq = self.kept.spool.last_seq;
            self.record_lazily(Body::FactsAcked(state::FactsAcked { seq, last_seq }));
        }
        self.tell_dropped();
    }

    /// Once there is room again.
    pub(super) fn tell_dropped(&mut self) {
        let count = self.kept.spool.untold;
        if count > 0 && self.kept.spool.has_room() {
            self.overflow_told = false;
            self.tell(Kind::FactsDropped(v1::FactsDropped { count }));
        }
    }

    pub(super) fn update_acked(&mut self, ack: &v1::CommandUpdateAck) {
        let now = self.now.boot_ms;
        if let Some(welcomed) = self.link.welcomed() {
            welcomed.awaiting.remove(&(ack.id.clone(), ack.state));
            welcomed.answered(now);
        }
        let known = self.kept.commands.get(&ack.id).filter(|c| c.state == ack.state && !c.acked);
        if let Some(command) = known.filter(|c| commands::is_terminal(c.state())).cloned() {
            self.record_lazily(Body::Command(state::Command { acked: true, ..command }));
            self.forget_old_commands();
        }
    }
}

impl Welcomed {
    /// Something that was owed came; the rest is owed from now on.
    pub(super) fn answered(&mut self, now: u64) {
        let owed = !self.in_flight.is_empty() || !self.awaiting.is_empty();
        self.asked_at = owed.then_some(now);
    }
}
