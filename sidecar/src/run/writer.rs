//! Writes the state file on a thread of its own, in order, many batches in one sync. Every batch is answered.
//!
//! After a failure nothing that was queued behind it may become durable before the core has heard of it: a later batch
//! on disk would claim that all before it are there. So each batch carries how many failures the core knew of when it
//! was made, and the thread refuses those that are behind.
use std::{collections::VecDeque, io, time::Duration};

use pitwall_sidecar_core::io::Input;
use tokio::sync::mpsc;

use crate::state_file::{StateError, StateFile};

/// Batches that wait; the loop waits when there are more.
const QUEUE: usize = 64;
/// A full disk is not asked more often than this.
const AFTER_FAILURE: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct Job {
    batch: u64,
    bytes: Vec<u8>,
    rewrite: bool,
    failures_known: u64,
}

#[derive(Debug)]
struct Answer {
    input: Input,
    failures: u64,
}

/// The loop's end.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
    answers: mpsc::Receiver<Answer>,
    /// Taken while waiting for room.
    early: VecDeque<Answer>,
    failures_known: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("the writer of the state file has ended; nothing can be remembered any more")]
pub(super) struct Ended;

impl Writer {
    pub(super) fn start(file: StateFile) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (answer, answers) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("state".into())
            .spawn(move || Thread { file, answer, failures: 0 }.live(queue))?;
        Ok(Self { jobs, answers, early: VecDeque::new(), failures_known: 0 })
    }

    pub(super) async fn append(&mut self, batch: u64, bytes: Vec<u8>) -> Result<(), Ended> {
        self.submit(batch, bytes, false).await
    }

    pub(super) async fn rewrite(&mut self, batch: u64, bytes: Vec<u8>) -> Result<(), Ended> {
        self.submit(batch, bytes, true).await
    }

    async fn submit(&mut self, batch: u64, bytes: Vec<u8>, rewrite: bool) -> Result<(), Ended> {
        let job = Job { batch, bytes, rewrite, failures_known: self.failures_known };
        loop {
            // The thread waits while nobody takes its answers: take them, or neither goes on.
            tokio::select! {
                room = self.jobs.reserve() => {
                    room.map_err(|_| Ended)?.send(job);
                    return Ok(());
                }
                Some(answer) = self.answers.recv() => self.early.push_back(answer),
            }
        }
    }

    /// The next batch that is durable, or is not.
    pub(super) async fn answer(&mut self) -> Result<Input, Ended> {
        let answer = match self.early.pop_front() {
            Some(answer) => answer,
            None => self.answers.recv().await.ok_or(Ended)?,
        };
        self.failures_known = self.failures_known.max(answer.failures);
        Ok(answer.input)
    }
}

struct Thread {
    file: StateFile,
    answer: mpsc::Sender<Answer>,
    failures: u64,
}

impl Thread {
    fn live(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut waiting: VecDeque<Job> = VecDeque::new();
        loop {
            if waiting.is_empty() {
                match queue.blocking_recv() {
                    Some(job) => waiting.push_back(job),
                    None => return,
                }
            }
            while waiting.len() < QUEUE
                && let Ok(job) = queue.try_recv()
            {
                waiting.push_back(job);
            }
            if self.write(&mut waiting).is_none() {
                return;
            }
        }
    }

    /// Takes what can be written at once from the front. `None`: nobody listens any more.
    fn write(&mut self, waiting: &mut VecDeque<Job>) -> Option<()> {
        let first = waiting.pop_front()?;
        if first.failures_known < self.failures {
            return self.tell(first.batch, Err("a batch before it could not be written".into()));
        }
        let mut batches = vec![first.batch];
        let written = if first.rewrite {
            self.file.rewrite(&first.bytes)
        } else {
            let mut bytes = first.bytes;
            while let Some(next) = waiting.pop_front_if(|job| !job.rewrite && job.failures_known >= self.failures) {
                bytes.extend_from_slice(&next.bytes);
                batches.push(next.batch);
            }
            self.file.append(&bytes)
        };
        let outcome = written.map_err(|error: StateError| error.to_string());
        if outcome.is_err() {
            self.failures += 1;
            std::thread::sleep(AFTER_FAILURE);
        }
        batches.into_iter().try_for_each(|batch| self.tell(batch, outcome.clone()))
    }

    fn tell(&self, batch: u64, outcome: Result<(), String>) -> Option<()> {
        let input = match outcome {
            Ok(()) => Input::Persisted { batch },
            Err(why) => Input::PersistFailed { batch, why },
        };
        self.answer.blocking_send(Answer { input, failures: self.failures }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_file::StateDir;

    async fn answers(writer: &mut Writer, n: usize) -> Vec<(u64, bool)> {
        let mut seen = Vec::new();
        for _ in 0..n {
            seen.push(match writer.answer().await.unwrap() {
                Input::Persisted { batch } => (batch, true),
                Input::PersistFailed { batch, .. } => (batch, false),
                other => panic!("{other:?}"),
            });
        }
        seen
    }

    #[tokio::test(flavor = "current_thread")]
    async fn far_more_batches_than_fit_are_written_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::start(StateDir::lock(directory.path()).unwrap().open(0).unwrap()).unwrap();
        for batch in 0..500_u64 {
            writer.append(batch, vec![u8::try_from(batch % 251).unwrap()]).await.unwrap();
        }
        assert_eq!(answers(&mut writer, 500).await, (0..500).map(|batch| (batch, true)).collect::<Vec<_>>());
        let bytes = std::fs::read(directory.path().join("state")).unwrap();
        assert_eq!(bytes, (0..500_u64).map(|batch| u8::try_from(batch % 251).unwrap()).collect::<Vec<_>>());
        writer.rewrite(500, b"all".to_vec()).await.unwrap();
        writer.append(501, b"+".to_vec()).await.unwrap();
        assert_eq!(answers(&mut writer, 2).await, [(500, true), (501, true)]);
        assert_eq!(std::fs::read(directory.path().join("state")).unwrap(), b"all+");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nothing_queued_behind_a_failure_becomes_durable_before_the_core_knows() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::start(StateDir::lock(directory.path()).unwrap().open(0).unwrap()).unwrap();
        // A directory in the place of the new file: the rewrite cannot be made.
        std::fs::create_dir(directory.path().join("state.new")).unwrap();
        writer.rewrite(1, b"new".to_vec()).await.unwrap();
        writer.append(2, b"two".to_vec()).await.unwrap();
        assert_eq!(answers(&mut writer, 2).await, [(1, false), (2, false)]);
        writer.append(3, b"three".to_vec()).await.unwrap();
        assert_eq!(answers(&mut writer, 1).await, [(3, true)]);
        assert_eq!(std::fs::read(directory.path().join("state")).unwrap(), b"three");
    }
}
