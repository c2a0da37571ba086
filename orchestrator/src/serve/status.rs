//! Refusals and failures as `google.rpc.Status` with an `ErrorInfo`: a machine's reason, a person's message, a hint.
use std::collections::HashMap;

use pitwall_core::io::{Refusal, RefusalKind};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::store::{Problem, StoreError};

const DOMAIN: &str = "pitwall";
/// A status travels in headers, whose room is small: longer messages are cut.
const MESSAGE_MAX: usize = 2_000;

/// `hint` may be empty.
pub fn status(code: Code, reason: &str, message: impl Into<String>, hint: &str) -> Status {
    let mut message: String = message.into();
    if message.len() > MESSAGE_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_MAX));
        message.push('…');
    }
    let mut metadata = HashMap::new();
    if !hint.is_empty() {
        metadata.insert("hint".to_owned(), hint.to_owned());
    }
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, metadata))
}

pub fn refused(refusal: &Refusal) -> Status {
    let code = match refusal.kind {
        RefusalKind::InvalidArgument => Code::InvalidArgument,
        RefusalKind::NotFound => Code::NotFound,
        RefusalKind::AlreadyExists => Code::AlreadyExists,
        RefusalKind::FailedPrecondition => Code::FailedPrecondition,
        RefusalKind::Aborted => Code::Aborted,
        RefusalKind::ResourceExhausted => Code::ResourceExhausted,
        RefusalKind::Unavailable => Code::Unavailable,
    };
    status(code, refusal.reason, refusal.message.as_str(), "")
}

/// The journal did not take it: nothing was done.
pub fn store_failed(error: &StoreError) -> Status {
    if let Problem::Fenced { .. } = error.problem {
        let hint = "connect to the orchestrator that took the project over; this one ends";
        return status(Code::Unavailable, "OWNER_SUPERSEDED", error.to_string(), hint);
    }
    let hint = if error.is_retryable() {
        "nothing was changed; the orchestrator tries again by itself, so can you"
    } else {
        "nothing was changed; see the orchestrator's log"
    };
    status(Code::Unavailable, "STORE_FAILED", error.to_string(), hint)
}

pub fn shutting_down(reason: &str) -> Status {
    status(Code::Unavailable, "SHUTTING_DOWN", format!("the orchestrator ends: {reason}"), "connect again later")
}

/// The project's task ended before it answered.
pub fn gone() -> Status {
    status(
        Code::Unavailable,
        "PROJECT_RESTARTING",
        "the project was restarted from its journal before this was answered; it may not have been done",
        "ask again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_reason_and_a_long_message_is_cut() {
        let refusal =
            Refusal { kind: RefusalKind::NotFound, reason: "AGENT_UNKNOWN", message: "é".repeat(MESSAGE_MAX) };
        let told = refused(&refusal);
        assert_eq!(told.code(), Code::NotFound);
        assert!(told.message().len() <= MESSAGE_MAX + '…'.len_utf8());
        let info = told.get_error_details();
        let info = info.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("AGENT_UNKNOWN", "pitwall"));
    }
}
