//! Commands that are issued, step forward, and are forgotten.
use pitwall_proto::{journal, v1};

use super::super::{CommandRecord, ENDED_COMMANDS_KEPT, Promise, State};
use crate::io::Millis;

impl State {
    pub(super) fn apply_issued(&mut self, event: &journal::CommandIssued, at: Millis) {
        self.next_cursor = event.cursor.saturating_add(1);
        self.ledger.insert(event.cursor, event.id.clone());
        self.unfinished.insert(event.cursor);
        let mut command = CommandRecord::new(event.clone(), at);
        if let Promise::Verified(id) = command.promise()
            && self.deliverables.get(&id).is_some_and(|d| d.status == v1::DeliverableStatus::Verified)
        {
            command.effect = Some((at, format!("{id} was verified already")));
        }
        self.commands.insert(event.id.clone(), command);
        self.with_agent(&event.agent, |a| a.lapsed = None);
        self.forget_old_commands();
    }

    pub(super) fn apply_step(&mut self, event: &journal::CommandStep, at: Millis) {
        // What older journals sent, they sent in order.
        if event.cursor != 0 {
            self.move_in_ledger(&event.id, event.cursor);
        }
        let Some(command) = self.commands.get_mut(&event.id) else { return };
        command.state = v1::CommandState::try_from(event.state).unwrap_or_default();
        command.steps.push((command.state, event.reached_ms.unwrap_or(at), event.detail.clone()));
        let agent = command.issued.agent.clone();
        if command.is_terminal() {
            self.unfinished.remove(&command.issued.cursor);
        }
        self.with_agent(&agent, |a| a.sent_cursor = a.sent_cursor.max(event.cursor));
    }

    /// Where one behind it was sent before it.
    fn move_in_ledger(&mut self, id: &str, cursor: u64) {
        let Some(command) = self.commands.get_mut(id).filter(|c| c.issued.cursor != cursor) else { return };
        let before = std::mem::replace(&mut command.issued.cursor, cursor);
        self.ledger.remove(&before);
        self.ledger.insert(cursor, id.to_owned());
        if self.unfinished.remove(&before) {
            self.unfinished.insert(cursor);
        }
        self.next_cursor = self.next_cursor.max(cursor.saturating_add(1));
    }

    fn forget_old_commands(&mut self) {
        if self.ledger.len() <= 2 * ENDED_COMMANDS_KEPT {
            return;
        }
        let done: Vec<u64> = self
            .ledger
            .iter()
            .filter(|(_, id)| {
                self.commands.get(*id).is_none_or(|c| c.is_terminal() && c.decided && c.wanted_lease().is_none())
            })
            .map(|(cursor, _)| *cursor)
            .take(self.ledger.len() - ENDED_COMMANDS_KEPT)
            .collect();
        for cursor in done {
            if let Some(id) = self.ledger.remove(&cursor) {
                self.commands.remove(&id);
            }
        }
    }
}
