//! A sidecar's state file as the disk has it, read with means of its own.
mod records;

use std::collections::{BTreeMap, BTreeSet};

use pitwall_proto::{
    state::{self, record::Body},
    v1::{self, CommandState as S, fact::Kind},
};
use prost::Message as _;

use super::{Exemption, FactKey, Tally};

#[derive(Clone, Debug)]
pub struct Held {
    pub state: S,
    pub spec: v1::CommandSpec,
    pub step: i32,
    pub acked: bool,
}

/// The records of a file or of a batch; what follows the first frame that is not whole is not read.
pub fn records(bytes: &[u8]) -> Vec<Body> {
    let mut found = Vec::new();
    let mut rest = bytes;
    let word = |at: &[u8]| u32::from_le_bytes([at[0], at[1], at[2], at[3]]);
    while rest.len() >= 12 {
        let length = word(rest) as usize;
        // A header says how many facts there are, or is of the first version.
        let header = if crc32fast::hash(&rest[..4]) == word(&rest[4..]) { 12 } else { 16 };
        let Some(payload) = rest.get(header..header + length) else { break };
        let head_sum = word(&rest[header - 8..]);
        if crc32fast::hash(&rest[..header - 8]) != head_sum || crc32fast::hash(payload) != word(&rest[header - 4..]) {
            break;
        }
        let Ok(batch) = state::Batch::decode(payload) else { break };
        found.extend(batch.records.into_iter().filter_map(|r| r.body));
        rest = &rest[header + length..];
    }
    found
}

/// A fact that was durable, and must be in the journal in the end.
#[derive(Clone, Debug)]
pub struct Owed {
    pub key: FactKey,
    /// Every number that it was ever given.
    numbers: BTreeSet<u64>,
    /// The history that acknowledged it, if any did.
    pub acked_in: Option<String>,
    /// One that acknowledged it to an earlier process, which did not write that down: to the next history it told only
    /// what came after.
    heard_in: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct SiteModel {
    pub agent: String,
    pub instance: String,
    pub life: u64,
    pub lineage: String,
    pub epoch: u64,
    pub commands: BTreeMap<String, Held>,
    /// By resource.
    pub limits: BTreeMap<i32, state::Limit>,
    /// Commands whose lease is in the file, and of which resource.
    pub leases: BTreeMap<String, i32>,
    /// What the sidecar does by itself, as the file has it.
    pub own: BTreeMap<String, state::Act>,
    /// Facts up to here wait no more.
    pub acked: u64,
    /// Highest fact in the file.
    pub last_fact: u64,
    /// In the file, and not acknowledged by what it says itself.
    /// By number; with a checksum of what each says.
    waiting: BTreeMap<u64, u32>,
    /// Newest verdict of each check, since a plan came of which another one lay between: then all are told anew.
    newest: BTreeMap<(String, String), u64>,
    generation: u64,
    /// By instance and number.
    owed: BTreeMap<(String, u64), Owed>,
    /// Acknowledged before the file was set back: their numbers may mean something else by now.
    kept: Vec<(String, Owed)>,
    /// Another one of the same state is there: from which number on they give the same ones.
    twin_above: Option<u64>,
    /// Facts of the file that this one is a copy of.
    copied: BTreeSet<u64>,
    /// What welcomes of this process said of its facts, by history.
    pub welcomed_with: Vec<(u64, String)>,
    /// It is a copy of a file that told of an agent alive.
    copied_alive: bool,
    /// Dropped by the full spool.
    overflown: BTreeSet<(String, u64)>,
    /// Which commands were delivered to this file, and when on the true clock at the latest they may start.
    pub start_by: BTreeMap<String, StartBy>,
    pub cancelled_in_time: BTreeSet<String>,
    pub moved_back: Vec<String>,
    /// Cursors of one history that were taken over into another.
    pub mixed: Vec<String>,
    /// Newest verdicts that the full spool dropped.
    pub dropped_newest: Vec<String>,
    /// Dropped and not told, as the file says, and where that is not what was dropped.
    pub untold: u64,
    pub uncounted: Vec<String>,
    pub overflows: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct StartBy {
    pub at: u64,
    /// Of its host, when it was received.
    pub boots: u32,
    pub wall_skew: i64,
}

impl Owed {
    /// The same fact, under whatever number.
    fn is(&self, other: &Owed) -> bool {
        self.key == other.key && !self.numbers.is_disjoint(&other.numbers)
    }
}

/// Files of older versions know the CPU only, and do not name it.
pub fn resource_of(number: i32) -> i32 {
    number.max(1)
}

/// How a file came to be another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetBack {
    /// By an older copy of itself, or by nothing.
    Replaced,
    /// A bit of it flipped.
    Damaged,
}

impl SiteModel {
    pub fn of(agent: &str) -> Self {
        Self { agent: agent.into(), ..Self::default() }
    }

    /// A copy of this file is used by somebody else too.
    pub fn copied(&mut self) {
        self.twin_above = Some(self.last_fact);
    }

    /// Of a sidecar that starts with a copy of this file.
    pub fn copy_of(&self, bytes: &[u8]) -> Self {
        let mut copy = Self::of(&self.agent);
        copy.start_by = self.start_by.clone();
        copy.reread(bytes);
        copy.copied = (0..=copy.last_fact).collect();
        copy.twin_above = Some(0);
        copy.owed.clear();
        copy
    }

    /// A batch became durable.
    pub fn append(&mut self, bytes: &[u8]) {
        for body in records(bytes) {
            self.apply(body);
        }
    }

    /// The whole file became another one: written anew, or read after a crash.
    pub fn reread(&mut self, bytes: &[u8]) {
        (self.instance, self.life, self.lineage, self.epoch) = Default::default();
        self.commands.clear();
        self.limits.clear();
        self.leases.clear();
        self.own.clear();
        self.waiting.clear();
        self.newest.clear();
        (self.last_fact, self.acked, self.untold, self.generation) = (0, 0, 0, 0);
        // Facts have other numbers in the middle of a file than at its end.
        let before = std::mem::take(&mut self.owed);
        self.append(bytes);
        let new = |(place, owed): &(&(String, u64), &Owed)| before.get(*place).is_none_or(|b| b.key != owed.key);
        let new: Vec<_> = self.owed.iter().filter(new).map(|(place, _)| place.clone()).collect();
        for (mut place, owed) in before {
            // Written anew after it was numbered anew, before that had become durable.
            let gone = owed.acked_in.is_none() && self.owed.get(&place).is_none_or(|now| now.key != owed.key);
            let again = new.iter().find(|at| gone && at.0 == place.0 && self.owed[*at].key == owed.key);
            place = again.cloned().unwrap_or(place);
            let now = self.owed.entry(place.clone()).or_insert_with(|| owed.clone());
            if now.key != owed.key {
                // Its number was given to another one, and it was not given a new one.
                self.kept.push((place.0, owed));
                continue;
            }
            now.numbers.extend(&owed.numbers);
            now.acked_in = owed.acked_in.or(now.acked_in.take());
            now.heard_in = owed.heard_in.or(now.heard_in.take());
        }
        self.acked_as_the_file_says(self.acked);
    }

    /// Its own process wrote the file anew. What the full spool dropped since, in batches that never became durable, is not
    /// in it any more, and is no more than the overflow that the new file counts.
    pub fn rewritten(&mut self, bytes: &[u8]) {
        self.reread(bytes);
        let gone = |(place, owed): &(&(String, u64), &Owed)| {
            owed.acked_in.is_none() && place.0 == self.instance && !self.waiting.contains_key(&place.1)
        };
        let gone: Vec<_> = self.owed.iter().filter(gone).map(|(place, _)| place.clone()).collect();
        let told = records(bytes).into_iter().filter_map(|body| match body {
            Body::Fact(fact) => match v1::Fact::decode(fact.fact.as_slice()).ok()?.kind? {
                Kind::FactsDropped(dropped) => Some(dropped.count),
                _ => None,
            },
            _ => None,
        });
        if gone.len() as u64 <= self.untold + told.sum::<u64>() {
            for place in gone {
                self.owed.remove(&place);
                self.overflown.insert(place);
            }
        }
    }

    /// A process reads the file: an acknowledgement that only the one before had heard of is not known any more.
    pub fn read_by_another_process(&mut self, bytes: &[u8]) {
        self.welcomed_with.clear();
        self.reread(bytes);
        for ((instance, seq), owed) in &mut self.owed {
            if *instance == self.instance && self.waiting.contains_key(seq) {
                owed.heard_in = owed.acked_in.take().or(owed.heard_in.take());
            }
        }
    }

    /// The file is not what it was: nothing more is owed of what only the old one had.
    pub fn set_back(&mut self, bytes: &[u8], how: SetBack, tally: &mut Tally) {
        self.welcomed_with.clear();
        let before = std::mem::take(&mut self.owed);
        self.reread(bytes);
        if how == SetBack::Damaged {
            // Another instance goes on with the newest of each topic, which it writes anew, and gives the rest up.
            tally.excused(Exemption::GivenUpAfterDamage, std::mem::take(&mut self.owed).len() as u64);
        }
        let (mut lost, mut twins) = (0, 0);
        let twin_above = self.twin_above.unwrap_or(u64::MAX);
        self.twin_above = self.twin_above.map(|above| above.min(self.last_fact));
        for (place, owed) in before {
            if owed.acked_in.is_some() && place.1 > twin_above {
                twins += 1;
            } else if owed.acked_in.is_some() {
                if !self.kept.iter().any(|(instance, other)| *instance == place.0 && other.is(&owed)) {
                    self.kept.push((place.0, owed));
                }
            } else if !self.owed.contains_key(&place) {
                lost += 1;
            }
        }
        // What waits in the older file as well is one fact, not two.
        let owed = &self.owed;
        self.kept.retain(|(instance, kept)| !owed.iter().any(|((i, _), o)| i == instance && o.is(kept)));
        tally.excused(Exemption::NumbersOfTwins, twins);
        tally.excused(Exemption::LostWithItsDisk, lost);
    }

    /// The directory is thrown away, and nobody goes on with it.
    pub fn thrown_away(&mut self, tally: &mut Tally) {
        self.set_back(&[], SetBack::Replaced, tally);
    }

    fn heard_ack(&mut self, seq: u64, lineage: &str) {
        let instance = self.instance.clone();
        for (_, owed) in self.owed.range_mut((instance.clone(), 0)..=(instance, seq)) {
            owed.acked_in.get_or_insert_with(|| lineage.to_owned());
        }
    }

    fn acked_as_the_file_says(&mut self, to: u64) {
        let lineage = self.lineage.clone();
        self.acked_by(to, &lineage);
    }

    /// Facts to here are known as acknowledged now: by this history, where none said so before that was met meanwhile.
    pub fn acked_by(&mut self, to: u64, lineage: &str) {
        for (seq, other) in self.welcomed_with.clone() {
            let instance = self.instance.clone();
            for (_, owed) in self.owed.range_mut((instance.clone(), 0)..=(instance, seq.min(to))) {
                owed.acked_in = owed.acked_in.take().or(owed.heard_in.take());
            }
            self.heard_ack(seq.min(to), &other);
        }
        self.heard_ack(to, lineage);
    }

    /// What the journal of this history must have.
    pub fn owed_to(&self, lineage: &str, tally: &mut Tally) -> Vec<(&FactKey, String)> {
        let now = self.owed.iter().map(|((instance, seq), owed)| (instance, seq, owed));
        let all = now.chain(self.kept.iter().map(|(i, owed)| (i, owed.numbers.first().unwrap_or(&0), owed)));
        let (owed, lost): (Vec<_>, Vec<_>) =
            all.partition(|(_, _, o)| o.acked_in.as_ref().is_none_or(|by| by == lineage));
        tally.excused(Exemption::AckedByALostHistory, lost.len() as u64);
        let (owed, of_none): (Vec<_>, Vec<_>) = owed.into_iter().partition(|(instance, seq, o)| {
            !matches!(o.key, FactKey::Exited { .. }) || self.has_told_alive(instance, **seq)
        });
        tally.excused(Exemption::NeverSeenAlive, of_none.len() as u64);
        tally.excused(Exemption::CountedAsOverflow, self.overflown.len() as u64);
        let place = |instance: &String, seq: &u64, owed: &Owed| {
            let acked = if owed.acked_in.is_some() { ", acknowledged" } else { "" };
            format!("fact {seq} of {instance}{acked}")
        };
        owed.into_iter().map(|(instance, seq, owed)| (&owed.key, place(instance, seq, owed))).collect()
    }

    /// Before this fact, and where it was not lost with its disk or dropped: else the journal does not know that it lived.
    fn has_told_alive(&self, instance: &String, seq: u64) -> bool {
        let seen = |owed: &Owed| matches!(owed.key, FactKey::Seen { .. });
        self.copied_alive
            || self.owed.range((instance.clone(), 0)..(instance.clone(), seq)).any(|(_, o)| seen(o))
            || self.kept.iter().any(|(i, o)| i == instance && seen(o) && o.numbers.first().is_some_and(|n| *n < seq))
    }
}

impl SiteModel {
    /// Whether this fact, under this number, waits in the file.
    pub fn has(&self, fact: &v1::Fact) -> bool {
        let says = v1::Fact { kind: fact.kind.clone(), ..Default::default() }.encode_to_vec();
        self.waiting.get(&fact.seq).is_some_and(|there| *there == crc32fast::hash(&says))
    }
}
