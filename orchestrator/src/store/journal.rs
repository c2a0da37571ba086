//! The thread that owns the store. Whatever waits in its bounded queue is appended in one commit and acknowledged in
//! order; reads run between commits, so no reader sees half an append and none needs a connection of its own.
//! When the thread is gone, every call answers [`Problem::Closed`].
use std::{collections::VecDeque, path::PathBuf, thread};

use pitwall_core::{io::Millis, retention::Kept, state::State};
use pitwall_proto::journal::Event;
use tokio::sync::{mpsc, oneshot};

use super::{Ownership, Page, Problem, Result, Snapshot, Store, StoreError, load};

/// Jobs that wait; a caller beyond that waits for room.
const QUEUE_MAX: usize = 256;
/// Events in one commit, about: a commit is bounded, and so is the time that the others wait for it.
const COMMIT_EVENTS_MAX: usize = 4_096;

/// Called from the store's thread when a batch is durable, or is not.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// Called from the store's thread with the store: for what is rare.
type Work = Box<dyn FnOnce(&mut dyn Store) + Send>;

struct Append {
    project: String,
    epoch: u64,
    events: Vec<Event>,
    done: Done,
}

enum Job {
    Append(Append),
    Work(Work),
    Close(oneshot::Sender<Result<()>>),
}

/// The handle; cheap to clone.
#[derive(Clone)]
pub struct Journal {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
}

impl Journal {
    /// Gives the store to a thread of its own. `path` is for messages.
    pub fn start(store: Box<dyn Store>, path: PathBuf) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        thread::Builder::new().name("journal".into()).spawn(move || run(store, queue))?;
        Ok(Self { path, jobs })
    }

    pub async fn acquire(&self, project: &str, unix_seconds: u64) -> Result<Ownership> {
        let project = project.to_owned();
        self.ask("acquire", move |store| store.acquire(&project, unix_seconds)).await
    }

    /// Queues a batch; `done` is called once, in the order of the batches. A queue that is gone calls it too.
    pub async fn append(&self, project: &str, epoch: u64, events: Vec<Event>, done: Done) {
        let append = Append { project: project.into(), epoch, events, done };
        if let Err(mpsc::error::SendError(Job::Append(append))) = self.jobs.send(Job::Append(append)).await {
            (append.done)(Err(self.closed("append to")));
        }
    }

    /// What the journal adds up to. Read in the store's thread: appends wait, and at a start there are none.
    pub async fn state(&self, project: &str, owner: &Ownership) -> Result<State> {
        let (project, owner) = (project.to_owned(), owner.clone());
        self.ask("replay", move |store| load::state(store, &project, &owner)).await
    }

    /// As of the newest snapshot, or the beginning.
    pub async fn newest_snapshot(&self, project: &str) -> Result<State> {
        let project = project.to_owned();
        self.ask("read", move |store| {
            let owner = store.ownership(&project)?;
            load::newest(store, &project, &owner).map(|(state, _)| state)
        })
        .await
    }

    /// Whether this owner still is one.
    pub async fn renew(&self, project: &str, epoch: u64) -> Result<()> {
        let project = project.to_owned();
        self.ask("renew", move |store| store.renew(&project, epoch)).await
    }

    pub async fn snapshot(&self, project: &str, epoch: u64, snapshot: Snapshot) -> Result<()> {
        let project = project.to_owned();
        self.ask("compact", move |store| store.snapshot(&project, epoch, &snapshot)).await
    }

    pub async fn forget(&self, project: &str, epoch: u64, up_to: u64, before: Millis) -> Result<u64> {
        let project = project.to_owned();
        self.ask("compact", move |store| store.forget(&project, epoch, up_to, before)).await
    }

    pub async fn kept(&self, project: &str) -> Result<Kept> {
        let project = project.to_owned();
        self.ask("read", move |store| store.kept(&project)).await
    }

    pub async fn read(&self, project: &str, page: Page) -> Result<Vec<Event>> {
        let project = project.to_owned();
        self.ask("read", move |store| store.read(&project, page)).await
    }

    pub async fn projects(&self) -> Result<Vec<String>> {
        self.ask("read", |store| store.projects()).await
    }

    /// After everything queued before it.
    pub async fn close(&self) -> Result<()> {
        let (tell, told) = oneshot::channel();
        if self.jobs.send(Job::Close(tell)).await.is_err() {
            return Ok(());
        }
        told.await.unwrap_or(Ok(()))
    }

    async fn ask<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&mut dyn Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (tell, told) = oneshot::channel();
        let work: Work = Box::new(move |store| {
            // Nobody waits any more: nothing to tell.
            let _ = tell.send(work(store));
        });
        if self.jobs.send(Job::Work(work)).await.is_err() {
            return Err(self.closed(doing));
        }
        told.await.unwrap_or_else(|_| Err(self.closed(doing)))
    }

    /// An event that must be there is not.
    pub(super) fn missing(&self, sequence: u64) -> StoreError {
        let source = format!("event {sequence} is missing");
        StoreError { problem: Problem::Corrupt, path: self.path.clone(), doing: "compact", source }
    }

    fn closed(&self, doing: &'static str) -> StoreError {
        StoreError { problem: Problem::Closed, path: self.path.clone(), doing, source: String::new() }
    }
}

fn run(mut store: Box<dyn Store>, mut queue: mpsc::Receiver<Job>) {
    let mut next = None;
    loop {
        let Some(job) = next.take().or_else(|| queue.blocking_recv()) else {
            // Every handle is gone.
            if let Err(error) = store.close() {
                tracing::error!(%error, "the journal did not close cleanly");
            }
            return;
        };
        match job {
            Job::Append(first) => {
                let mut group = VecDeque::from([first]);
                next = gather(&mut group, &mut queue);
                commit(store.as_mut(), group);
            }
            Job::Work(work) => work(store.as_mut()),
            Job::Close(tell) => {
                let _ = tell.send(store.close());
                return;
            }
        }
    }
}

/// Takes what waits already and belongs to the same owner; answers with the first job that does not.
fn gather(group: &mut VecDeque<Append>, queue: &mut mpsc::Receiver<Job>) -> Option<Job> {
    let mut events: usize = group.iter().map(|a| a.events.len()).sum();
    while events < COMMIT_EVENTS_MAX {
        match queue.try_recv() {
            Ok(Job::Append(append)) => {
                let first = group.front()?;
                if append.project != first.project || append.epoch != first.epoch {
                    return Some(Job::Append(append));
                }
                events += append.events.len();
                group.push_back(append);
            }
            Ok(other) => return Some(other),
            Err(_) => return None,
        }
    }
    None
}

/// One commit for all; all of them fail together, as the later rest on the earlier.
fn commit(store: &mut dyn Store, mut group: VecDeque<Append>) {
    let Some(first) = group.front_mut() else { return };
    let (project, epoch) = (first.project.clone(), first.epoch);
    let mut events = std::mem::take(&mut first.events);
    for append in group.iter_mut().skip(1) {
        events.append(&mut append.events);
    }
    let answer = store.append(&project, epoch, &events);
    for append in group {
        (append.done)(answer.clone());
    }
}
