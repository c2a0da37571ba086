//! Stores that a test can hold up or break.
use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex},
};

use pitwall::store::{MemoryStore, Ownership, Page, Problem, Read, Result, Snapshot, Store, StoreError};
use pitwall_core::retention::Kept;
use pitwall_proto::journal::Event;

#[derive(Debug, Default)]
struct Switches {
    held: bool,
    broken: bool,
    /// Another owner is to take the project over.
    taken: bool,
    /// Events whose append has begun, durable or not.
    begun: usize,
    durable: usize,
}

/// The test's side of a [`GatedStore`].
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<Switches>, Condvar)>);

impl Gate {
    /// Appends begin and do not return.
    pub fn hold(&self) {
        self.set(|s| s.held = true);
    }

    pub fn release(&self) {
        self.set(|s| s.held = false);
    }

    /// Every write fails as on a full disk.
    pub fn break_writes(&self, broken: bool) {
        self.set(|s| s.broken = broken);
    }

    /// Another owner takes the project over, before this one looks next.
    pub fn take_over(&self) {
        self.set(|s| s.taken = true);
    }

    pub fn begun(&self) -> usize {
        self.0.0.lock().unwrap().begun
    }

    pub fn durable(&self) -> usize {
        self.0.0.lock().unwrap().durable
    }

    fn set(&self, change: impl FnOnce(&mut Switches)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn check(&self) -> Result<()> {
        if self.0.0.lock().unwrap().broken {
            let (path, source) = ("/gated".into(), "no space left on device".into());
            return Err(StoreError { problem: Problem::Unwritable, path, doing: "append to", source });
        }
        Ok(())
    }
}

pub struct GatedStore {
    pub inner: MemoryStore,
    pub gate: Gate,
}

impl Store for GatedStore {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn renew(&mut self, project: &str, epoch: u64) -> Result<()> {
        let taken = std::mem::take(&mut self.gate.0.0.lock().unwrap().taken);
        if taken {
            self.inner.acquire(project, 0)?;
        }
        self.inner.renew(project, epoch)
    }

    fn snapshot(&mut self, project: &str, epoch: u64, snapshot: &Snapshot) -> Result<()> {
        self.gate.check()?;
        self.inner.snapshot(project, epoch, snapshot)
    }

    fn snapshots(&mut self, project: &str) -> Result<Vec<Read>> {
        self.inner.snapshots(project)
    }

    fn forget(&mut self, project: &str, epoch: u64, up_to: u64, before: i64) -> Result<u64> {
        self.gate.check()?;
        self.inner.forget(project, epoch, up_to, before)
    }

    fn kept(&mut self, project: &str) -> Result<Kept> {
        self.inner.kept(project)
    }

    fn ownership(&mut self, project: &str) -> Result<Ownership> {
        self.inner.ownership(project)
    }

    fn acquire(&mut self, project: &str, unix_seconds: u64) -> Result<Ownership> {
        self.gate.check()?;
        self.inner.acquire(project, unix_seconds)
    }

    fn append(&mut self, project: &str, epoch: u64, events: &[Event]) -> Result<()> {
        self.gate.set(|s| s.begun += events.len());
        let (lock, changed) = &*self.gate.0;
        drop(changed.wait_while(lock.lock().unwrap(), |s| s.held).unwrap());
        self.gate.check()?;
        self.inner.append(project, epoch, events)?;
        self.gate.set(|s| s.durable += events.len());
        Ok(())
    }

    fn replay(&mut self, project: &str, after: u64, each: &mut dyn FnMut(Event) -> bool) -> Result<()> {
        self.inner.replay(project, after, each)
    }

    fn read(&mut self, project: &str, page: Page) -> Result<Vec<Event>> {
        self.inner.read(project, page)
    }

    fn projects(&mut self) -> Result<Vec<String>> {
        self.inner.projects()
    }

    fn close(&mut self) -> Result<()> {
        self.inner.close()
    }
}
