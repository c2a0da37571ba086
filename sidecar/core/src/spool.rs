//! Facts until they are acknowledged, and the last one of each topic also afterwards: that one says what the
//! orchestrator was told last, so that a new life neither repeats nor forgets it, and another lineage can be told anew.
//! Bounded: the oldest that is not the newest of its topic is dropped, counted, and told.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use pitwall_proto::{
    mutant, state,
    v1::{self, fact::Kind},
};
use prost::Message as _;

use crate::{clock, io::Now, quota::Target};

/// Facts that wait, at most; the newest of each topic may go beyond.
pub const FACTS_MAX: usize = 10_000;
pub const BYTES_MAX: usize = 8 * 1024 * 1024;
/// How many are dropped at once, so that a full spool does not write a record for each new fact.
const DROPPED_AT_ONCE: usize = 100;
/// What a fact adds to a frame besides itself: tag, length, seq, age.
const FACT_OVERHEAD: usize = 48;

/// What a fact is about, where a newer one makes an older one obsolete.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    Verdict { deliverable: String, check: String },
    Claim,
    Seen,
    Exited,
    Motion,
    Looping,
    Pressure,
    Quota(Target),
    Workspace,
    Acted(Target),
    Restart,
    Health(String),
}

impl Topic {
    pub fn of(kind: &Kind) -> Option<Topic> {
        match kind {
            Kind::Verdict(v) => Some(Topic::Verdict { deliverable: v.deliverable.clone(), check: v.check_id.clone() }),
            Kind::Claim(_) => Some(Topic::Claim),
            Kind::AgentSeen(_) => Some(Topic::Seen),
            Kind::AgentExited(_) => Some(Topic::Exited),
            Kind::AgentMotion(_) => Some(Topic::Motion),
            Kind::AgentLooping(_) => Some(Topic::Looping),
            Kind::Pressure(_) => Some(Topic::Pressure),
            Kind::Quota(q) => Some(Topic::Quota(Target { named: q.named.clone(), resource: q.resource, soft: q.soft })),
            Kind::QuotaActed(a) => {
                Some(Topic::Acted(Target { named: a.named.clone(), resource: a.resource, soft: false }))
            }
            Kind::Restart(_) => Some(Topic::Restart),
            Kind::Health(h) => Some(Topic::Health(h.name.clone())),
            Kind::Workspace(_) => Some(Topic::Workspace),
            Kind::Activity(_)
            | Kind::Lease(_)
            | Kind::ProcessGone(_)
            | Kind::EffectMeasured(_)
            | Kind::ProcessReturned(_)
            | Kind::OutOfMemory(_)
            | Kind::FactsDropped(_) => None,
        }
    }
}

#[derive(Debug, PartialEq)]
pub struct Spooled {
    pub seq: u64,
    pub at: state::Moment,
    pub kind: Kind,
    size: usize,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spool {
    waiting: BTreeMap<u64, Arc<Spooled>>,
    told: BTreeMap<Topic, Arc<Spooled>>,
    bytes: usize,
    pub acked: u64,
    pub last_seq: u64,
    /// Dropped, and not told yet.
    pub untold: u64,
}

pub fn record(seq: u64, at: state::Moment, kind: Kind) -> state::Fact {
    let fact = v1::Fact { kind: Some(kind), ..Default::default() };
    state::Fact { seq, at: Some(at), fact: fact.encode_to_vec() }
}

impl Spool {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn told(&self, topic: &Topic) -> Option<&Spooled> {
        self.told.get(topic).map(Arc::as_ref)
    }

    pub fn all_told(&self) -> impl Iterator<Item = (&Topic, &Spooled)> {
        self.told.iter().map(|(topic, fact)| (topic, fact.as_ref()))
    }

    /// What was not acknowledged yet, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &Kind> {
        self.waiting.values().map(|fact| &fact.kind)
    }

    /// Told last: what another history has to be told again, in order. Also what waits, as the order counts: an agent
    /// that was seen once more after its exit would be taken for alive. Empty, where all of it waits.
    pub fn told_before(&self) -> Vec<(state::Moment, Kind)> {
        if self.told.values().all(|f| self.waiting.contains_key(&f.seq)) {
            return Vec::new();
        }
        let mut told: Vec<_> = self.told.values().collect();
        told.retain(|f| !mutant!("ends-told-before-beginnings") || !self.waiting.contains_key(&f.seq));
        told.sort_by_key(|f| f.seq);
        told.into_iter().map(|f| (f.at.clone(), f.kind.clone())).collect()
    }

    pub fn apply_fact(&mut self, record: &state::Fact) {
        self.last_seq = self.last_seq.max(record.seq);
        // A kind that only a newer version knows is not told by this one.
        let Some(kind) = v1::Fact::decode(record.fact.as_slice()).ok().and_then(|f| f.kind) else { return };
        if let Kind::FactsDropped(dropped) = &kind {
            self.untold = self.untold.saturating_sub(dropped.count);
        }
        let size = record.fact.len() + FACT_OVERHEAD;
        let topic = Topic::of(&kind);
        let fact = Arc::new(Spooled { seq: record.seq, at: record.at.clone().unwrap_or_default(), kind, size });
        if let Some(topic) = topic
            && self.told.get(&topic).is_none_or(|t| t.seq <= fact.seq)
        {
            self.told.insert(topic, fact.clone());
        }
        if fact.seq > self.acked && self.waiting.insert(fact.seq, fact).is_none() {
            self.bytes += size;
        }
    }

    pub fn apply_acked(&mut self, record: &state::FactsAcked) {
        self.acked = self.acked.max(record.seq);
        self.last_seq = self.last_seq.max(record.last_seq).max(self.acked);
        let kept = self.waiting.split_off(&(self.acked + 1));
        let gone = std::mem::replace(&mut self.waiting, kept);
        self.bytes -= gone.values().map(|f| f.size).sum::<usize>();
    }

    pub fn apply_overflowed(&mut self, record: &state::FactsOverflowed) {
        for seq in &record.seqs {
            if let Some(gone) = self.waiting.remove(seq) {
                self.bytes -= gone.size;
            }
        }
        self.untold = record.untold;
    }

    pub fn apply_renumbered(&mut self, above: u64) {
        let mut seq = above;
        for (_, fact) in std::mem::take(&mut self.waiting) {
            seq += 1;
            let moved = Arc::new(Spooled { seq, at: fact.at.clone(), kind: fact.kind.clone(), size: fact.size });
            if let Some(topic) = Topic::of(&moved.kind)
                && self.told.get(&topic).is_some_and(|t| t.seq == fact.seq)
            {
                self.told.insert(topic, moved.clone());
            }
            self.waiting.insert(seq, moved);
        }
        self.acked = self.acked.max(above);
        self.last_seq = self.last_seq.max(seq);
    }

    /// For an instance that never told anything: all that is here waits, in its order, from 1 on. So many are lost. What
    /// was not the last of its topic (any more) is not made that.
    pub fn begin_anew(&mut self, lost: u64) {
        let mut before = std::mem::take(self);
        let mut facts: BTreeMap<u64, Arc<Spooled>> = before.told.values().map(|f| (f.seq, f.clone())).collect();
        facts.append(&mut before.waiting);
        self.untold = before.untold.saturating_add(lost);
        for (n, old) in facts.into_values().enumerate() {
            let seq = n as u64 + 1;
            let fact = Arc::new(Spooled { seq, at: old.at.clone(), kind: old.kind.clone(), size: old.size });
            if let Some(topic) = Topic::of(&fact.kind)
                && before.told.get(&topic).is_some_and(|t| t.seq == old.seq)
            {
                self.told.insert(topic, fact.clone());
            }
            self.bytes += fact.size;
            self.last_seq = seq;
            self.waiting.insert(seq, fact);
        }
    }

    /// Verdicts of rules that the plan no longer has say nothing any more.
    pub fn retain_verdicts(&mut self, digests: &BTreeMap<(String, String), String>) {
        self.told.retain(|topic, fact| match (topic, &fact.kind) {
            (Topic::Verdict { deliverable, check }, Kind::Verdict(verdict)) => {
                digests.get(&(deliverable.clone(), check.clone())).is_some_and(|digest| *digest == verdict.check_digest)
            }
            _ => true,
        });
    }

    /// Names come and go with plans; what was told of those that are gone for longer says nothing any more.
    pub fn retain_named(&mut self, plan: &v1::AgentPlan) {
        let has = |name: &String| name.is_empty() || plan.processes.iter().any(|p| p.name == *name);
        self.told.retain(|topic, fact| match (topic, &fact.kind) {
            // What holds still is taken back first.
            (Topic::Quota(target), Kind::Quota(quota)) => quota.exceeded || has(&target.named),
            (Topic::Acted(target), _) => has(&target.named),
            (Topic::Health(name), Kind::Health(health)) => {
                !health.healthy || plan.health.iter().any(|h| h.name == *name)
            }
            _ => true,
        });
    }

    pub fn forget_verdicts(&mut self) {
        self.told.retain(|topic, _| !matches!(topic, Topic::Verdict { .. }));
    }

    /// What has to go, as the spool is full. Empty while it is not, or where only the newest of topics are left.
    pub fn overflow(&self) -> Vec<u64> {
        self.overflow_beyond(FACTS_MAX, BYTES_MAX)
    }

    fn overflow_beyond(&self, facts_max: usize, bytes_max: usize) -> Vec<u64> {
        if self.waiting.len() <= facts_max && self.bytes <= bytes_max {
            return Vec::new();
        }
        let newest: BTreeSet<u64> = self.told.values().map(|f| f.seq).collect();
        let mut over = self.bytes.saturating_sub(bytes_max);
        let at_least = self.waiting.len().saturating_sub(facts_max).max(DROPPED_AT_ONCE.min(facts_max / 10).max(1));
        let mut dropped = Vec::new();
        for (seq, fact) in self.waiting.iter().filter(|(s, _)| !newest.contains(s) || mutant!("newest-verdict-dropped"))
        {
            if dropped.len() >= at_least && over == 0 {
                break;
            }
            over = over.saturating_sub(fact.size);
            dropped.push(*seq);
        }
        dropped
    }

    /// There is room to tell that something was dropped.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < FACTS_MAX / 10 * 9 && self.bytes < BYTES_MAX / 10 * 9
    }

    /// The next facts to send, after `after` and up to `durable`, with their ages as of now.
    pub fn batch(
        &self,
        (after, durable): (u64, u64),
        (facts_max, bytes_max): (usize, usize),
        now: Now,
        boot_id: &str,
    ) -> Vec<v1::Fact> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        if after >= durable {
            return batch;
        }
        for (seq, fact) in self.waiting.range(after + 1..=durable) {
            bytes += fact.size;
            if batch.len() >= facts_max || (bytes > bytes_max && !batch.is_empty()) {
                break;
            }
            let (age_ms, age_estimated) = clock::age(now, boot_id, &fact.at);
            batch.push(v1::Fact { seq: *seq, age_ms, age_estimated, kind: Some(fact.kind.clone()) });
        }
        batch
    }

    /// As records, in the order in which they are to be read again.
    pub fn snapshot(&self) -> (state::FactsAcked, Vec<state::Fact>, state::FactsOverflowed) {
        let mut facts: BTreeMap<u64, &Arc<Spooled>> = self.waiting.iter().map(|(seq, f)| (*seq, f)).collect();
        facts.extend(self.told.values().map(|f| (f.seq, f)));
        let facts = facts.into_values().map(|f| record(f.seq, f.at.clone(), f.kind.clone())).collect();
        let acked = state::FactsAcked { seq: self.acked, last_seq: self.last_seq };
        (acked, facts, state::FactsOverflowed { seqs: Vec::new(), untold: self.untold })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot_ms: u64) -> state::Moment {
        state::Moment { boot_id: "b".into(), boot_ms, wall_ms: boot_ms as i64 }
    }

    fn verdict(check: &str, outcome: v1::Outcome) -> Kind {
        let (deliverable, check_id) = ("d".into(), check.into());
        Kind::Verdict(v1::VerdictFact { deliverable, check_id, outcome: outcome as i32, ..Default::default() })
    }

    fn gone(pid: i32) -> Kind {
        let process = Some(v1::ProcessIdentity { pid, start_ticks: 1, name: "x".into() });
        Kind::ProcessGone(v1::ProcessGone { process })
    }

    fn spool(kinds: impl IntoIterator<Item = Kind>) -> Spool {
        let mut spool = Spool::default();
        for (n, kind) in kinds.into_iter().enumerate() {
            spool.apply_fact(&record(n as u64 + 1, at(n as u64 * 100), kind));
        }
        spool
    }

    fn seqs(facts: &[v1::Fact]) -> Vec<u64> {
        facts.iter().map(|f| f.seq).collect()
    }

    const NOW: Now = Now { boot_ms: 10_000, wall_ms: 10_000 };

    #[test]
    fn a_fact_waits_until_it_is_acknowledged_and_its_topic_is_remembered() {
        let mut spool = spool([verdict("c", v1::Outcome::Failed), verdict("c", v1::Outcome::Passed), gone(9)]);
        assert_eq!(seqs(&spool.batch((0, 3), (100, 1 << 20), NOW, "b")), [1, 2, 3]);
        spool.apply_acked(&state::FactsAcked { seq: 2, last_seq: 3 });
        assert_eq!(seqs(&spool.batch((0, 3), (100, 1 << 20), NOW, "b")), [3]);
        let topic = Topic::Verdict { deliverable: "d".into(), check: "c".into() };
        assert_eq!(spool.told(&topic).map(|f| f.seq), Some(2));
        assert_eq!(spool.told_before().len(), 1);
        spool.apply_acked(&state::FactsAcked { seq: 3, last_seq: 3 });
        assert!(spool.is_empty());
        assert_eq!(spool.bytes, 0);
    }

    #[test]
    fn batches_are_bounded_by_number_bytes_and_what_is_durable() {
        let spool = spool((1..=10).map(gone));
        let size = spool.bytes / 10;
        assert_eq!(seqs(&spool.batch((0, 10), (3, 1 << 20), NOW, "b")), [1, 2, 3]);
        assert_eq!(seqs(&spool.batch((3, 10), (100, size * 2), NOW, "b")), [4, 5]);
        assert_eq!(seqs(&spool.batch((0, 2), (100, 1 << 20), NOW, "b")), [1, 2]);
        // One that is too large by itself is sent all the same: nothing could ever send it else.
        assert_eq!(seqs(&spool.batch((0, 10), (100, 1), NOW, "b")), [1]);
        assert!(spool.batch((10, 10), (100, 1 << 20), NOW, "b").is_empty());
    }

    #[test]
    fn ages_are_computed_when_sent_and_marked_estimated_after_a_reboot() {
        let spool = spool([gone(1)]);
        let same = &spool.batch((0, 1), (9, 1 << 20), NOW, "b")[0];
        assert_eq!((same.age_ms, same.age_estimated), (10_000, false));
        let other = &spool.batch((0, 1), (9, 1 << 20), Now { boot_ms: 1, wall_ms: 70_000 }, "c")[0];
        assert_eq!((other.age_ms, other.age_estimated), (70_000, true));
    }

    #[test]
    fn overflow_drops_the_oldest_that_is_not_the_newest_verdict_of_its_check() {
        let mut kinds = vec![verdict("only", v1::Outcome::Passed), verdict("twice", v1::Outcome::Failed)];
        kinds.extend((0..20).map(gone));
        kinds.push(verdict("twice", v1::Outcome::Passed));
        let spool = spool(kinds);
        let dropped = spool.overflow_beyond(20, usize::MAX);
        assert_eq!(dropped, [2, 3, 4]);
        let by_bytes = spool.overflow_beyond(100, spool.bytes - 1);
        assert_eq!(by_bytes.first(), Some(&2));
        assert!(spool.overflow().is_empty());
    }

    #[test]
    fn renumbering_keeps_order_and_topics() {
        let mut spool = spool([verdict("c", v1::Outcome::Passed), gone(1)]);
        spool.apply_renumbered(70);
        assert_eq!(seqs(&spool.batch((70, 99), (9, 1 << 20), NOW, "b")), [71, 72]);
        assert_eq!(spool.all_told().map(|(_, f)| f.seq).collect::<Vec<_>>(), [71]);
        assert_eq!((spool.acked, spool.last_seq), (70, 72));
    }

    #[test]
    fn begun_anew_everything_waits_and_only_what_was_the_last_of_its_topic_is_it_still() {
        let mut spool =
            spool([verdict("gone", v1::Outcome::Passed), verdict("c", v1::Outcome::Failed), gone(1), gone(2)]);
        spool.apply_acked(&state::FactsAcked { seq: 2, last_seq: 4 });
        spool.apply_fact(&record(5, at(500), verdict("c", v1::Outcome::Passed)));
        spool.apply_fact(&record(6, at(600), verdict("dropped", v1::Outcome::Passed)));
        // The plan has no such rule any more.
        spool.told.retain(|topic, _| !matches!(topic, Topic::Verdict { check, .. } if check == "dropped"));
        spool.begin_anew(7);
        assert_eq!(seqs(&spool.batch((0, 9), (9, 1 << 20), NOW, "b")), [1, 2, 3, 4, 5]);
        assert_eq!(spool.all_told().map(|(_, f)| f.seq).collect::<Vec<_>>(), [4, 1]);
        assert_eq!((spool.acked, spool.last_seq, spool.untold), (0, 5, 7));
        let bytes = spool.bytes;
        spool.apply_acked(&state::FactsAcked { seq: 5, last_seq: 5 });
        assert!(bytes > 0 && spool.bytes == 0);
    }

    #[test]
    fn a_snapshot_reads_back_equal() {
        let mut spool = spool([verdict("c", v1::Outcome::Failed), gone(4), verdict("c", v1::Outcome::Passed), gone(5)]);
        spool.apply_acked(&state::FactsAcked { seq: 3, last_seq: 9 });
        spool.untold = 4;
        let (acked, facts, overflowed) = spool.snapshot();
        let mut again = Spool::default();
        again.apply_acked(&acked);
        facts.iter().for_each(|f| again.apply_fact(f));
        again.apply_overflowed(&overflowed);
        assert_eq!(again, spool);
    }
}
