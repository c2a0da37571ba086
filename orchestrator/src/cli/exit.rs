//! The exit codes, and the error that carries one to the end of the program.
//! The table is what `pitwall --help` prints and what scripts rely on: a number never changes its meaning.
use std::{fmt, io, process::ExitCode};

use pitwall_proto::v1::CommandState;
use tonic_types::StatusExt as _;

use super::render::text::clean;

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

    /// For machines, where no orchestrator gave a reason.
    fn reason(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Failed => "FAILED",
            Self::Usage => "USAGE",
            Self::Rejected => "REJECTED",
            Self::NotDone => "NOT_DONE",
            Self::Unknown => "OUTCOME_UNKNOWN",
            Self::BadInput => "BAD_INPUT",
            Self::Unreachable => "UNREACHABLE",
            Self::Internal => "INTERNAL",
            Self::Interrupted => "INTERRUPTED",
        }
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
    /// For machines: the orchestrator's `ErrorInfo.reason`, else the name of the exit.
    pub reason: String,
    /// Empty: everything was told already, only the exit code is left.
    pub message: String,
    pub hint: Option<String>,
}

/// Boxed, because it travels up through every call and is rarely there.
pub type Result<T> = std::result::Result<T, Box<CliError>>;

impl CliError {
    pub fn new(exit: Exit, message: impl Into<String>) -> Box<Self> {
        Box::new(Self { exit, reason: exit.reason().into(), message: message.into(), hint: None })
    }

    pub fn bad_input(message: impl Into<String>) -> Box<Self> {
        Self::new(Exit::BadInput, message)
    }

    pub fn internal(message: impl Into<String>) -> Box<Self> {
        Self::new(Exit::Internal, message)
    }

    /// What there was to say is on standard output already.
    pub fn silent(exit: Exit) -> Box<Self> {
        Self::new(exit, "")
    }

    pub fn hint(mut self: Box<Self>, hint: impl Into<String>) -> Box<Self> {
        self.hint = Some(hint.into());
        self
    }

    /// The reader of our output has gone, as with `| head`: nobody is left to tell, and nothing failed.
    pub fn output(error: &io::Error) -> Box<Self> {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silent(Exit::Ok);
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

impl CliError {
    /// As standard error shows it. Messages may come from the network, so nothing but text and newlines is left.
    pub fn render(&self, json: bool) -> String {
        if self.message.is_empty() {
            return String::new();
        }
        if json {
            let hint = self.hint.as_deref().unwrap_or("");
            let error = serde_json::json!({
                "reason": self.reason, "message": self.message, "hint": hint, "exit": self.exit.code()
            });
            return format!("{}\n", serde_json::json!({ "error": error }));
        }
        let own = self.reason == self.exit.reason();
        let reason = if own { String::new() } else { format!(" ({})", clean(&self.reason)) };
        let mut text = format!("error: {}{reason}\n", clean_lines(&self.message));
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {}\n", clean_lines(hint)));
        }
        text
    }
}

fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

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
    let message = match status.code() {
        C::DeadlineExceeded | C::Cancelled if status.message().is_empty() => "no answer in time".to_owned(),
        C::Unimplemented => "this orchestrator does not know that call: it is of another version".to_owned(),
        // Without a reason it comes from the transport, whose words are about itself.
        C::Unavailable | C::Unknown if reason.is_empty() => match transport_cause(status) {
            Some(cause) => format!("the orchestrator is gone: {cause}"),
            None if status.message().is_empty() => "the orchestrator is gone".to_owned(),
            None => format!("the orchestrator is gone: {}", status.message()),
        },
        _ if status.message().is_empty() => format!("the orchestrator answered {:?}", status.code()),
        _ => status.message().to_owned(),
    };
    let told = info.and_then(|info| info.metadata.get("hint")).cloned();
    // Of the transport's own making: what answers there is no orchestrator, or none that speaks this way.
    let strange = status.code() == C::Internal && status.message().starts_with("h2 protocol error");
    let gone = strange || status.code() == C::Unknown && reason.is_empty();
    let exit = if gone { Exit::Unreachable } else { exit };
    let mut error = CliError::new(exit, message);
    error.hint = told.or_else(|| hint_for(reason, exit).map(str::to_owned));
    if !reason.is_empty() {
        error.reason = reason.to_owned();
    }
    error
}

/// The innermost error of a broken connection, which is the one that says something.
fn transport_cause(status: &tonic::Status) -> Option<String> {
    let error = std::error::Error::source(status)?;
    Some(innermost(error))
}

pub fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn hint_for(reason: &str, exit: Exit) -> Option<&'static str> {
    match reason {
        "AGENT_UNKNOWN" | "DELIVERABLE_UNKNOWN" => Some("`pitwall agents` lists the agents of the plan"),
        "PROJECT_UNKNOWN" => Some("leave --project out where the orchestrator serves one project only"),
        _ if exit == Exit::Unreachable => {
            Some("is `pitwall serve` running, and is --orchestrator its address: https:// where it has certificates?")
        }
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
        let details =
            tonic_types::ErrorDetails::with_error_info("AGENT_UNKNOWN", "pitwall", [] as [(String, String); 0]);
        let status = tonic::Status::with_error_details(tonic::Code::NotFound, "no agent \"bakend\"", details);
        let error = of_status(&status);
        assert_eq!(error.exit, Exit::BadInput);
        assert_eq!((error.message.as_str(), error.reason.as_str()), ("no agent \"bakend\"", "AGENT_UNKNOWN"));
        let lines = "error: no agent \"bakend\" (AGENT_UNKNOWN)\nhint: `pitwall agents` lists the agents of the plan\n";
        assert_eq!(error.render(false), lines);
        let json: serde_json::Value = serde_json::from_str(&error.render(true)).expect("JSON");
        assert_eq!(json["error"]["reason"], "AGENT_UNKNOWN");
        assert_eq!(json["error"]["exit"], 64);
        assert_eq!(error.hint.as_deref(), Some("`pitwall agents` lists the agents of the plan"));
        assert_eq!(of_status(&tonic::Status::unavailable("gone")).exit, Exit::Unreachable);
        assert_eq!(of_status(&tonic::Status::failed_precondition("ended")).exit, Exit::Rejected);
    }

    #[test]
    fn an_error_from_the_network_cannot_drive_the_terminal() {
        let error = of_status(&tonic::Status::invalid_argument("two\n\x1b[2Jlines\x07"));
        assert_eq!(error.render(false), "error: two\n[2Jlines\n");
        assert_eq!(CliError::silent(Exit::Failed).render(false), "");
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        assert_eq!(CliError::output(&io::Error::from(io::ErrorKind::BrokenPipe)).exit, Exit::Ok);
        assert_eq!(CliError::output(&io::Error::from(io::ErrorKind::StorageFull)).exit, Exit::Internal);
    }
}
