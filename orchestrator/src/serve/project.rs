//! One task per project owns its core: it takes what the mailbox holds, lets the core decide, appends, carries out what
//! a durable batch releases, and wakes at the core's next deadline. It holds no rule.
//!
//! A failed append ends the core: waiting calls get `STORE_FAILED`, sessions are ended, and the task starts again from
//! the journal. While that does not succeed it serves reads of the last durable state and refuses mutations with the
//! reason. What can never succeed (another owner, a corrupt journal) ends the task with the error, and the server too;
//! that it is still the owner is asked every [`RENEW_EVERY`], so that one with nothing to append ends as well.
mod decide;
mod fail;

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use pitwall_core::{
    io::{Input, Millis, Reply, SessionId, Token},
    plan::Plan,
    project::Project,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use super::{
    clock::{self, ProjectClock},
    hub::Hub,
    mailbox::{Answer, Held, Mailbox},
    outbound::Outbound,
    status,
};
use crate::store::{Ownership, StoreError, journal::Journal};

/// Batches that may be on their way to the disk; beyond it the mailbox waits.
const IN_FLIGHT_MAX: usize = 128;
/// Answers and acknowledgements that may wait for the disk; beyond it the mailbox waits.
const HELD_MAX: usize = 1_024;
/// The longest sleep: the clock that sleeps does not count a suspended machine, project time does.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// A deadline that a tick did not move is not asked again at once.
const BETWEEN_TICKS: Duration = Duration::from_millis(5);
const READOUTS_EVERY: Duration = Duration::from_secs(1);
/// A superseded owner serves no longer than about this.
const RENEW_EVERY: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What the journal's thread tells, of the owner with this epoch.
struct FromStore {
    epoch: u64,
    done: Done,
    result: Result<(), StoreError>,
}

enum Done {
    Appended { batch: u64 },
    Renewed,
}

enum Mode {
    Up(Box<Project>),
    /// The journal failed; the last durable state where it could be read.
    Down {
        durable: Option<Box<Project>>,
        why: StoreError,
        retry_at: Instant,
    },
}

pub struct Task {
    name: String,
    journal: Journal,
    owner: Ownership,
    clock: ProjectClock,
    mode: Mode,
    mailbox: Mailbox,
    from_store: mpsc::UnboundedReceiver<FromStore>,
    /// Unbounded only in name: it holds one message per batch in flight, and one of a renewal.
    tell: mpsc::UnboundedSender<FromStore>,
    in_flight: usize,
    last_batch: u64,
    durable_batch: u64,
    held: VecDeque<(u64, Held)>,
    next_token: Token,
    waiting: HashMap<Token, Answer<Reply>>,
    sessions: HashMap<SessionId, Outbound>,
    hub: Hub,
    /// Whether mutations are taken, for health checks.
    ready: watch::Sender<bool>,
    readouts_dirty: bool,
    readouts_at: Instant,
    ticked_at: Instant,
    /// `None`: it is being asked.
    renew_at: Option<Instant>,
    backoff: Duration,
    /// That a sidecar has seen a later owner was said.
    fenced_told: bool,
    ending: Option<String>,
}

impl Task {
    /// Takes the project over and replays it.
    pub async fn start(name: &str, journal: Journal, mailbox: Mailbox) -> Result<Self, StoreError> {
        let owner = journal.acquire(name, unix_seconds()).await?;
        let project = fail::resume(&journal, name, &owner).await?;
        let (tell, from_store) = mpsc::unbounded_channel();
        Ok(Self {
            name: name.into(),
            journal,
            clock: ProjectClock::start(project.state().at),
            hub: Hub::new(owner.lineage.clone(), project.revision().sequence),
            owner,
            mode: Mode::Up(project),
            mailbox,
            from_store,
            tell,
            in_flight: 0,
            last_batch: 0,
            durable_batch: 0,
            held: VecDeque::new(),
            next_token: 1,
            waiting: HashMap::new(),
            sessions: HashMap::new(),
            ready: watch::Sender::new(true),
            readouts_dirty: false,
            readouts_at: Instant::now(),
            ticked_at: Instant::now(),
            renew_at: Some(Instant::now() + RENEW_EVERY),
            backoff: RETRY_FIRST,
            fenced_told: false,
            ending: None,
        })
    }

    pub fn owner(&self) -> &Ownership {
        &self.owner
    }

    /// Ends with the task.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Runs until it is told to shut down, or until the journal can never be written again.
    /// The plan is applied before anything else is taken; `applied` hears what came of it.
    pub async fn run(mut self, plan: Plan, source_yaml: String, applied: Answer<Reply>) -> Result<(), StoreError> {
        let token = self.token(applied);
        self.decide(Input::ApplyPlan { token, plan: Box::new(plan), source_yaml }).await;
        self.decide(Input::Started).await;
        let result = self.serve().await;
        let told = match (&result, &self.ending) {
            (Err(error), _) => status::store_failed(error),
            (Ok(()), Some(reason)) => status::shutting_down(reason),
            (Ok(()), None) => status::shutting_down("nobody uses it any more"),
        };
        self.end_everybody(&told);
        self.hub.end(told);
        result
    }

    async fn serve(&mut self) -> Result<(), StoreError> {
        loop {
            if self.ending.is_some() && self.in_flight == 0 {
                return Ok(());
            }
            let room = self.in_flight < IN_FLIGHT_MAX && self.held.len() < HELD_MAX;
            let open = self.ending.is_none() && room;
            let wake = self.until_wake();
            tokio::select! {
                Some(told) = self.from_store.recv() => self.on_store(told).await?,
                call = self.mailbox.calls.recv(), if open => match call {
                    Some(call) => self.on_call(call).await,
                    None => self.begin_end("no service is left".into()).await,
                },
                Some(message) = self.mailbox.messages.recv(), if open => self.on_message(message).await,
                () = sleep(wake) => self.on_wake().await?,
            }
        }
    }

    fn until_wake(&self) -> Duration {
        match &self.mode {
            Mode::Down { retry_at, .. } => retry_at.saturating_duration_since(Instant::now()).min(SLEEP_MAX),
            Mode::Up(core) => {
                let due = core.next_deadline().map_or(Millis::MAX, |(at, _)| at.saturating_sub(self.clock.now()));
                let due = Duration::from_millis(u64::try_from(due).unwrap_or(0));
                let due = due.max(BETWEEN_TICKS.saturating_sub(self.ticked_at.elapsed()));
                let readouts = if self.readouts_dirty {
                    READOUTS_EVERY.saturating_sub(self.readouts_at.elapsed())
                } else {
                    SLEEP_MAX
                };
                let renewal = self.renew_at.map_or(SLEEP_MAX, |at| at.saturating_duration_since(Instant::now()));
                // Nothing, once it is due: so that a full mailbox, which begins this anew, cannot put it off.
                due.min(readouts).min(renewal).min(SLEEP_MAX)
            }
        }
    }

    async fn on_wake(&mut self) -> Result<(), StoreError> {
        let due = match &self.mode {
            Mode::Down { retry_at, .. } => {
                if self.ending.is_none() && *retry_at <= Instant::now() {
                    self.try_to_come_up().await?;
                }
                return Ok(());
            }
            Mode::Up(core) => core.next_deadline().is_some_and(|(at, _)| at <= self.clock.now()),
        };
        self.renew();
        if due {
            self.ticked_at = Instant::now();
            self.decide(Input::Tick).await;
        }
        self.tell_readouts();
        Ok(())
    }

    fn tell_readouts(&mut self) {
        if !self.readouts_dirty || self.readouts_at.elapsed() < READOUTS_EVERY {
            return;
        }
        self.readouts_dirty = false;
        self.readouts_at = Instant::now();
        if let Mode::Up(core) = &self.mode
            && self.hub.anybody_wants_readouts()
        {
            self.hub.tell_readouts(core.readouts(self.clock.now()));
        }
    }
}

fn unix_seconds() -> u64 {
    u64::try_from(clock::wall() / 1_000).unwrap_or(0)
}
