//! Changes on their way to watchers. Every bound has its policy: a watcher that falls behind the last [`BEHIND_MAX`]
//! changes is moved to the newest snapshot, a client that resumes from before the ring gets a snapshot, and of readings
//! only the latest is kept.
use std::{collections::VecDeque, sync::Arc};

use pitwall_proto::v1;
use prost::Message as _;
use tokio::sync::{broadcast, watch};
use tonic::Status;

/// Changes that a watcher may be behind.
const BEHIND_MAX: usize = 256;
/// Changes that a client can resume from, and their bytes.
const RING_MAX: usize = 1_024;
const RING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// To every watcher.
#[derive(Clone, Debug)]
pub enum Told {
    Change(Arc<v1::Change>),
    /// What was told may not join what comes: take a snapshot.
    Resync,
    /// The last word.
    End(Status),
}

/// Where a watcher starts.
#[derive(Debug)]
pub enum Start {
    Snapshot(Box<v1::Situation>),
    /// It knows everything before these.
    Missed {
        from: u64,
        changes: Vec<Arc<v1::Change>>,
    },
}

#[derive(Debug)]
pub struct Watching {
    pub start: Start,
    pub changes: broadcast::Receiver<Told>,
    pub readouts: watch::Receiver<Option<Arc<v1::ReadoutUpdate>>>,
}

#[derive(Debug)]
pub struct Hub {
    changes: broadcast::Sender<Told>,
    readouts: watch::Sender<Option<Arc<v1::ReadoutUpdate>>>,
    ring: VecDeque<(usize, Arc<v1::Change>)>,
    ring_bytes: usize,
    lineage: String,
    /// The sequence that the ring's first change follows.
    ring_follows: u64,
    /// The sequence that was published last.
    published: u64,
}

impl Hub {
    pub fn new(lineage: String, sequence: u64) -> Self {
        Self {
            changes: broadcast::Sender::new(BEHIND_MAX),
            readouts: watch::Sender::new(None),
            ring: VecDeque::new(),
            ring_bytes: 0,
            lineage,
            ring_follows: sequence,
            published: sequence,
        }
    }

    pub fn publish(&mut self, change: v1::Change) {
        let sequence = change.revision.as_ref().map_or(0, |r| r.sequence);
        let change = Arc::new(change);
        let bytes = change.encoded_len();
        self.ring.push_back((bytes, change.clone()));
        self.ring_bytes += bytes;
        self.published = sequence;
        while self.ring.len() > RING_MAX || self.ring_bytes > RING_BYTES_MAX {
            let Some((bytes, gone)) = self.ring.pop_front() else { break };
            self.ring_bytes -= bytes;
            self.ring_follows = gone.revision.as_ref().map_or(0, |r| r.sequence);
        }
        // Nobody may be watching.
        let _ = self.changes.send(Told::Change(change));
    }

    /// The project was started again from its journal, which may hold what was never published.
    pub fn resync(&mut self, lineage: String, sequence: u64) {
        self.ring.clear();
        self.ring_bytes = 0;
        self.lineage = lineage;
        self.ring_follows = sequence;
        self.published = sequence;
        let _ = self.changes.send(Told::Resync);
    }

    pub fn end(&self, status: Status) {
        let _ = self.changes.send(Told::End(status));
    }

    pub fn anybody_wants_readouts(&self) -> bool {
        self.readouts.receiver_count() > 0
    }

    pub fn tell_readouts(&self, update: v1::ReadoutUpdate) {
        self.readouts.send_replace(Some(Arc::new(update)));
    }

    /// What came after `from`, if all of it is still here.
    pub fn missed(&self, from: &v1::Revision) -> Option<Start> {
        let known = from.lineage == self.lineage && (self.ring_follows..=self.published).contains(&from.sequence);
        let later = |(_, change): &&(usize, Arc<v1::Change>)| {
            change.revision.as_ref().is_some_and(|r| r.sequence > from.sequence)
        };
        let changes = || self.ring.iter().filter(later).map(|(_, change)| change.clone()).collect();
        known.then(|| Start::Missed { from: from.sequence, changes: changes() })
    }

    pub fn watch(&self, start: Start) -> Watching {
        Watching { start, changes: self.changes.subscribe(), readouts: self.readouts.subscribe() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(sequence: u64) -> v1::Change {
        let revision = Some(v1::Revision { lineage: "l".into(), sequence });
        v1::Change { revision, ..Default::default() }
    }

    fn resume(hub: &Hub, lineage: &str, sequence: u64) -> Option<Vec<u64>> {
        match hub.missed(&v1::Revision { lineage: lineage.into(), sequence })? {
            Start::Missed { changes, .. } => {
                Some(changes.iter().map(|c| c.revision.as_ref().unwrap().sequence).collect())
            }
            Start::Snapshot(_) => panic!("not asked for"),
        }
    }

    #[test]
    fn a_client_resumes_where_it_stopped_or_gets_a_snapshot() {
        let mut hub = Hub::new("l".into(), 10);
        hub.publish(change(12));
        hub.publish(change(15));
        let table = [
            ("l", 9, None), // before this server's life
            ("l", 10, Some(vec![12, 15])),
            ("l", 12, Some(vec![15])),
            ("l", 13, Some(vec![15])),
            ("l", 15, Some(vec![])),
            ("l", 16, None), // from a future that was lost
            ("m", 12, None), // another history
        ];
        for (lineage, from, expected) in table {
            assert_eq!(resume(&hub, lineage, from), expected, "{lineage} {from}");
        }
        hub.resync("l".into(), 15);
        assert_eq!(resume(&hub, "l", 12), None);
    }

    #[test]
    fn the_ring_is_bounded() {
        let mut hub = Hub::new("l".into(), 0);
        for n in 1..=RING_MAX as u64 + 5 {
            hub.publish(change(n));
        }
        assert_eq!(hub.ring.len(), RING_MAX);
        assert_eq!(resume(&hub, "l", 4), None);
        assert_eq!(resume(&hub, "l", 5).unwrap().len(), RING_MAX);
    }
}
