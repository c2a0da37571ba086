//! When records go to the state file, and from when on they may be relied on. One batch is under way at a time: what is
//! recorded meanwhile forms the next one (group commit). After a failure the whole file is written anew, as nobody
//! knows what its tail holds; until that has worked nothing of it is relied on.
use crate::{
    io::{Action, Now},
    kept::{self, Kept},
};
use pitwall_proto::state;

/// Below this a file is not written anew, however much of it is obsolete.
const COMPACT_ABOVE: u64 = 1024 * 1024;
const COMPACT_FACTOR: u64 = 4;
const RETRY_BASE_MS: u64 = 500;
const RETRY_CAP_MS: u64 = 30_000;
/// What is not urgent waits for something that is, or so long.
const LAZY_MS: u64 = 5_000;

/// Records that wait while a write is under way; with more, the next write is of the whole file.
const PENDING_MAX: usize = 10_000;

/// The batch that something recorded now will be in. Durable when [`Store::is_durable`] says so.
pub type Ticket = u64;

#[derive(Debug)]
struct Flight {
    batch: u64,
    /// Length of the file once it is written.
    file_len: u64,
    /// Highest fact in it.
    last_seq: u64,
}

#[derive(Debug)]
pub struct Store {
    pending: Vec<state::Record>,
    urgent: bool,
    lazy_until: Option<u64>,
    next_batch: u64,
    flight: Option<Flight>,
    durable: u64,
    durable_seq: u64,
    file_len: u64,
    /// Size of the last snapshot.
    live: u64,
    rewrite: bool,
    failures: u32,
    retry_at: Option<u64>,
}

impl Store {
    /// For a file of `file_len` bytes that holds everything of `kept`.
    pub fn new(file_len: usize, kept: &Kept, rewrite: bool) -> Self {
        Self {
            pending: Vec::new(),
            urgent: false,
            lazy_until: None,
            next_batch: 1,
            flight: None,
            durable: 0,
            durable_seq: kept.spool.last_seq,
            file_len: file_len as u64,
            live: kept.snapshot_bytes().len() as u64,
            rewrite,
            failures: 0,
            retry_at: None,
        }
    }

    pub fn push(&mut self, record: state::Record) -> Ticket {
        self.keep(record);
        self.urgent = true;
        self.next_batch
    }

    /// Where the whole file is written next, the record is in it anyway.
    fn keep(&mut self, record: state::Record) {
        if self.pending.len() >= PENDING_MAX {
            self.rewrite = true;
        }
        if self.rewrite {
            self.pending.clear();
        } else {
            self.pending.push(record);
        }
    }

    /// Nothing is lost that would not be found out again, if a crash loses this.
    pub fn push_lazily(&mut self, now: Now, record: state::Record) {
        self.keep(record);
        self.lazy_until.get_or_insert(now.boot_ms + LAZY_MS);
    }

    pub fn is_durable(&self, ticket: Ticket) -> bool {
        ticket <= self.durable
    }

    /// Facts up to this one are durable.
    pub fn durable_seq(&self) -> u64 {
        self.durable_seq
    }

    /// What waits has other numbers above this one: as such they are durable with the batch that is decided now.
    pub fn renumbered(&mut self, above: u64) {
        self.durable_seq = self.durable_seq.min(above);
        if let Some(flight) = &mut self.flight {
            flight.last_seq = flight.last_seq.min(above);
        }
    }

    /// Everything recorded so far is durable.
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.flight.is_none() && self.retry_at.is_none() && !self.rewrite
    }

    /// The next batch, if one is due and none is under way.
    pub fn issue(&mut self, now: Now, kept: &Kept) -> Option<Action> {
        if self.flight.is_some() || self.retry_at.is_some_and(|at| at > now.boot_ms) {
            return None;
        }
        let due = self.urgent || self.rewrite || self.lazy_until.is_some_and(|at| at <= now.boot_ms);
        if !due {
            return None;
        }
        let batch = self.next_batch;
        self.next_batch += 1;
        self.retry_at = None;
        self.urgent = false;
        self.lazy_until = None;
        let records = std::mem::take(&mut self.pending);
        let limit = COMPACT_ABOVE.max(COMPACT_FACTOR * self.live);
        let rewrite = self.rewrite || self.file_len > limit;
        let bytes = if rewrite {
            kept.snapshot_bytes()
        } else {
            let mut bytes = Vec::new();
            kept::encode(records, &mut bytes);
            bytes
        };
        let size = bytes.len() as u64;
        let file_len = if rewrite { size } else { self.file_len + size };
        if rewrite {
            self.live = size;
            self.rewrite = false;
        }
        self.flight = Some(Flight { batch, file_len, last_seq: kept.spool.last_seq });
        Some(if rewrite { Action::Rewrite { batch, bytes } } else { Action::Persist { batch, bytes } })
    }

    pub fn persisted(&mut self, batch: u64) {
        let Some(flight) = self.flight.take_if(|f| f.batch == batch) else { return };
        self.durable = flight.batch;
        self.durable_seq = flight.last_seq;
        self.file_len = flight.file_len;
        self.failures = 0;
    }

    /// Whether this is the first failure in a row.
    pub fn failed(&mut self, now: Now, batch: u64) -> bool {
        if self.flight.take_if(|f| f.batch == batch).is_none() {
            return false;
        }
        self.rewrite = true;
        let wait = (RETRY_BASE_MS << self.failures.min(16)).min(RETRY_CAP_MS);
        self.retry_at = Some(now.boot_ms + wait);
        self.failures += 1;
        self.failures == 1
    }

    pub fn deadline(&self) -> Option<u64> {
        if self.flight.is_some() {
            return None;
        }
        self.retry_at.or(self.lazy_until)
    }
}

#[cfg(test)]
mod tests {
    use pitwall_proto::state::record::Body;

    use super::*;
    use crate::kept;

    fn now(boot_ms: u64) -> Now {
        Now { boot_ms, wall_ms: 0 }
    }

    fn command(id: &str, detail: &str) -> state::Record {
        let command = state::Command { id: id.into(), detail: detail.into(), ..Default::default() };
        state::Record { body: Some(Body::Command(command)) }
    }

    fn push(store: &mut Store, kept: &mut Kept, record: state::Record) -> Ticket {
        kept.apply(&record);
        store.push(record)
    }

    #[test]
    fn one_batch_at_a_time_and_the_next_holds_what_came_meanwhile() {
        let mut kept = Kept::default();
        let mut store = Store::new(0, &kept, false);
        assert_eq!(store.issue(now(0), &kept), None);
        let a = push(&mut store, &mut kept, command("a", ""));
        assert!(matches!(store.issue(now(0), &kept), Some(Action::Persist { batch: 1, .. })));
        let b = push(&mut store, &mut kept, command("b", ""));
        let c = push(&mut store, &mut kept, command("c", ""));
        assert_eq!(store.issue(now(0), &kept), None);
        store.persisted(1);
        assert!(store.is_durable(a) && !store.is_durable(b));
        assert!(matches!(store.issue(now(0), &kept), Some(Action::Persist { batch: 2, .. })));
        store.persisted(2);
        assert!(store.is_durable(b) && store.is_durable(c) && store.is_settled());
    }

    #[test]
    fn a_failed_write_releases_nothing_and_is_asked_again_as_a_whole() {
        let mut kept = Kept::default();
        let mut store = Store::new(0, &kept, false);
        let a = push(&mut store, &mut kept, command("a", ""));
        assert!(store.issue(now(0), &kept).is_some());
        assert!(store.failed(now(0), 1));
        let b = push(&mut store, &mut kept, command("b", ""));
        assert!(!store.is_durable(a));
        assert_eq!(store.issue(now(499), &kept), None);
        assert_eq!(store.deadline(), Some(500));
        let Some(Action::Rewrite { batch: 2, bytes }) = store.issue(now(500), &kept) else { panic!("no rewrite") };
        assert_eq!(kept::read(&bytes).kept.commands.len(), 2);
        // Told once only.
        assert!(!store.failed(now(500), 2));
        assert_eq!(store.deadline(), Some(1_500));
        assert!(store.issue(now(1_500), &kept).is_some());
        store.persisted(3);
        assert!(store.is_durable(a) && store.is_durable(b));
        // Answers to batches that nobody waits for change nothing.
        store.persisted(9);
        assert!(!store.failed(now(0), 9));
    }

    #[test]
    fn what_is_not_urgent_waits() {
        let mut kept = Kept::default();
        let mut store = Store::new(0, &kept, false);
        let record = command("a", "");
        kept.apply(&record);
        store.push_lazily(now(0), record);
        assert_eq!(store.issue(now(4_999), &kept), None);
        assert_eq!(store.deadline(), Some(5_000));
        assert!(store.issue(now(5_000), &kept).is_some());
    }

    #[test]
    fn a_file_of_obsolete_records_is_written_anew() {
        let mut kept = Kept::default();
        let mut store = Store::new(0, &kept, false);
        let mut rewritten = 0;
        for n in 0..40 {
            push(&mut store, &mut kept, command("a", &"x".repeat(100_000)));
            match store.issue(now(n), &kept) {
                Some(Action::Persist { batch, .. }) => store.persisted(batch),
                Some(Action::Rewrite { batch, bytes }) => {
                    rewritten += 1;
                    assert!(bytes.len() < 120_000);
                    store.persisted(batch);
                }
                other => panic!("{other:?}"),
            }
            assert!(store.file_len < COMPACT_ABOVE + 200_000);
        }
        assert!((2..6).contains(&rewritten), "{rewritten}");
    }
}
