//! A journal that ends with the process: for tests and simulations. It keeps the same promises otherwise, and
//! can be told to fail as a full disk would.
use std::{collections::BTreeMap, path::Path};

use pitwall_core::{
    io::Millis,
    retention::{Kept, Place},
};
use pitwall_proto::journal::Event;

use super::{
    Ownership, Page, Problem, Read, Result, SNAPSHOTS_KEPT, Snapshot, Store, StoreError, follows, may_forget,
    new_lineage, next_epoch,
};

/// For messages.
const NAME: &str = "(memory)";

#[derive(Debug, Default)]
pub struct MemoryStore {
    projects: BTreeMap<String, History>,
    closed: bool,
    /// Appends fail while this is set.
    pub full: bool,
}

#[derive(Debug)]
struct History {
    owner: Ownership,
    events: Vec<Event>,
    last: u64,
    /// Newest first.
    snapshots: Vec<Snapshot>,
}

impl MemoryStore {
    fn error(&self, doing: &'static str, problem: Problem) -> StoreError {
        StoreError { problem, path: Path::new(NAME).into(), doing, source: String::new() }
    }

    fn history(&self, doing: &'static str, project: &str) -> Result<&History> {
        if self.closed {
            return Err(self.error(doing, Problem::Closed));
        }
        self.projects.get(project).ok_or_else(|| self.error(doing, Problem::NoSuchProject))
    }

    /// The history, for its owner.
    fn owned(&mut self, doing: &'static str, project: &str, epoch: u64) -> Result<&mut History> {
        let stored = self.history(doing, project)?.owner.epoch;
        if stored != epoch {
            return Err(self.error(doing, Problem::Fenced { held: epoch, stored }));
        }
        self.projects.get_mut(project).ok_or(StoreError {
            problem: Problem::NoSuchProject,
            path: Path::new(NAME).into(),
            doing,
            source: String::new(),
        })
    }

    fn refused(&self, doing: &'static str, source: String) -> StoreError {
        StoreError { source, ..self.error(doing, Problem::Refused) }
    }
}

impl Store for MemoryStore {
    fn path(&self) -> &Path {
        Path::new(NAME)
    }

    fn acquire(&mut self, project: &str, unix_seconds: u64) -> Result<Ownership> {
        if self.closed {
            return Err(self.error("acquire", Problem::Closed));
        }
        if let Some(kept) = self.projects.get_mut(project) {
            kept.owner.epoch = next_epoch(kept.owner.epoch, unix_seconds);
            return Ok(kept.owner.clone());
        }
        let lineage = new_lineage()
            .map_err(|source| StoreError { source: source.to_string(), ..self.error("acquire", Problem::Engine) })?;
        let owner = Ownership { lineage, epoch: next_epoch(0, unix_seconds) };
        self.projects.insert(
            project.into(),
            History { owner: owner.clone(), events: Vec::new(), last: 0, snapshots: Vec::new() },
        );
        Ok(owner)
    }

    fn renew(&mut self, project: &str, epoch: u64) -> Result<()> {
        self.owned("renew", project, epoch).map(|_| ())
    }

    fn append(&mut self, project: &str, epoch: u64, events: &[Event]) -> Result<()> {
        let full = self.full;
        let history = self.owned("append to", project, epoch)?;
        let problem = follows(history.last, events).err().or(full.then_some(Problem::Unwritable));
        if let Some(problem) = problem {
            return Err(self.error("append to", problem));
        }
        history.last += events.len() as u64;
        history.events.extend_from_slice(events);
        Ok(())
    }

    fn snapshot(&mut self, project: &str, epoch: u64, snapshot: &Snapshot) -> Result<()> {
        let history = self.owned("compact", project, epoch)?;
        let (last, newest) = (history.last, history.snapshots.first().map_or(0, |s| s.sequence));
        if snapshot.sequence <= newest || snapshot.sequence > last {
            let told = format!("a snapshot at event {} of {last}, after one at {newest}", snapshot.sequence);
            return Err(self.refused("compact", told));
        }
        history.snapshots.insert(0, snapshot.clone());
        history.snapshots.truncate(SNAPSHOTS_KEPT);
        Ok(())
    }

    fn snapshots(&mut self, project: &str) -> Result<Vec<Read>> {
        Ok(self.history("read", project)?.snapshots.iter().cloned().map(Ok).collect())
    }

    fn forget(&mut self, project: &str, epoch: u64, up_to: u64, before: Millis) -> Result<u64> {
        self.owned("compact", project, epoch)?;
        let snapshots = self.snapshots(project)?;
        may_forget(&snapshots, up_to).map_err(|told| self.refused("compact", told))?;
        let history = self.owned("compact", project, epoch)?;
        let goes = |event: &Event| event.sequence <= up_to && event.at_ms < before;
        let gone = history.events.iter().take_while(|event| goes(event)).count();
        history.events.drain(..gone);
        Ok(gone as u64)
    }

    fn kept(&mut self, project: &str) -> Result<Kept> {
        let history = self.history("read", project)?;
        Ok(Kept {
            first: history.events.first().map(|e| Place { sequence: e.sequence, at: e.at_ms }),
            last: history.last,
            snapshots: history.snapshots.iter().map(|s| Place { sequence: s.sequence, at: s.at }).collect(),
        })
    }

    fn replay(&mut self, project: &str, after: u64, each: &mut dyn FnMut(Event) -> bool) -> Result<()> {
        let later = self.history("replay", project)?.events.iter().filter(|e| e.sequence > after);
        for (expected, event) in (after + 1..).zip(later) {
            if event.sequence != expected {
                let source = format!("event {expected} is missing, {} is there", event.sequence);
                return Err(StoreError { source, ..self.error("replay", Problem::Corrupt) });
            }
            if !each(event.clone()) {
                break;
            }
        }
        Ok(())
    }

    fn read(&mut self, project: &str, page: Page) -> Result<Vec<Event>> {
        let kept = self.history("read", project)?;
        let inside = |e: &&Event| e.sequence > page.after && e.sequence < page.before;
        Ok(if page.newest {
            let mut newest: Vec<Event> = kept.events.iter().rev().filter(inside).take(page.limit).cloned().collect();
            newest.reverse();
            newest
        } else {
            kept.events.iter().filter(inside).take(page.limit).cloned().collect()
        })
    }

    fn ownership(&mut self, project: &str) -> Result<Ownership> {
        Ok(self.history("read", project)?.owner.clone())
    }

    fn projects(&mut self) -> Result<Vec<String>> {
        Ok(self.projects.keys().cloned().collect())
    }

    fn close(&mut self) -> Result<()> {
        self.closed = true;
        Ok(())
    }
}
