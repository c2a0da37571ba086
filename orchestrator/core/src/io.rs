//! What goes into a project's core and what comes out: the whole contract with the shell.
//!
//! The shell hands in `(now, Input)` and carries out the returned actions in order, holding no rule.
//! Everything that may be seen outside waits behind `Append`: only `Input::Appended` releases it.
use pitwall_proto::{journal, v1};

use crate::plan::Plan;

/// Project time, Unix milliseconds.
pub type Millis = i64;
/// One stream; given out by the shell, never reused in a process.
pub type SessionId = u64;
/// One waiting request of a client; given out by the shell.
pub type Token = u64;

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "the largest variant is by far the most frequent one")]
pub enum Input {
    /// Once, after replay: the grace begins in which nobody is called lost.
    Started,
    /// Once after the replay of a journal that was restored from a backup, before anything else, and before any sidecar is
    /// let in: what the history that is lost did with its commands is not known.
    Restored,
    ApplyPlan {
        token: Token,
        plan: Box<Plan>,
        source_yaml: String,
    },
    /// The first message of a stream.
    Hello {
        session: SessionId,
        hello: Box<v1::Hello>,
    },
    /// Any later message of a stream, in order. `bytes` is its encoded size.
    FromSidecar {
        session: SessionId,
        body: v1::connect_request::Body,
    },
    /// The stream ended, whoever ended it.
    SessionClosed {
        session: SessionId,
    },
    IssueCommand {
        token: Token,
        request: Box<v1::IssueCommandRequest>,
    },
    CancelCommand {
        token: Token,
        id: String,
    },
    /// Which of two sidecars with one state goes on.
    AdoptSidecar {
        token: Token,
        request: v1::AdoptSidecarRequest,
    },
    /// This process ends soon: sidecars are told, and spread their return.
    Drain {
        reason: String,
    },
    /// Somebody came with a join token of this agent that was used already, and with another key. It was refused.
    TokenMisused {
        agent: String,
        token: String,
        key: String,
    },
    /// Batch `batch` is durable.
    Appended {
        batch: u64,
    },
    /// A deadline may have passed.
    Tick,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "frames that are sent are by far the most frequent ones")]
pub enum Action {
    /// Make these durable, then say `Input::Appended`. A failure ends this core; start again from the journal.
    Append {
        batch: u64,
        events: Vec<journal::Event>,
    },
    Send {
        session: SessionId,
        body: v1::connect_response::Body,
    },
    /// End the stream with this error after what was sent before.
    Close {
        session: SessionId,
        refusal: Refusal,
    },
    Reply {
        token: Token,
        reply: Result<Reply, Refusal>,
    },
    /// To every watcher.
    Publish {
        change: Box<v1::Change>,
    },
}

#[derive(Clone, Debug)]
pub enum Reply {
    Plan { generation: u64, differences: Vec<String> },
    Command(Box<v1::Command>),
    Adopted(v1::AdoptSidecarResponse),
}

/// Why something was refused: a machine's reason and a person's message that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// `ErrorInfo.reason`, for example `AGENT_UNKNOWN`.
    pub reason: &'static str,
    pub message: String,
}

/// What class of error it is; the shell maps it to a gRPC code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    Aborted,
    ResourceExhausted,
    Unavailable,
}
