//! Leases as their sidecars tell of them: in effect, taken over, ended, and which older ones a newer one ends.
use pitwall_proto::{journal, throttle::Target, v1};

use super::super::{CommandRecord, State};
use crate::io::Millis;

impl State {
    pub(super) fn end_lease(&mut self, id: &str, at: Millis, why: &str) {
        self.leased.remove(id);
        if let Some(command) = self.commands.get_mut(id) {
            command.lease = Some((v1::LeaseState::Ended, at, why.into()));
        }
    }

    pub(super) fn apply_lease(&mut self, event: &journal::Lease, at: Millis) {
        use v1::LeaseState as L;
        let state = L::try_from(event.state).unwrap_or_default();
        let in_effect = |state| matches!(state, L::Active | L::Adopted);
        let of_agent = |c: &&mut CommandRecord| c.issued.agent == event.agent;
        if let Some(command) = self.commands.get_mut(&event.command).filter(of_agent) {
            // Taken over or applied again, it goes on: its end stays where it was.
            let since = match &command.lease {
                Some((before, since, _)) if in_effect(*before) && in_effect(state) => *since,
                Some(_) | None => at,
            };
            command.lease = Some((state, since, event.detail.clone()));
            let cursor = command.issued.cursor;
            let slot = command.slot();
            if in_effect(state) {
                self.leased.insert(event.command.clone());
                self.end_older_leases(&event.agent, slot, cursor, &event.command, at);
            } else {
                self.leased.remove(&event.command);
            }
        }
        self.with_agent(&event.agent, |a| match state {
            L::Lapsed => a.lapsed = Some((at, event.detail.clone())),
            L::Foreign => a.foreign = Some((at, event.detail.clone())),
            L::Active | L::Adopted => (a.lapsed, a.foreign) = (None, None),
            L::Ended | L::Unspecified => {}
        });
    }

    /// A newer lease on the same agent or process, of the same resource, took their place.
    fn end_older_leases(
        &mut self,
        agent: &str,
        slot: Option<(v1::Resource, Target)>,
        cursor: u64,
        newer: &str,
        at: Millis,
    ) {
        let older: Vec<String> = self
            .leased_commands()
            .filter(|c| c.issued.agent == agent && c.issued.cursor < cursor && c.slot() == slot)
            .map(|c| c.issued.id.clone())
            .collect();
        for id in older {
            self.end_lease(&id, at, &format!("{newer} took its place"));
        }
    }
}
