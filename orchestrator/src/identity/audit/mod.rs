//! The audit log: one line of JSON per mutation or refusal, in three files below `audit/` (`changes.jsonl`,
//! `refusals.jsonl`, and `strangers.jsonl` for refusals of whoever has no certificate), so that no flood of refusals
//! pushes a mutation out, and no stranger's the others'. One thread writes ([`writer`]); what waits together is made
//! durable together. A mutation is answered after its line is durable; refusals are counted together when the same one
//! comes again within ten seconds, and counted but not written when too many wait.
//!
//! When the log cannot be written, mutations are refused before they are made ([`Audit::is_writable`]) until a line is
//! durable again: that line tells how many are missing before it. A crash between a change and its line loses the line;
//! the change itself is in the journal or in the records.
mod log;
mod writer;

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, SyncSender},
    },
    thread::{self, JoinHandle},
};

use pitwall_core::io::Millis;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use self::{log::Log, writer::Writer};
use super::{Result, files};

/// Lines that wait; the last quarter is for mutations alone, and strangers have no more than half of it.
const QUEUE_MAX: usize = 1_024;
const REFUSALS_MAX: usize = 768;
const STRANGERS_MAX: usize = 512;
const TEXT_MAX: usize = 500;
const FILES: [&str; 3] = ["changes", "refusals", "strangers"];

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub at: Millis,
    /// Empty: no certificate.
    pub who: String,
    pub from: String,
    pub call: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub what: String,
    pub outcome: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
}

fn once() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_once(times: &u32) -> bool {
    *times <= 1
}

enum Order {
    Change(Entry, oneshot::Sender<bool>),
    Refusal(Entry),
    /// Everything that came before is on disk, counted ones too.
    Flush(oneshot::Sender<bool>),
}

#[derive(Debug)]
pub struct Audit {
    directory: PathBuf,
    orders: Option<SyncSender<Order>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    refusals_waiting: AtomicUsize,
    not_written: AtomicU64,
    /// The last write failed.
    failed: AtomicBool,
    /// Changes that found no room in the queue, and are not told in the log yet.
    unqueued: AtomicU64,
}

impl Audit {
    pub fn open(data: &Path) -> Result<Self> {
        let directory = data.join("audit");
        files::make_private_dir(&directory)?;
        let (orders, queue) = mpsc::sync_channel(QUEUE_MAX);
        let shared = Arc::new(Shared::default());
        let mut writer = Writer::new(&directory, shared.clone());
        // Now, so that a directory that cannot be written is told at the start.
        writer.open()?;
        let thread = thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer.run(&queue))
            .map_err(files::failed("start a thread for", &directory))?;
        Ok(Self { directory, orders: Some(orders), shared, thread: Some(thread) })
    }

    /// Whether the last write succeeded, with every change in it.
    pub fn is_writable(&self) -> bool {
        !self.shared.failed.load(Ordering::Relaxed) && self.shared.unqueued.load(Ordering::Relaxed) == 0
    }

    /// Refusals that were counted only.
    pub fn not_written(&self) -> u64 {
        self.shared.not_written.load(Ordering::Relaxed)
    }

    /// A mutation and what came of it; returns when it is durable. `false`: it could not be written.
    pub async fn change(&self, entry: Entry) -> bool {
        let (done, written) = oneshot::channel();
        if !self.order(Order::Change(cut(entry), done)) {
            self.shared.unqueued.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        written.await.unwrap_or(false)
    }

    /// Never waits.
    pub fn refusal(&self, entry: Entry) {
        let waiting = self.shared.refusals_waiting.fetch_add(1, Ordering::Relaxed);
        let most = if entry.who.is_empty() { STRANGERS_MAX } else { REFUSALS_MAX };
        if waiting >= most || !self.order(Order::Refusal(cut(entry))) {
            self.shared.refusals_waiting.fetch_sub(1, Ordering::Relaxed);
            self.shared.not_written.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn order(&self, order: Order) -> bool {
        self.orders.as_ref().is_some_and(|orders| orders.try_send(order).is_ok())
    }

    /// The newest entries that fit, newest first.
    pub async fn list(&self, limit: usize, fits: impl Fn(&Entry) -> bool + Send + 'static) -> Vec<Entry> {
        let (done, flushed) = oneshot::channel();
        if self.order(Order::Flush(done)) {
            let _ = flushed.await;
        }
        let directory = self.directory.clone();
        // Away from the threads that serve: there may be many lines to look through.
        tokio::task::spawn_blocking(move || newest(&directory, limit, fits)).await.unwrap_or_default()
    }
}

fn newest(directory: &Path, limit: usize, fits: impl Fn(&Entry) -> bool) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    for name in FILES {
        let mut of_this: Vec<Entry> = Vec::new();
        for path in Log::new(directory, name).all_newest_first() {
            let Ok(file) = File::open(&path) else { continue };
            let lines = BufReader::new(file).lines().map_while(io::Result::ok);
            let entries: Vec<Entry> =
                lines.filter_map(|line| serde_json::from_str(&line).ok()).filter(|e| fits(e)).collect();
            of_this.extend(entries.into_iter().rev());
            if of_this.len() >= limit {
                break;
            }
        }
        of_this.truncate(limit);
        found.extend(of_this);
    }
    found.sort_by_key(|entry| std::cmp::Reverse(entry.at));
    found.truncate(limit);
    found
}

impl Drop for Audit {
    fn drop(&mut self) {
        // The thread ends with its queue, after what waits in it.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A line is short whatever a peer sent.
fn cut(mut entry: Entry) -> Entry {
    for text in [&mut entry.who, &mut entry.call, &mut entry.what, &mut entry.message] {
        if text.len() > TEXT_MAX {
            text.truncate(text.floor_char_boundary(TEXT_MAX));
            text.push('…');
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use super::{
        log::{ASIDE, FILE_MAX},
        *,
    };

    fn refused(who: &str, at: Millis) -> Entry {
        let (outcome, reason) = ("PermissionDenied".into(), "ROLE_INSUFFICIENT".into());
        Entry { at, who: who.into(), call: "c".into(), outcome, reason, times: 1, ..Default::default() }
    }

    fn done() -> Entry {
        Entry { at: 5, who: "ann".into(), call: "c".into(), outcome: "OK".into(), times: 1, ..Default::default() }
    }

    #[tokio::test]
    async fn changes_are_durable_when_told_and_like_refusals_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        assert!(audit.change(done()).await);
        let text = fs::read_to_string(dir.path().join("audit/changes.jsonl")).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(text.trim()).unwrap(), done());
        for at in 10..20 {
            audit.refusal(refused("eve", at));
        }
        audit.refusal(refused("bob", 30));
        let listed = audit.list(10, |_| true).await;
        let told: Vec<_> = listed.iter().map(|e| (e.who.as_str(), e.at, e.times)).collect();
        assert_eq!(told, [("bob", 30, 1), ("eve", 19, 9), ("eve", 10, 1), ("ann", 5, 1)]);
        assert_eq!(audit.list(1, |e| e.who == "eve").await.len(), 1);
        // What is there is read again after a restart.
        drop(audit);
        let audit = Audit::open(dir.path()).unwrap();
        assert_eq!(audit.list(10, |_| true).await.len(), 4);
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_written_is_told_until_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        assert!(audit.change(done()).await);
        // Grown enough to be put aside, and directories in the way of that.
        let file = dir.path().join("audit/changes.jsonl");
        OpenOptions::new().write(true).open(&file).unwrap().set_len(FILE_MAX).unwrap();
        let in_the_way = |n: usize| dir.path().join(format!("audit/changes.{n}.jsonl"));
        for n in 1..=ASIDE {
            fs::create_dir_all(in_the_way(n).join("x")).unwrap();
        }
        assert!(!audit.change(done()).await);
        assert!(!audit.is_writable());
        // Each of these is a look without anything new to write.
        for _ in 0..3 {
            audit.list(1, |_| true).await;
            assert!(!audit.is_writable());
        }
        for n in 1..=ASIDE {
            fs::remove_dir_all(in_the_way(n)).unwrap();
        }
        let told = audit.list(10, |entry| entry.reason == "AUDIT_UNWRITABLE").await;
        assert!(audit.is_writable());
        assert_eq!(
            told.iter().map(|e| e.what.as_str()).collect::<Vec<_>>(),
            ["1 entries before this one could not be written"]
        );
        assert!(audit.change(done()).await);
    }

    #[tokio::test]
    async fn a_change_that_finds_no_room_is_missing_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let (orders, queue) = mpsc::sync_channel(1);
        let shared = Arc::new(Shared::default());
        let (directory, thread) = (dir.path().to_owned(), None);
        let audit = Audit { directory, orders: Some(orders), shared: shared.clone(), thread };
        audit.refusal(refused("eve", 1));
        assert!(!audit.change(done()).await);
        assert!(!audit.is_writable());
        Writer::new(dir.path(), shared).write(queue.try_iter().collect(), false);
        assert!(audit.is_writable());
        let text = fs::read_to_string(dir.path().join("changes.jsonl")).unwrap();
        assert!(text.contains("1 entries before this one"), "{text}");
    }
}
