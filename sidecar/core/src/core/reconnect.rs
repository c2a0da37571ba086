//! How long to wait for the next stream: drawn evenly from nothing to a bound that doubles with each failure up to a cap
//! (full jitter, drawn after the cap), begun anew after a session that was stable. Refusals that do not heal by asking
//! again soon have waits of their own; a goodbye of the orchestrator names the spread.
use pitwall_proto::{mutant, v1};

use super::{
    Core,
    link::{DEAD_AFTER, HEARTBEAT_MS},
    session::Phase,
};
use crate::io::{Action, SessionId};

const RETRY_BASE_MS: u64 = 1_000;
const RETRY_CAP_MS: u64 = 120_000;
const RETRY_MIN_MS: u64 = 10;
/// With a shorter heartbeat the cap is so many of them, so that short windows see their sidecar again in time.
const CAP_HEARTBEATS: u64 = 12;
/// No goodbye sends a sidecar away for longer.
const AWAY_MAX_MS: u64 = 600_000;
const TOLD_MAX: usize = 300;

impl Core {
    /// Base and cap of the wait before another try.
    fn pace(&self) -> (u64, u64) {
        let every = self.heartbeat_every();
        if every >= HEARTBEAT_MS {
            return (RETRY_BASE_MS, RETRY_CAP_MS);
        }
        let base = (every / 10).clamp(50, RETRY_BASE_MS);
        (base, (every * CAP_HEARTBEATS).clamp(base, RETRY_CAP_MS))
    }

    fn backoff(&mut self) -> u64 {
        let (base, cap) = self.pace();
        let longest = (base << self.link.attempts.min(20)).min(cap);
        self.link.attempts += 1;
        self.jitter.up_to(longest).max(RETRY_MIN_MS)
    }

    /// Refusals that do not heal by asking again soon.
    fn slow_retry(&mut self, reason: &str) -> Option<u64> {
        let every = self.heartbeat_every();
        let longest = match reason {
            // Over when the other one is lost.
            "SECOND_INSTANCE" | "STATE_MOVED" => (every * DEAD_AFTER).min(5_000),
            // Over when a plan with it is applied.
            "AGENT_UNKNOWN" | "PROJECT_UNKNOWN" => (every * 6).min(15_000),
            // Over when an operator adopts this one.
            "LIFE_SUPERSEDED" | "NOT_ADOPTED" => (every * 6).min(15_000),
            "HELLO_INCOMPLETE" | "HELLO_AGAIN" => 60_000,
            // Over when somebody makes a new token.
            _ if reason.starts_with("CERTIFICATE_") || reason.starts_with("TOKEN_") => 15_000,
            _ => return None,
        };
        Some(longest / 2 + self.jitter.up_to(longest / 2))
    }

    /// The stream is over; `wait` until the next.
    fn wait(&mut self, why: &str, wait: u64) {
        self.link.phase = Phase::Waiting { at: self.now.boot_ms + wait };
        self.work.session_ended();
        let why: String = why.chars().take(TOLD_MAX).collect();
        if self.link.said != why && self.stop.is_none() {
            self.log(false, format!("no session with the orchestrator: {why}; trying again"));
            self.link.said = why;
        }
    }

    /// Ends the stream from this side and tries again later.
    pub(super) fn drop_stream(&mut self, why: &str) {
        if let Some(stream) = self.link.stream() {
            let session = stream.session;
            self.out.push(Action::Disconnect { session });
        }
        let wait = self.backoff();
        self.wait(why, wait);
    }

    pub(super) fn closed(&mut self, session: SessionId, why: &str, refusal: Option<&str>) {
        if self.link.stream().is_none_or(|s| s.session != session) {
            return;
        }
        if let Some(reason) = refusal {
            self.refused(reason, why);
        }
        let slow = refusal.and_then(|reason| self.slow_retry(reason));
        let wait = slow.unwrap_or_else(|| self.backoff());
        let why = refusal.map_or_else(|| why.to_owned(), |reason| format!("{reason}: {why}"));
        self.wait(&why, wait);
    }

    pub(super) fn go_away(&mut self, go: &v1::GoAway) {
        if mutant!("go-away-ignored") {
            return;
        }
        if let Some(stream) = self.link.stream() {
            let session = stream.session;
            self.out.push(Action::Disconnect { session });
        }
        let spread = u64::from(go.reconnect_within_ms).min(AWAY_MAX_MS);
        let wait = self.jitter.up_to(spread).max(RETRY_MIN_MS);
        self.wait(&format!("the orchestrator asked to come back later: {}", go.reason), wait);
    }
}
