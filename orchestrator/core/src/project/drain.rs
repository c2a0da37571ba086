//! The end of this process, told to every sidecar: come back within a spread that grows with their number, so that a
//! hundred of them do not meet its successor at once.
use pitwall_proto::v1::{self, connect_response};

use super::{Project, sessions::refuse};
use crate::io::{Action, RefusalKind};

const SPREAD_MIN_MS: u32 = 5_000;
const SPREAD_MAX_MS: u32 = 60_000;
const SPREAD_PER_SIDECAR_MS: u32 = 100;

impl Project {
    /// At once: also where the journal hangs, a goodbye is said.
    pub(super) fn drain(&mut self, reason: &str) -> Vec<Action> {
        let sessions = self.sessions.ids();
        let many = u32::try_from(sessions.len()).unwrap_or(u32::MAX);
        let reconnect_within_ms = SPREAD_PER_SIDECAR_MS.saturating_mul(many).clamp(SPREAD_MIN_MS, SPREAD_MAX_MS);
        let mut actions = Vec::new();
        for session in sessions {
            self.sessions.remove(session);
            let goodbye = v1::GoAway { reason: reason.to_owned(), reconnect_within_ms };
            let message = format!("the orchestrator ends: {reason}");
            actions.push(Action::Send { session, body: connect_response::Body::GoAway(goodbye) });
            let refusal = refuse(RefusalKind::Unavailable, "SHUTTING_DOWN", message);
            actions.push(Action::Close { session, refusal });
        }
        actions
    }
}
