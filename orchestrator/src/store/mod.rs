//! The journal on disk and in memory, behind one small trait with one conformance suite (`tests/store_conformance.rs`).
//!
//! [`Store`] is synchronous and is owned by one thread ([`journal::Journal`]), which groups what waits into one commit.
//! An append is whole or not there; it checks the owner's epoch and that the events follow what is stored, so that
//! neither a fenced owner nor a batch behind a failed one can write. Beside the events lie snapshots of what they add up
//! to: [`load`] starts from the newest that is good, and [`compact`] lets go of old events that two of them hold.
pub mod compact;
pub mod copy;
mod error;
pub mod journal;
pub mod load;
mod lock;
mod mark;
mod memory;
mod rename;
pub mod replace;
mod rows;
mod schema;
mod sqlite;

use std::path::Path;

pub use error::{Problem, Result, StoreError};
pub use lock::{DataDir, JOURNAL, LockError};
pub use memory::MemoryStore;
use pitwall_core::{io::Millis, retention::Kept};
use pitwall_proto::journal::Event;
pub use sqlite::SqliteStore;

/// Which history, and who may write it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Random id of the history.
    pub lineage: String,
    /// Larger than any before: the larger of stored + 1 and Unix seconds.
    pub epoch: u64,
}

/// Which events to read.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only later ones.
    pub after: u64,
    /// Only earlier ones.
    pub before: u64,
    /// At most so many events.
    pub limit: usize,
    /// The newest that fit instead of the oldest; in order all the same.
    pub newest: bool,
}

/// What the events up to one add up to, encoded by the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub sequence: u64,
    /// Project time of that event.
    pub at: Millis,
    pub body: Vec<u8>,
}

/// A snapshot as it is read; `Err`: why what is stored is not what was written.
pub type Read = std::result::Result<Snapshot, String>;

/// Snapshots of a project that are kept: a bad one costs time, not history.
pub const SNAPSHOTS_KEPT: usize = 2;

/// Bytes of events in one page: a page ends early rather than becoming larger (one event always fits).
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

pub trait Store: Send {
    /// For messages.
    fn path(&self) -> &Path;

    /// Becomes the owner of a project; the first time, its history begins.
    fn acquire(&mut self, project: &str, unix_seconds: u64) -> Result<Ownership>;

    /// Whether `epoch` is still the owner's: asked while there is nothing to append, so that an owner that was superseded
    /// ends. A store that several machines share moves the end of the ownership on; one that a lock protects has none.
    fn renew(&mut self, project: &str, epoch: u64) -> Result<()>;

    /// Makes the events durable, all or none, if `epoch` is still the owner's and they follow what is stored.
    fn append(&mut self, project: &str, epoch: u64, events: &[Event]) -> Result<()>;

    /// Keeps a snapshot of a history that is stored already, and forgets all but the newest [`SNAPSHOTS_KEPT`].
    fn snapshot(&mut self, project: &str, epoch: u64, snapshot: &Snapshot) -> Result<()>;

    /// Those that are kept, newest first.
    fn snapshots(&mut self, project: &str) -> Result<Vec<Read>>;

    /// Forgets events up to this one that were before a moment, if every snapshot that is kept is good and holds them.
    /// Answers with how many went.
    fn forget(&mut self, project: &str, epoch: u64, up_to: u64, before: Millis) -> Result<u64>;

    fn kept(&mut self, project: &str) -> Result<Kept>;

    /// Hands every event after this one to `each`, in order, one at a time, until it says `false`.
    fn replay(&mut self, project: &str, after: u64, each: &mut dyn FnMut(Event) -> bool) -> Result<()>;

    /// Some events, in order.
    fn read(&mut self, project: &str, page: Page) -> Result<Vec<Event>>;

    /// Which history, and who wrote it last; acquires nothing.
    fn ownership(&mut self, project: &str) -> Result<Ownership>;

    fn projects(&mut self) -> Result<Vec<String>>;

    /// Leaves everything as a clean start would like it.
    fn close(&mut self) -> Result<()>;
}

/// The epoch of a new owner.
fn next_epoch(stored: u64, unix_seconds: u64) -> u64 {
    stored.saturating_add(1).max(unix_seconds)
}

/// That `events` continue a history of `last` events without a gap.
fn follows(last: u64, events: &[Event]) -> std::result::Result<(), Problem> {
    for (expected, event) in (last + 1..).zip(events) {
        if event.sequence != expected {
            return Err(Problem::Gap { expected, got: event.sequence });
        }
    }
    Ok(())
}

/// That events may go: every snapshot that is kept is good and holds them, and none is missing.
fn may_forget(snapshots: &[Read], up_to: u64) -> std::result::Result<(), String> {
    if snapshots.len() < SNAPSHOTS_KEPT {
        return Err(format!("{} snapshots hold event {up_to}, {SNAPSHOTS_KEPT} must", snapshots.len()));
    }
    for snapshot in snapshots {
        match snapshot {
            Ok(snapshot) if snapshot.sequence >= up_to => {}
            Ok(snapshot) => {
                return Err(format!("the snapshot at event {} does not hold event {up_to}", snapshot.sequence));
            }
            Err(why) => return Err(why.clone()),
        }
    }
    Ok(())
}

/// 128 random bits in hex.
fn new_lineage() -> std::io::Result<String> {
    use std::io::Read as _;
    let mut bytes = [0u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
