//! What each record of a state file says.
use pitwall_proto::{
    state::{self, record::Body},
    v1::{self, CommandState as S, fact::Kind},
};
use prost::Message as _;

use super::{Held, Owed, SiteModel, resource_of};
use crate::model::{FactKey, is_end};

impl SiteModel {
    fn fact(&mut self, fact: &state::Fact) {
        self.last_fact = self.last_fact.max(fact.seq);
        let Some(kind) = v1::Fact::decode(fact.fact.as_slice()).ok().and_then(|f| f.kind) else { return };
        if let Kind::FactsDropped(dropped) = &kind {
            self.untold = self.untold.saturating_sub(dropped.count);
        }
        if let Kind::Verdict(v) = &kind {
            self.newest.insert((v.deliverable.clone(), v.check_id.clone()), fact.seq);
        }
        if fact.seq <= self.acked {
            return;
        }
        let copied = self.copied.contains(&fact.seq);
        self.waiting.insert(fact.seq, crc32fast::hash(&fact.fact));
        self.copied_alive |= copied && matches!(kind, Kind::AgentSeen(_));
        if let Some(key) = FactKey::of_fact(&self.agent, &kind) {
            if copied {
                return;
            }
            let place = (self.instance.clone(), fact.seq);
            self.owed.entry(place).or_insert(Owed { key, numbers: [fact.seq].into(), acked_in: None, heard_in: None });
        }
    }

    fn overflowed(&mut self, overflowed: &state::FactsOverflowed) {
        let dropped = overflowed.seqs.len() as u64;
        let untold = if dropped == 0 { overflowed.untold } else { self.untold + dropped };
        if overflowed.untold != untold {
            self.uncounted.push(format!("{dropped} facts more were dropped, {} are untold", overflowed.untold));
        }
        self.untold = overflowed.untold;
        self.overflows += u64::from(dropped > 0);
        for seq in &overflowed.seqs {
            if let Some((check, _)) = self.newest.iter().find(|(_, newest)| *newest == seq) {
                self.dropped_newest.push(format!("fact {seq}, the newest verdict of {check:?}"));
            }
            self.waiting.remove(seq);
            let place = (self.instance.clone(), *seq);
            self.owed.remove(&place);
            self.overflown.insert(place);
        }
    }

    fn renumbered(&mut self, above: u64) {
        self.welcomed_with.clear();
        let instance = self.instance.clone();
        let mut moved = Vec::new();
        for (n, (seq, says)) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            let new = above + 1 + n as u64;
            moved.push((new, says, self.owed.remove(&(instance.clone(), seq))));
            for newest in self.newest.values_mut().filter(|newest| **newest == seq) {
                *newest = new;
            }
            self.last_fact = self.last_fact.max(new);
        }
        for (new, says, owed) in moved {
            self.waiting.insert(new, says);
            if let Some(owed) = owed {
                let mut owed = owed;
                owed.numbers.insert(new);
                self.owed.entry((instance.clone(), new)).or_insert(owed);
            }
        }
        self.acked = self.acked.max(above);
    }

    pub(super) fn apply(&mut self, body: Body) {
        match body {
            Body::Life(life) => (self.instance, self.life) = (life.instance, life.life),
            Body::Cursor(cursor) => {
                let other = !self.lineage.is_empty() && self.lineage != cursor.lineage;
                if other && cursor.command_cursor.is_some() {
                    self.mixed
                        .push(format!("{:?} of {} goes on in {}", cursor.command_cursor, self.lineage, cursor.lineage));
                }
                (self.lineage, self.epoch) = (cursor.lineage, cursor.epoch);
            }
            Body::Fact(fact) => self.fact(&fact),
            Body::FactsAcked(acked) => {
                self.acked = self.acked.max(acked.seq);
                self.last_fact = self.last_fact.max(acked.last_seq).max(acked.seq);
                self.waiting.retain(|seq, _| *seq > acked.seq);
                self.acked_as_the_file_says(acked.seq);
            }
            Body::FactsRenumbered(renumbered) => self.renumbered(renumbered.above),
            Body::FactsOverflowed(overflowed) => self.overflowed(&overflowed),
            Body::Command(command) => self.command(command),
            Body::CommandForgotten(forgotten) => {
                self.commands.remove(&forgotten.id);
            }
            Body::Lease(lease) => {
                self.leases.insert(lease.command, resource_of(lease.resource));
            }
            Body::LeaseEnded(ended) => {
                self.leases.remove(&ended.command);
            }
            Body::Limit(limit) => {
                let resource = limit.hold.as_ref().map_or(0, |h| h.resource);
                self.limits.insert(resource_of(resource), limit);
            }
            Body::LimitGone(gone) => {
                self.limits.remove(&resource_of(gone.resource));
            }
            Body::Act(act) => {
                self.own.insert(act.id.clone(), act);
            }
            Body::ActEnded(ended) => {
                self.own.remove(&ended.id);
            }
            Body::Plan(plan) => {
                let generation = v1::AgentPlan::decode(plan.part.as_slice()).map_or(0, |part| part.generation);
                let follows = generation == self.generation || generation == self.generation + 1;
                if self.generation > 0 && !follows {
                    self.newest.clear();
                }
                self.generation = generation;
            }
            Body::Format(_) | Body::OwnPolicy(_) => {}
        }
    }

    fn command(&mut self, command: state::Command) {
        let state = S::try_from(command.state).unwrap_or(S::Unknown);
        let before = self.commands.get(&command.id);
        if let Some(before) = before.filter(|b| is_end(b.state) && state != b.state) {
            self.moved_back.push(format!("{} from {:?} to {state:?}", command.id, before.state));
        }
        let held = Held {
            state,
            spec: v1::CommandSpec::decode(command.spec.as_slice()).unwrap_or_default(),
            step: command.step,
            acked: command.acked,
        };
        self.commands.insert(command.id, held);
    }
}
