//! What is sent in a session: command updates, then facts, each only once it is durable, and only so many without an
//! acknowledgement. Readings go at once or not at all.
use pitwall_proto::{
    mutant,
    v1::{self, connect_request},
};

use super::Core;
use crate::clock;

const BATCHES_IN_FLIGHT: usize = 2;
const UPDATES_IN_FLIGHT: usize = 32;
/// Room for the frame around the facts.
const FRAME_OVERHEAD: usize = 1_024;

impl Core {
    pub(super) fn send_updates(&mut self) {
        let now = self.now.boot_ms;
        loop {
            let Some(welcomed) = self.link.welcomed().filter(|w| w.awaiting.len() < UPDATES_IN_FLIGHT) else { return };
            let Some((mut update, reached)) = self.work.next_untold(&self.store) else { return };
            welcomed.awaiting.insert((update.id.clone(), update.state));
            welcomed.asked_at.get_or_insert(now);
            update.age_ms = clock::age(self.now, &self.boot_id, &reached).0;
            if mutant!("result-dropped-before-acknowledged") {
                self.update_acked(&v1::CommandUpdateAck { id: update.id.clone(), state: update.state });
            }
            self.send(connect_request::Body::CommandUpdate(update));
        }
    }

    pub(super) fn send_facts(&mut self) {
        let now = self.now;
        let durable = self.store.durable_seq();
        loop {
            let Some(welcomed) = self.link.welcomed() else { return };
            if welcomed.in_flight.len() >= BATCHES_IN_FLIGHT {
                return;
            }
            let bounds = (welcomed.facts_max, welcomed.bytes_max.saturating_sub(FRAME_OVERHEAD));
            let facts = self.kept.spool.batch((welcomed.sent, durable), bounds, now, &self.boot_id);
            let Some(last) = facts.last().map(|f| f.seq) else { return };
            welcomed.sent = last;
            self.sent_highest = self.sent_highest.max(last);
            welcomed.in_flight.push_back(last);
            welcomed.asked_at.get_or_insert(now.boot_ms);
            self.send(connect_request::Body::Facts(v1::FactBatch { facts }));
            if mutant!("spool-truncated-early") {
                self.facts_acked(last);
            }
        }
    }

    /// Everything that was told reached the orchestrator.
    pub(super) fn all_acknowledged(&mut self) -> bool {
        let facts = self.kept.spool.is_empty();
        let updates = self.work.nothing_untold() && self.link.welcomed().is_none_or(|w| w.awaiting.is_empty());
        facts && updates
    }

    /// A command that is not at its end, as far as the orchestrator knows.
    pub(super) fn tell_states_again(&mut self) {
        let owed = self.kept.commands.values().filter(|c| !c.acked).cloned().collect();
        self.work.tell_again(owed);
    }
}
