//! Everything that outlives a process of the sidecar. It changes through [`Kept::apply`] only, with the very records
//! that go into the state file: reading the file again gives the same, and decides nothing.
use std::collections::BTreeMap;

use pitwall_proto::{
    state::{self, record::Body},
    v1,
};
use prost::Message as _;

use crate::{
    frame::{self, Lost, Part},
    slot::SlotKey,
    spool::Spool,
};

/// Files of a higher version are left alone: a sidecar that knows no other resource than the CPU must not hold an agent
/// at so many cores as another has bytes. Of 2 are files with one limit, of 3 those with one for each slot.
pub const VERSION: u32 = 3;
/// Records in one frame of a snapshot.
const SNAPSHOT_RECORDS: usize = 1_000;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    pub version: u32,
    pub life: state::Life,
    pub plan: Option<v1::AgentPlan>,
    pub cursor: state::Cursor,
    pub spool: Spool,
    pub commands: BTreeMap<String, state::Command>,
    pub leases: BTreeMap<String, state::Lease>,
    /// Those that are, or are about to be, in effect.
    pub limits: BTreeMap<SlotKey, state::Limit>,
    /// What the sidecar does by itself, until its outcome was told.
    pub acts: BTreeMap<String, state::Act>,
    pub policy: state::OwnPolicy,
}

/// The wire's state of a command, which the file keeps as its number.
pub trait Stated {
    fn state(&self) -> v1::CommandState;
    fn set_state(&mut self, state: v1::CommandState);
}

impl Stated for state::Command {
    /// A number that only a newer version knows is a command that nobody can vouch for.
    fn state(&self) -> v1::CommandState {
        v1::CommandState::try_from(self.state).unwrap_or(v1::CommandState::Unknown)
    }

    fn set_state(&mut self, state: v1::CommandState) {
        self.state = state as i32;
    }
}

/// What was read, and what could not be.
#[derive(Debug)]
pub struct Read {
    pub kept: Kept,
    pub valid: usize,
    pub lost: Lost,
    pub lost_facts: LostFacts,
}

/// Facts that stood in what is damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LostFacts {
    /// By the headers of their frames, or by the numbers that are missing.
    pub counted: u64,
    /// Nothing tells how many were in the last part.
    pub more: bool,
}

impl LostFacts {
    /// What is to be told: at least so many.
    pub fn at_least(self) -> u64 {
        self.counted + u64::from(self.more)
    }
}

/// Why a state file must not be touched. To be asked before anything is started or made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error(
        "the state file is of version {found}, this sidecar knows {VERSION}: use a newer sidecar, or another --state"
    )]
    Newer { found: u32 },
    #[error(
        "the state directory belongs to the sidecar of agent {of}, this one is of {asked}: give each its own --state"
    )]
    OfAnother { of: String, asked: String },
}

impl Read {
    /// May the sidecar of this agent go on with it?
    pub fn usable_by(&self, agent: &str) -> Result<(), Unusable> {
        let of = &self.kept.life.agent;
        if self.kept.version > VERSION {
            return Err(Unusable::Newer { found: self.kept.version });
        }
        if !of.is_empty() && of != agent {
            return Err(Unusable::OfAnother { of: of.clone(), asked: agent.into() });
        }
        Ok(())
    }
}

/// From the bytes of the state file.
pub fn read(bytes: &[u8]) -> Read {
    let recovered = frame::recover(bytes);
    let mut kept = Kept::default();
    let (mut valid, mut lost) = (recovered.valid, recovered.lost);
    let mut numbers = Numbers::default();
    for part in &recovered.parts {
        let (batch, facts, size) = match part {
            Part::Whole { payload, facts } => (state::Batch::decode(*payload).ok(), *facts, payload.len()),
            Part::Damaged { facts, bytes } => (None, *facts, *bytes),
        };
        let Some(batch) = batch else {
            numbers.lose(facts);
            if matches!(part, Part::Whole { .. }) {
                // Its checksum fits, but it is no batch of ours.
                let before = if let Lost::Damaged { bytes } = lost { bytes } else { 0 };
                (valid, lost) = (bytes.len(), Lost::Damaged { bytes: before + size });
            }
            continue;
        };
        for record in &batch.records {
            numbers.read(record);
            kept.apply(record);
        }
    }
    let lost_facts = numbers.end(kept.spool.last_seq);
    Read { kept, valid, lost, lost_facts }
}

/// Follows the numbers of facts through a file, as they tell how many are missing.
#[derive(Debug, Default)]
struct Numbers {
    /// Up to here each fact was read, counted as lost, or acknowledged. `None`: nothing tells where they began.
    settled: Option<u64>,
    /// A part was lost of which nobody knows what it held.
    gap: bool,
    lost: LostFacts,
}

impl Numbers {
    fn lose(&mut self, facts: Option<u32>) {
        match (facts, &mut self.settled) {
            (None, _) => self.gap = true,
            (Some(facts), settled) => {
                self.lost.counted += u64::from(facts);
                *settled = settled.map(|seq| seq + u64::from(facts));
            }
        }
    }

    fn read(&mut self, record: &state::Record) {
        match &record.body {
            Some(Body::Fact(fact)) => {
                if std::mem::take(&mut self.gap) {
                    match self.settled {
                        Some(settled) => self.lost.counted += (fact.seq.saturating_sub(1)).saturating_sub(settled),
                        None => self.lost.more |= fact.seq > 1,
                    }
                }
                self.settled = self.settled.max(Some(fact.seq));
            }
            Some(Body::FactsAcked(acked)) => self.settled = self.settled.max(Some(acked.seq)),
            _ => {}
        }
    }

    fn end(mut self, last_seq: u64) -> LostFacts {
        if self.gap {
            self.lost.counted += last_seq.saturating_sub(self.settled.unwrap_or(last_seq));
            self.lost.more = true;
        }
        self.lost
    }
}

/// One frame of these records.
pub fn encode(records: Vec<state::Record>, out: &mut Vec<u8>) {
    let facts = records.iter().filter(|r| matches!(r.body, Some(Body::Fact(_)))).count();
    let batch = state::Batch { records };
    frame::encode(&batch.encode_to_vec(), u32::try_from(facts).unwrap_or(u32::MAX), out);
}

impl Kept {
    pub fn apply(&mut self, record: &state::Record) {
        let Some(body) = &record.body else { return };
        match body {
            Body::Format(format) => self.version = self.version.max(format.version),
            Body::Life(life) => self.life = life.clone(),
            Body::Plan(plan) => self.apply_plan(plan),
            Body::Cursor(cursor) => self.cursor = cursor.clone(),
            Body::FactsAcked(acked) => self.spool.apply_acked(acked),
            Body::Fact(fact) => self.spool.apply_fact(fact),
            Body::FactsOverflowed(overflowed) => self.spool.apply_overflowed(overflowed),
            Body::FactsRenumbered(renumbered) => self.spool.apply_renumbered(renumbered.above),
            Body::Command(command) => {
                self.commands.insert(command.id.clone(), command.clone());
            }
            Body::CommandForgotten(forgotten) => {
                self.commands.remove(&forgotten.id);
            }
            Body::Lease(lease) => {
                self.leases.insert(lease.command.clone(), lease.clone());
            }
            Body::LeaseEnded(ended) => {
                self.leases.remove(&ended.command);
            }
            Body::Limit(limit) => {
                if let Some(hold) = &limit.hold {
                    self.limits.insert(SlotKey::of_hold(hold), limit.clone());
                }
            }
            Body::LimitGone(gone) => {
                self.limits.remove(&SlotKey::of_gone(gone));
            }
            Body::Act(act) => {
                self.acts.insert(act.id.clone(), act.clone());
            }
            Body::ActEnded(ended) => {
                self.acts.remove(&ended.id);
            }
            Body::OwnPolicy(policy) => self.policy = policy.clone(),
        }
    }

    fn apply_plan(&mut self, plan: &state::Plan) {
        let Ok(part) = v1::AgentPlan::decode(plan.part.as_slice()) else { return };
        let held = self.plan.as_ref().map_or(0, |p| p.generation);
        if held > 0 && part.generation != held && part.generation != held + 1 {
            // A rule may have gone and come back in between, and its verdict with it: all are told anew.
            self.spool.forget_verdicts();
        }
        let digests = part
            .deliverables
            .iter()
            .flat_map(|d| d.checks.iter().map(move |c| ((d.name.clone(), c.id.clone()), c.digest.clone())));
        self.spool.retain_verdicts(&digests.collect());
        self.spool.retain_named(&part);
        self.plan = Some(part);
    }

    /// Records that add up to this state.
    pub fn snapshot(&self) -> Vec<state::Record> {
        let mut bodies = vec![Body::Format(state::Format { version: VERSION }), Body::Life(self.life.clone())];
        bodies.push(Body::Cursor(self.cursor.clone()));
        let (acked, facts, overflowed) = self.spool.snapshot();
        bodies.push(Body::FactsAcked(acked));
        bodies.extend(facts.into_iter().map(Body::Fact));
        bodies.push(Body::FactsOverflowed(overflowed));
        // Behind the facts: a verdict that waits and whose rule it does not have is not what was told last of any rule.
        bodies.extend(self.plan.as_ref().map(|part| Body::Plan(state::Plan { part: part.encode_to_vec() })));
        bodies.extend(self.commands.values().cloned().map(Body::Command));
        bodies.extend(self.leases.values().cloned().map(Body::Lease));
        bodies.extend(self.limits.values().cloned().map(Body::Limit));
        bodies.extend(self.acts.values().cloned().map(Body::Act));
        bodies.extend((self.policy != state::OwnPolicy::default()).then(|| Body::OwnPolicy(self.policy.clone())));
        bodies.into_iter().map(|body| state::Record { body: Some(body) }).collect()
    }

    /// The whole file anew.
    pub fn snapshot_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // So that a sidecar that knows frames of version 1 only leaves the file alone, and says why.
        let format = state::Record { body: Some(Body::Format(state::Format { version: VERSION })) };
        frame::encode_1(&state::Batch { records: vec![format] }.encode_to_vec(), &mut bytes);
        for records in self.snapshot().chunks(SNAPSHOT_RECORDS) {
            encode(records.to_vec(), &mut bytes);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool;

    fn example() -> Kept {
        let mut kept = Kept::default();
        let check = v1::Check { id: "file:x".into(), digest: "d1".into(), ..Default::default() };
        let deliverable = v1::DeliverablePlan { name: "api".into(), checks: vec![check], ..Default::default() };
        let part = v1::AgentPlan { generation: 3, deliverables: vec![deliverable], ..Default::default() };
        let verdict = v1::VerdictFact {
            deliverable: "api".into(),
            check_id: "file:x".into(),
            check_digest: "d1".into(),
            ..Default::default()
        };
        let bodies = [
            Body::Format(state::Format { version: VERSION }),
            Body::Life(state::Life { instance: "i".into(), life: 4, ..Default::default() }),
            Body::Plan(state::Plan { part: part.encode_to_vec() }),
            Body::Cursor(state::Cursor {
                lineage: "l".into(),
                epoch: 9,
                command_cursor: Some(7),
                ..Default::default()
            }),
            Body::Fact(spool::record(1, state::Moment::default(), v1::fact::Kind::Verdict(verdict))),
            Body::Command(state::Command { id: "c1".into(), cursor: 7, ..Default::default() }),
            Body::Lease(state::Lease { command: "c1".into(), cpu_cores: 0.5, ..Default::default() }),
            Body::Limit(state::Limit { hold: Some(state::Hold::default()), ..Default::default() }),
            Body::Limit(state::Limit { hold: Some(memory_of(812)), ..Default::default() }),
            Body::Limit(state::Limit { hold: Some(memory_of(813)), ..Default::default() }),
            Body::Act(state::Act { id: "quota-cpu-1".into(), ..Default::default() }),
            Body::OwnPolicy(state::OwnPolicy { last_act: 1, restarts: 2, ..Default::default() }),
        ];
        for body in bodies {
            kept.apply(&state::Record { body: Some(body) });
        }
        kept
    }

    fn memory_of(pid: i32) -> state::Hold {
        let process = Some(state::Process { pid, start_ticks: 7, name: "x".into() });
        state::Hold { resource: v1::Resource::Memory as i32, process, ..Default::default() }
    }

    #[test]
    fn a_limit_is_of_its_slot_and_an_older_files_one_is_the_cpus() {
        let mut kept = example();
        assert_eq!(kept.limits.len(), 3);
        let gone = |gone| state::Record { body: Some(Body::LimitGone(gone)) };
        let of = memory_of(813);
        kept.apply(&gone(state::LimitGone { resource: of.resource, process: of.process, via: "any".into() }));
        kept.apply(&gone(state::LimitGone::default()));
        let left: Vec<_> = kept.limits.keys().map(|k| (k.resource, k.target)).collect();
        assert_eq!(left, [(v1::Resource::Memory as i32, Some((812, 7)))]);
    }

    #[test]
    fn a_snapshot_reads_back_equal() {
        let kept = example();
        let bytes = kept.snapshot_bytes();
        let read = read(&bytes);
        assert_eq!(read.kept, kept);
        assert_eq!((read.valid, read.lost), (bytes.len(), Lost::Nothing));
    }

    #[test]
    fn what_waits_of_a_rule_that_is_gone_is_not_told_after_a_snapshot_either() {
        let mut kept = example();
        let part = v1::AgentPlan { generation: 4, ..Default::default() };
        kept.apply(&state::Record { body: Some(Body::Plan(state::Plan { part: part.encode_to_vec() })) });
        assert_eq!((kept.spool.len(), kept.spool.all_told().count()), (1, 0));
        assert_eq!(read(&kept.snapshot_bytes()).kept, kept);
    }

    #[test]
    fn a_new_generation_keeps_the_verdicts_of_unchanged_rules_only() {
        let told = |kept: &Kept| kept.spool.all_told().count();
        let with = |generation, digest: &str| {
            let check = v1::Check { id: "file:x".into(), digest: digest.into(), ..Default::default() };
            let deliverable = v1::DeliverablePlan { name: "api".into(), checks: vec![check], ..Default::default() };
            let part = v1::AgentPlan { generation, deliverables: vec![deliverable], ..Default::default() };
            let mut kept = example();
            kept.apply_plan(&state::Plan { part: part.encode_to_vec() });
            told(&kept)
        };
        assert_eq!(with(4, "d1"), 1);
        assert_eq!(with(4, "d2"), 0);
        // Generations that were missed may have dropped it: it is told again.
        assert_eq!(with(6, "d1"), 0);
    }

    #[test]
    fn a_frame_that_is_no_batch_is_damage() {
        let mut bytes = example().snapshot_bytes();
        let whole = bytes.len();
        frame::encode(&[0xff; 7], 3, &mut bytes);
        let read = read(&bytes);
        assert!(bytes.len() > whole && read.valid == bytes.len(), "nothing is cut off");
        assert_eq!((read.lost, read.lost_facts.counted), (Lost::Damaged { bytes: 7 }, 3));
        assert_eq!(read.kept, example());
    }

    fn gone(pid: i32) -> v1::fact::Kind {
        let process = Some(v1::ProcessIdentity { pid, start_ticks: 1, name: "x".into() });
        v1::fact::Kind::ProcessGone(v1::ProcessGone { process })
    }

    /// A snapshot and appends behind it, one fact after the other in all; how many.
    fn file_with_facts() -> (Vec<u8>, u64) {
        let mut kept = example();
        let fact = |seq| state::Record {
            body: Some(Body::Fact(spool::record(seq, state::Moment::default(), gone(seq as i32)))),
        };
        (2..=4).for_each(|seq| kept.apply(&fact(seq)));
        let mut bytes = kept.snapshot_bytes();
        for batch in [vec![fact(5)], vec![fact(6), fact(7)], vec![fact(8)]] {
            encode(batch, &mut bytes);
        }
        (bytes, 8)
    }

    #[test]
    fn flipped_at_every_bit_facts_are_kept_or_counted() {
        let (bytes, written) = file_with_facts();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut rotten = bytes.clone();
                rotten[at] ^= 1 << bit;
                let read = read(&rotten);
                let kept = read.kept.spool.len() as u64;
                assert_eq!(
                    (kept + read.lost_facts.counted, read.lost_facts.more),
                    (written, false),
                    "byte {at} bit {bit}"
                );
                assert!(matches!(read.lost, Lost::Damaged { .. }));
            }
        }
    }

    #[test]
    fn torn_at_every_byte_what_was_whole_is_kept_and_the_rest_was_never_relied_on() {
        let (bytes, _) = file_with_facts();
        let mut last = 0;
        for cut in 0..=bytes.len() {
            let read = read(&bytes[..cut]);
            assert_eq!(read.lost_facts, LostFacts::default(), "cut at {cut}");
            assert!(read.kept.spool.len() >= last && read.valid <= cut);
            last = read.kept.spool.len();
        }
        assert_eq!(last, 8);
    }

    #[test]
    fn destroyed_over_any_length_no_fact_is_lost_in_silence() {
        let (bytes, written) = file_with_facts();
        for from in 0..bytes.len() {
            for length in [1, 3, 8, 16, 40, 120, 400] {
                let mut rotten = bytes.clone();
                let to = (from + length).min(bytes.len());
                rotten[from..to].iter_mut().for_each(|b| *b = b.wrapping_mul(31).wrapping_add(7));
                let read = read(&rotten);
                let known = read.kept.spool.len() as u64 + read.lost_facts.counted;
                let torn = matches!(read.lost, Lost::TornTail { .. });
                assert!(known == written || read.lost_facts.more || torn, "{from}..{to}: {known} of {written}");
                assert!(known <= written, "{from}..{to}: {known} of {written}");
            }
        }
    }
}
