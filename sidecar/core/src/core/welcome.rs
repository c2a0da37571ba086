//! What a welcome brings: whom this sidecar follows from now on, and what the history that it follows does not know.
//! Another history than before is told everything anew.
use std::collections::{BTreeSet, VecDeque};

use pitwall_proto::{
    mutant,
    state::{self, record::Body},
    v1::{self, CommandState, fact::Kind},
};

use super::{
    Core,
    fencing::{Verdict, judge},
    session::Welcomed,
};
use crate::{kept::Stated as _, quota::Target, spool::Topic};

const FACTS_MAX: usize = 256;
/// A batch is heard of when all of it has arrived: on a link of 2 kB/s sooner than its silence ends the stream.
const BYTES_MAX: usize = 64 * 1024;
const HEARTBEAT_MIN_MS: u32 = 50;

impl Core {
    pub(super) fn welcome(&mut self, welcome: v1::Welcome) {
        let resync = match judge(&self.kept.cursor, &welcome) {
            Verdict::Refuse(why) => return self.drop_stream(&why),
            Verdict::Follow => false,
            Verdict::Resync => true,
        };
        self.follow(&welcome, resync);
        let acked = self.kept.spool.acked;
        let now = self.now.boot_ms;
        let or = |value: u32, default: usize| if value == 0 { default } else { (value as usize).min(default) };
        if let Some(stream) = self.link.stream() {
            stream.welcomed = Some(Welcomed {
                at: now,
                facts_max: or(welcome.max_batch_facts, FACTS_MAX),
                bytes_max: or(welcome.max_message_bytes, BYTES_MAX),
                next_heartbeat: now,
                sent: acked,
                in_flight: VecDeque::new(),
                awaiting: BTreeSet::new(),
                asked_at: None,
                resynced: resync,
                left_for_later: false,
                caught_up: acked >= self.kept.spool.last_seq,
                pulse_every: u64::from(welcome.pulse_every_ms),
            });
        }
        self.link.connected();
        self.resumed(&welcome);
        self.conducted(&welcome.conduct.clone().unwrap_or_default());
        self.log(false, format!("session {} of {} at epoch {}", welcome.session, welcome.lineage, welcome.epoch));
        if let Some(part) = welcome.plan {
            self.plan(part);
        }
        self.tell_states_again();
        self.tell_dropped();
    }

    fn follow(&mut self, welcome: &v1::Welcome, resync: bool) {
        let held = &self.kept.cursor;
        let cursor = state::Cursor {
            lineage: welcome.lineage.clone(),
            epoch: welcome.epoch,
            command_cursor: held.command_cursor.filter(|_| !resync),
            heartbeat_every_ms: match welcome.heartbeat_every_ms {
                0 => 0,
                ms => ms.max(HEARTBEAT_MIN_MS),
            },
        };
        if *held != cursor {
            self.record(Body::Cursor(cursor));
        }
        if resync {
            self.abandon_unstarted();
            if !mutant!("old-results-kept-from-another-history") {
                self.owe_results_again();
            }
        }
        let spool = &self.kept.spool;
        let behind = welcome.fact_acked < spool.acked;
        // What is neither from an earlier life nor sent by this one cannot be in the journal: this state is older than
        // what was sent from it once, and numbers above it were given twice.
        let highest = if mutant!("numbers-given-twice") { spool.last_seq } else { self.sent_highest };
        let ahead = welcome.fact_acked > highest;
        if ahead {
            self.record(Body::FactsRenumbered(state::FactsRenumbered { above: welcome.fact_acked }));
            self.sent_highest = welcome.fact_acked;
            if !mutant!("new-numbers-told-before-fsync") {
                self.store.renumbered(welcome.fact_acked);
            }
        } else if welcome.fact_acked > spool.acked {
            let last_seq = spool.last_seq;
            self.record_lazily(Body::FactsAcked(state::FactsAcked { seq: welcome.fact_acked, last_seq }));
        }
        // What was told last here may have been told otherwise since, by another one.
        let outdated = !welcome.outdated.is_empty() && !mutant!("older-state-tells-nothing-anew");
        if resync || behind || ahead || outdated {
            for (at, kind) in self.kept.spool.told_before() {
                self.tell_at(at, kind);
            }
            if resync || ahead || outdated {
                self.tell_what_does_not_hold(welcome.plan.as_ref());
            }
            self.refresh_checks();
        }
    }

    /// What holds by itself is told only after it did not. An older state does not know that it had told so.
    fn tell_what_does_not_hold(&mut self, plan: Option<&v1::AgentPlan>) {
        if mutant!("older-state-tells-no-all-clear") {
            return;
        }
        let own = plan.into_iter().flat_map(|p| p.quotas.iter().map(|q| (Target::of("", q), q.limit)));
        let services = plan.into_iter().flat_map(|p| &p.processes);
        let named = services.flat_map(|n| n.quotas.iter().map(|q| (Target::of(&n.name, q), q.limit)));
        let none = |target: Target, limit| v1::QuotaFact {
            resource: target.resource,
            limit,
            named: target.named,
            soft: target.soft,
            ..Default::default()
        };
        let quotas = own.chain(named).map(|(t, limit)| (Topic::Quota(t.clone()), Kind::Quota(none(t, limit))));
        let quotas: Vec<_> = quotas.collect();
        let others = [
            (Topic::Workspace, Kind::Workspace(v1::WorkspaceFact { present: true, ..Default::default() })),
            (Topic::Motion, Kind::AgentMotion(v1::AgentMotion::default())),
            (Topic::Looping, Kind::AgentLooping(v1::AgentLooping::default())),
            (Topic::Pressure, Kind::Pressure(v1::PressureFact::default())),
        ];
        for (topic, kind) in quotas.into_iter().chain(others) {
            if self.told(&topic).is_none() {
                self.tell(kind);
            }
        }
    }

    /// Results that only the other history had.
    fn owe_results_again(&mut self) {
        for command in self.kept.commands.values().filter(|c| c.acked).cloned().collect::<Vec<_>>() {
            self.keep(state::Command { acked: false, ..command });
        }
    }

    /// Nobody knows any more what was not started.
    fn abandon_unstarted(&mut self) {
        let waiting = self.kept.commands.values().filter(|c| c.state() == CommandState::Received);
        for id in waiting.map(|c| c.id.clone()).collect::<Vec<_>>() {
            self.step(&id, CommandState::Cancelled, "the orchestrator has another history now".into());
        }
    }
}
