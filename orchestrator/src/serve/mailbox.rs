//! The way into a project's task. Operators' calls and sidecars' messages have a mailbox each, so that a kill is never
//! behind a flood of readings. Both are bounded: whoever is too fast waits, which HTTP/2 passes on to the peer.
use std::sync::Arc;

use pitwall_core::{
    identity::Misuse,
    io::{Millis, Reply, SessionId},
    plan::Plan,
    project::Project,
    retention::Kept,
};
use pitwall_proto::v1::{self, connect_request};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tonic::{Code, Status};

use super::{hub::Watching, outbound::Outbound, status};
use crate::store::{Page, StoreError, journal::Journal};

const CALLS_MAX: usize = 256;
const MESSAGES_MAX: usize = 256;

/// Something that is told once everything decided before it is durable.
pub type Held = Box<dyn FnOnce() + Send>;
/// Reads the state; what it answers is held until that state is durable.
pub type Ask = Box<dyn FnOnce(Result<(&Project, Millis), Status>) -> Held + Send>;
pub type Answer<T> = oneshot::Sender<Result<T, Status>>;

/// Of operators and of the server itself.
pub enum Call {
    Ask(Ask),
    Apply {
        plan: Box<Plan>,
        source_yaml: String,
        answer: Answer<Reply>,
    },
    Issue {
        request: Box<v1::IssueCommandRequest>,
        answer: Answer<Reply>,
    },
    Cancel {
        id: String,
        answer: Answer<Reply>,
    },
    Adopt {
        request: Box<v1::AdoptSidecarRequest>,
        answer: Answer<Reply>,
    },
    /// Nobody waits for an answer: it becomes a finding, or the journal fails and with it more than this.
    TokenMisused(Box<Misuse>),
    Watch {
        from: Option<v1::Revision>,
        answer: Answer<Watching>,
    },
    /// Tell everybody, make durable what was decided, end.
    Shutdown {
        reason: String,
    },
}

/// Of the sidecars' streams, in order per stream.
pub enum Message {
    Opened {
        session: SessionId,
        seq: u64,
        hello: Box<v1::Hello>,
        out: Outbound,
    },
    /// Without a body that this version knows.
    Unknown {
        session: SessionId,
        seq: u64,
    },
    Body {
        session: SessionId,
        seq: u64,
        body: Box<connect_request::Body>,
        /// Its part of what all messages together may take; given back when it was handled.
        room: OwnedSemaphorePermit,
    },
    /// With what the sidecar is still to be told, where it broke a rule of the stream.
    Closed {
        session: SessionId,
        told: Option<Status>,
    },
}

/// Both receiving ends.
pub struct Mailbox {
    pub calls: mpsc::Receiver<Call>,
    pub messages: mpsc::Receiver<Message>,
}

/// One project, for the services; cheap to clone.
#[derive(Clone)]
pub struct ProjectHandle {
    pub name: Arc<str>,
    pub journal: Journal,
    calls: mpsc::Sender<Call>,
    messages: mpsc::Sender<Message>,
}

impl ProjectHandle {
    pub fn new(name: &str, journal: Journal) -> (Self, Mailbox) {
        let (calls, calls_in) = mpsc::channel(CALLS_MAX);
        let (messages, messages_in) = mpsc::channel(MESSAGES_MAX);
        let handle = Self { name: name.into(), journal, calls, messages };
        (handle, Mailbox { calls: calls_in, messages: messages_in })
    }

    /// Whether a request means this project: an empty name means the only one.
    pub fn named(&self, project: &str) -> Result<&Self, Status> {
        if project.is_empty() || project == &*self.name {
            return Ok(self);
        }
        let message = format!("this orchestrator serves {}, not {project:?}", self.name);
        Err(status::status(Code::NotFound, "PROJECT_UNKNOWN", message, "an empty project means the only one"))
    }

    /// Reads the state as of everything decided so far, once that is durable.
    pub async fn ask<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Project, Millis) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (answer, told) = oneshot::channel();
        let ask: Ask = Box::new(move |view| {
            let read = view.map(|(project, now)| read(project, now));
            Box::new(move || {
                // The caller may be gone.
                let _ = answer.send(read);
            })
        });
        self.call(Call::Ask(ask), told).await
    }

    pub async fn apply(&self, plan: Plan, source_yaml: String) -> Result<(u64, Vec<String>), Status> {
        let (answer, told) = oneshot::channel();
        match self.call(Call::Apply { plan: Box::new(plan), source_yaml, answer }, told).await? {
            Reply::Plan { generation, differences } => Ok((generation, differences)),
            Reply::Command(_) | Reply::Adopted(_) => Err(Status::internal("a plan was answered with something else")),
        }
    }

    pub async fn issue(&self, request: v1::IssueCommandRequest) -> Result<v1::Command, Status> {
        let (answer, told) = oneshot::channel();
        command(self.call(Call::Issue { request: Box::new(request), answer }, told).await?)
    }

    pub async fn cancel(&self, id: String) -> Result<v1::Command, Status> {
        let (answer, told) = oneshot::channel();
        command(self.call(Call::Cancel { id, answer }, told).await?)
    }

    pub async fn adopt(&self, request: v1::AdoptSidecarRequest) -> Result<v1::AdoptSidecarResponse, Status> {
        let (answer, told) = oneshot::channel();
        match self.call(Call::Adopt { request: Box::new(request), answer }, told).await? {
            Reply::Adopted(adopted) => Ok(adopted),
            Reply::Command(_) | Reply::Plan { .. } => {
                Err(Status::internal("an adoption was answered with something else"))
            }
        }
    }

    pub async fn watch(&self, from: Option<v1::Revision>) -> Result<Watching, Status> {
        let (answer, told) = oneshot::channel();
        self.call(Call::Watch { from, answer }, told).await
    }

    pub async fn token_misused(&self, misuse: Box<Misuse>) {
        // A task that is gone tells nobody; the audit log has it.
        let _ = self.calls.send(Call::TokenMisused(misuse)).await;
    }

    pub async fn shut_down(&self, reason: String) {
        // A task that is gone has shut down.
        let _ = self.calls.send(Call::Shutdown { reason }).await;
    }

    /// `Err`: the project's task has ended.
    pub async fn tell(&self, message: Message) -> Result<(), Status> {
        self.messages.send(message).await.map_err(|_| status::gone())
    }

    pub async fn events(&self, page: Page) -> Result<Vec<pitwall_proto::journal::Event>, Status> {
        self.journal.read(&self.name, page).await.map_err(|error: StoreError| status::store_failed(&error))
    }

    pub async fn kept(&self) -> Result<Kept, Status> {
        self.journal.kept(&self.name).await.map_err(|error: StoreError| status::store_failed(&error))
    }

    async fn call<T>(&self, call: Call, told: oneshot::Receiver<Result<T, Status>>) -> Result<T, Status> {
        self.calls.send(call).await.map_err(|_| status::gone())?;
        told.await.map_err(|_| status::gone())?
    }
}

fn command(reply: Reply) -> Result<v1::Command, Status> {
    match reply {
        Reply::Command(command) => Ok(*command),
        Reply::Plan { .. } | Reply::Adopted(_) => Err(Status::internal("a command was answered with something else")),
    }
}
