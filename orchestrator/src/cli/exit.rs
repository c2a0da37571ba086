//! The exit codes, and the error that carries one to the end of the program.
//! The table is what `pitwall --help` prints and what scripts rely on: a number never changes its meaning.
use std::{fmt, io, process::ExitCode};

use pitwall_proto::v1::CommandState;
use tonic_types::StatusExt as _;

/// How a run of `pitwall` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok,
    Failed,
    Usage,
    Rejected,
    NotDone,
    Unknown,
    BadInput,
    Unreachable,
    Internal,
    Interrupted,
}

/// Every code with its meaning, in the order in which help shows them.
pub const TABLE: [(Exit, u8, &str); 10] = [
    (Exit::Ok, 0, "done; a command has SUCCEEDED"),
    (Exit::Failed, 1, "a command ended FAILED, or what was asked for did not come true"),
    (Exit::Usage, 2, "wrong use of the command line"),
    (Exit::Rejected, 3, "a command ended REJECTED, or the orchestrator refused the request"),
    (Exit::NotDone, 4, "a command ended EXPIRED, CANCELLED or SUPERSEDED"),
    (Exit::Unknown, 5, "a command ended UNKNOWN, or did not end in time: it may have taken effect"),
    (Exit::BadInput, 64, "bad input: mistakes in a plan, an unknown agent, a file that cannot be read"),
    (Exit::Unreachable, 69, "no orchestrator answers"),
    (Exit::Internal, 70, "an internal error"),
    (Exit::Interrupted, 130, "interrupted"),
];

impl Exit {
    pub fn code(self) -> u8 {
        // Every variant is in the table, which a test checks.
        TABLE.iter().find(|(exit, _, _)| *exit == self).map_or(70, |(_, code, _)| *code)
    }

    /// The exit of a command by its terminal state; `None` while it is not terminal.
    pub fn of_state(state: CommandState) -> Option<Self> {
        use CommandState as S;
        match state {
            S::Unspecified | S::Queued | S::Sent | S::Received | S::Accepted | S::Running => None,
            S::Succeeded => Some(Self::Ok),
            S::Failed => Some(Self::Failed),
            S::Rejected => Some(Self::Rejected),
            S::Expired | S::Cancelled | S::Superseded => Some(Self::NotDone),
            S::Unknown => Some(Self::Unknown),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table as `--help` shows it.
pub fn help() -> String {
    let mut text = String::from("Exit codes:\n");
    for (_, code, meaning) in TABLE {
        text.push_str(&format!("  {code:>3}  {meaning}\n"));
    }
    text
}

/// What went wrong, what to do about it, and how to exit.
#[derive(Debug)]
pub struct CliError {
    pub exit: Exit,
    pub message: String,
    pub hint: Option<String>,
}

/// Boxed, because it travels up through every call and is rarely there.
pub type Result<T> = std::result::Result<T, Box<CliError>>;

impl CliError {
    pub fn new(exit: Exit, message: impl Into<String>) -> Box<Self> {
        Box::new(Self { exit, message: message.into(), hint: None })
    }

    pub fn bad_input(message: impl Into<String>) -> Box<Self> {
        Self::new(Exit::BadInput, message)
    }

    pub fn internal(message: impl Into<String>) -> Box<Self> {
        Self::new(Exit::Internal, message)
    }

    pub fn hint(mut self: Box<Self>, hint: impl Into<String>) -> Box<Self> {
        self.hint = Some(hint.into());
        self
    }

    /// The reader of our output has gone, as with `| head`: nobody is left to tell, and nothing failed.
    pub fn output(error: &io::Error) -> Box<Self> {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Ok, "");
        }
        Self::internal(format!("cannot write the output: {error}"))
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

/// A gRPC error told for people: its message as it is, the exit by its class, the hint by its reason.
pub fn of_status(status: &tonic::Status) -> Box<CliError> {
    use tonic::Code as C;
    let exit = match status.code() {
        C::InvalidArgument | C::OutOfRange | C::NotFound => Exit::BadInput,
        C::AlreadyExists
        | C::FailedPrecondition
        | C::Aborted
        | C::ResourceExhausted
        | C::PermissionDenied
        | C::Unauthenticated => Exit::Rejected,
        C::Unavailable | C::DeadlineExceeded | C::Cancelled => Exit::Unreachable,
        C::Ok | C::Unknown | C::Unimplemented | C::Internal | C::DataLoss => Exit::Internal,
    };
    let details = status.get_error_details();
    let info = details.error_info();
    let reason = info.map_or("", |info| info.reason.as_str());
    let mut message = match status.code() {
        C::DeadlineExceeded | C::Cancelled if status.message().is_empty() => "no answer in time".to_owned(),
        C::Unimplemented => "this orchestrator does not know that call: it is of another version".to_owned(),
        _ if status.message().is_empty() => format!("the orchestrator answered {:?}", status.code()),
        _ => super::render::text::clean(status.message()),
    };
    if !reason.is_empty() {
        message.push_str(&format!(" ({})", super::render::text::clean(reason)));
    }
    let told = info.and_then(|info| info.metadata.get("hint")).map(|hint| super::render::text::clean(hint));
    let mut error = CliError::new(exit, message);
    error.hint = told.or_else(|| hint_for(reason, exit).map(str::to_owned));
    error
}

fn hint_for(reason: &str, exit: Exit) -> Option<&'static str> {
    match reason {
        "AGENT_UNKNOWN" | "DELIVERABLE_UNKNOWN" => Some("`pitwall agents` lists the agents of the plan"),
        "COMMAND_NOT_FOUND" | "COMMAND_ID_UNKNOWN" => Some("`pitwall commands` lists the commands"),
        "PROJECT_UNKNOWN" => Some("leave --project out where the orchestrator serves one project only"),
        _ if exit == Exit::Unreachable => Some("is `pitwall serve` running, and is --orchestrator its address?"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_once_and_keeps_its_number() {
        let numbers: Vec<u8> = TABLE.iter().map(|(_, code, _)| *code).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 64, 69, 70, 130]);
        for (exit, code, _) in TABLE {
            assert_eq!(exit.code(), code);
            assert!(help().contains(&format!("{code:>3}  ")));
        }
    }

    #[test]
    fn a_command_exits_by_its_terminal_state() {
        use CommandState as S;
        let table = [
            (S::Queued, None),
            (S::Sent, None),
            (S::Received, None),
            (S::Accepted, None),
            (S::Running, None),
            (S::Succeeded, Some(0)),
            (S::Failed, Some(1)),
            (S::Rejected, Some(3)),
            (S::Expired, Some(4)),
            (S::Cancelled, Some(4)),
            (S::Superseded, Some(4)),
            (S::Unknown, Some(5)),
        ];
        for (state, code) in table {
            assert_eq!(Exit::of_state(state).map(Exit::code), code, "{state:?}");
        }
    }

    #[test]
    fn a_status_with_a_reason_becomes_an_error_with_a_hint() {
        let details = tonic_types::ErrorDetails::with_error_info("AGENT_UNKNOWN", "pitwall", Vec::new());
        let status = tonic::Status::with_error_details(tonic::Code::NotFound, "no agent \"bakend\"", details);
        let error = of_status(&status);
        assert_eq!(error.exit, Exit::BadInput);
        assert_eq!(error.message, "no agent \"bakend\" (AGENT_UNKNOWN)");
        assert_eq!(error.hint.as_deref(), Some("`pitwall agents` lists the agents of the plan"));
        assert_eq!(of_status(&tonic::Status::unavailable("gone")).exit, Exit::Unreachable);
        assert_eq!(of_status(&tonic::Status::failed_precondition("ended")).exit, Exit::Rejected);
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        assert_eq!(CliError::output(&io::Error::from(io::ErrorKind::BrokenPipe)).exit, Exit::Ok);
        assert_eq!(CliError::output(&io::Error::from(io::ErrorKind::StorageFull)).exit, Exit::Internal);
    }
}
