//! Whether the other end of a stream is still there. Both sides say something at least once in a heartbeat interval, and
//! give a stream up on which they heard nothing for four of them: 40 s with the default of 10 s. This stands beside the
//! HTTP/2 keepalive of the shells, which a proxy in between may answer in another's name.
use pitwall_proto::v1::{self, connect_response};

use super::{Project, liveness::LOST_AFTER, sessions::refuse};
use crate::io::{Action, Millis, RefusalKind, SessionId};

/// Of the interval: so that a pulse is there before the other side counts an interval as missed.
const PULSES_PER_INTERVAL: (Millis, Millis) = (4, 5);

impl Project {
    fn heartbeat_every(&self) -> Millis {
        self.state.plan.windows.heartbeat_every_ms as Millis
    }

    pub(super) fn pulse_every(&self) -> u32 {
        u32::try_from(self.heartbeat_every()).unwrap_or(u32::MAX)
    }

    fn pulse_after(&self) -> Millis {
        let (part, of) = PULSES_PER_INTERVAL;
        self.heartbeat_every() * part / of
    }

    /// Where nothing else was said for long enough.
    pub(super) fn owe_pulse(&mut self, session: SessionId) {
        let due = self.sessions.get(session).is_some_and(|s| s.said_at + self.pulse_after() <= self.now);
        if due {
            self.send(session, connect_response::Body::Pulse(v1::Pulse {}));
        }
    }

    /// Streams on which nothing was heard for too long. What becomes of the sidecar is another matter (`liveness`).
    pub(super) fn end_silent_sessions(&mut self) {
        let silence = self.heartbeat_every() * LOST_AFTER;
        for session in self.sessions.silent_since(self.now - silence) {
            self.sessions.remove(session);
            let message = format!("nothing was heard for {} s: the link is dead", silence / 1_000);
            let refusal = refuse(RefusalKind::Unavailable, "SESSION_SILENT", message);
            self.then(Action::Close { session, refusal });
        }
    }

    pub(super) fn pulse_deadline(&self) -> Option<(Millis, String)> {
        let silence = self.heartbeat_every() * LOST_AFTER;
        let of = |session: &super::sessions::Session| {
            let pulse =
                (session.said_at + self.pulse_after(), format!("the sidecar of {} is owed a pulse", session.agent));
            let dead = (session.heard_at + silence, format!("silence on the stream of {}", session.agent));
            pulse.min(dead)
        };
        self.sessions.all().map(of).min()
    }

    /// This process was not woken when it was due, by more than an interval: it stood still itself, and cannot say that
    /// others were silent meanwhile. What they said waits to be read. They get one interval.
    pub(super) fn excuse_standstill(&mut self, now: Millis) {
        let every = self.heartbeat_every();
        // Looked at only where so much time has passed: deadlines are many.
        if now <= self.now + every || self.next_deadline().is_none_or(|(due, _)| now <= due + every) {
            return;
        }
        self.signs.excuse(now - every);
        self.sessions.excuse(now - every);
    }
}
