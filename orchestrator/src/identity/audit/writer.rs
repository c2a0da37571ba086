//! The thread that writes. Each file fails for itself; what cannot be written is counted, and counted in the file too once
//! that can be written again.
use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use super::{Entry, FILES, Order, QUEUE_MAX, Shared, log::Log};
use crate::identity::{Result, files, now};

/// Like refusals within this are one line.
const TOGETHER: Duration = Duration::from_secs(10);
/// Kinds of refusals that are counted at the same time, in each file; of more, none is written.
pub const KINDS_MAX: usize = 4_096;
/// So often a file that could not be written is tried again, and counted refusals are told.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub struct Writer {
    changes: File,
    refusals: Refusals,
    strangers: Refusals,
    shared: Arc<Shared>,
}

impl Writer {
    pub fn new(directory: &Path, shared: Arc<Shared>) -> Self {
        let [changes, refusals, strangers] = FILES.map(|name| File::new(Log::new(directory, name)));
        let [refusals, strangers] = [refusals, strangers].map(|file| Refusals { file, recent: HashMap::new() });
        Self { changes, refusals, strangers, shared }
    }

    pub fn open(&mut self) -> Result<()> {
        for file in [&mut self.changes, &mut self.refusals.file, &mut self.strangers.file] {
            let failed = files::failed("open", &file.log.path);
            file.log.open().map_err(failed)?;
        }
        Ok(())
    }

    pub fn run(mut self, queue: &mpsc::Receiver<Order>) {
        loop {
            let first = match queue.recv_timeout(LOOK_EVERY) {
                Ok(order) => Some(order),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            };
            let batch: Vec<Order> = first.into_iter().chain(queue.try_iter()).take(QUEUE_MAX).collect();
            self.write(batch, false);
        }
        self.write(Vec::new(), true);
    }

    /// `all`: also refusals that are still counted.
    pub fn write(&mut self, batch: Vec<Order>, all: bool) {
        let (mut changes, mut changed, mut flushed) = (Vec::new(), Vec::new(), Vec::new());
        let (mut refusals, mut strangers) = (Vec::new(), Vec::new());
        let not_written = &self.shared.not_written;
        for order in batch {
            match order {
                Order::Change(entry, done) => {
                    changes.push(entry);
                    changed.push(done);
                }
                Order::Refusal(entry) => {
                    self.shared.refusals_waiting.fetch_sub(1, Ordering::Relaxed);
                    let (of, to) = if entry.who.is_empty() {
                        (&mut self.strangers, &mut strangers)
                    } else {
                        (&mut self.refusals, &mut refusals)
                    };
                    match of.take(entry) {
                        Taken::Tell(entry) => to.push(entry),
                        Taken::Counted => {}
                        Taken::Full => {
                            not_written.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                Order::Flush(done) => flushed.push(done),
            }
        }
        let all = all || !flushed.is_empty();
        refusals.extend(self.refusals.counted(all));
        strangers.extend(self.strangers.counted(all));
        self.changes.missing += self.shared.unqueued.swap(0, Ordering::Relaxed);
        let is_changed = self.changes.write(changes);
        let mut is_written = is_changed;
        for (of, entries) in [(&mut self.refusals, refusals), (&mut self.strangers, strangers)] {
            let before = of.file.missing;
            is_written &= of.file.write(entries);
            not_written.fetch_add(of.file.missing.saturating_sub(before), Ordering::Relaxed);
        }
        self.shared.failed.store(!is_written, Ordering::Relaxed);
        // Whoever waited may be gone.
        for done in changed {
            let _ = done.send(is_changed);
        }
        for done in flushed {
            let _ = done.send(is_written);
        }
    }
}

/// A file and whether it holds everything.
struct File {
    log: Log,
    /// The last try failed.
    failed: bool,
    /// Lines that it should have had since it could be written.
    missing: u64,
}

impl File {
    fn new(log: Log) -> Self {
        Self { log, failed: false, missing: 0 }
    }

    /// After a failure a line of its own finds out whether writing works again, and tells what is missing. Without
    /// anything to write, the last answer holds.
    fn write(&mut self, mut entries: Vec<Entry>) -> bool {
        let told: u64 = entries.iter().map(|entry| u64::from(entry.times)).sum();
        if self.failed || self.missing > 0 {
            entries.insert(0, gap(self.missing));
        }
        match self.log.append(&entries) {
            Ok(()) => {
                (self.failed, self.missing) = (false, 0);
                true
            }
            Err(error) => {
                tracing::error!(file = %self.log.path.display(), %error, "the audit log cannot be written");
                self.failed = true;
                self.missing += told;
                false
            }
        }
    }
}

fn gap(missing: u64) -> Entry {
    Entry {
        at: now(),
        call: "audit".into(),
        what: format!("{missing} entries before this one could not be written"),
        outcome: "DataLoss".into(),
        reason: "AUDIT_UNWRITABLE".into(),
        times: 1,
        ..Default::default()
    }
}

#[derive(PartialEq, Eq, Hash)]
struct Kind(String, String, String, String);

/// A file of refusals: when one was written, and how many like it came since.
struct Refusals {
    file: File,
    recent: HashMap<Kind, (Instant, u32, Entry)>,
}

enum Taken {
    Tell(Entry),
    /// Told later, with its like.
    Counted,
    /// There are too many kinds to tell them apart.
    Full,
}

impl Refusals {
    fn take(&mut self, entry: Entry) -> Taken {
        let kind = Kind(entry.who.clone(), entry.from.clone(), entry.call.clone(), entry.reason.clone());
        if let Some((_, more, last)) = self.recent.get_mut(&kind) {
            *more += 1;
            *last = entry;
            return Taken::Counted;
        }
        if self.recent.len() >= KINDS_MAX {
            return Taken::Full;
        }
        self.recent.insert(kind, (Instant::now(), 0, entry.clone()));
        Taken::Tell(entry)
    }

    /// Those that came again and again, as one line each; `all`: also where their time is not over.
    fn counted(&mut self, all: bool) -> Vec<Entry> {
        let mut told = Vec::new();
        self.recent.retain(|_, (since, more, last)| {
            let over = since.elapsed() >= TOGETHER;
            if (over || all) && *more > 0 {
                told.push(Entry { times: *more, ..last.clone() });
                *more = 0;
            }
            !over
        });
        told
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn refused(who: &str, from: String) -> Order {
        Order::Refusal(Entry { who: who.into(), from, reason: "R".into(), times: 1, ..Default::default() })
    }

    fn waiting(shared: &Shared, orders: Vec<Order>) -> Vec<Order> {
        let refusals = orders.iter().filter(|order| matches!(order, Order::Refusal(_))).count();
        shared.refusals_waiting.fetch_add(refusals, Ordering::Relaxed);
        orders
    }

    #[test]
    fn a_stranger_pushes_nobody_elses_refusals_out() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::default());
        let mut writer = Writer::new(dir.path(), shared.clone());
        let mut orders: Vec<Order> = (0..KINDS_MAX + 10).map(|n| refused("", n.to_string())).collect();
        orders.push(refused("eve", "::1".into()));
        writer.write(waiting(&shared, orders), false);
        let lines = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap().lines().count();
        assert_eq!((lines("refusals.jsonl"), lines("strangers.jsonl")), (1, KINDS_MAX));
        assert_eq!(shared.not_written.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn a_file_that_cannot_be_written_does_not_take_the_others_lines_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::default());
        let mut writer = Writer::new(dir.path(), shared.clone());
        fs::create_dir(dir.path().join("changes.jsonl")).unwrap();
        let (done, mut told) = tokio::sync::oneshot::channel();
        let change = Order::Change(Entry { times: 1, ..Default::default() }, done);
        writer.write(waiting(&shared, vec![change, refused("eve", String::new())]), false);
        assert_eq!(told.try_recv(), Ok(false));
        assert_eq!(fs::read_to_string(dir.path().join("refusals.jsonl")).unwrap().lines().count(), 1);
        assert_eq!(shared.not_written.load(Ordering::Relaxed), 0);
    }
}
