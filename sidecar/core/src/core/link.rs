//! Is the other end still there? Something is said to it at least once in a heartbeat interval, and it says something as
//! often where its welcome promised so. Silence for four intervals (40 s with the default of 10 s) is a dead link: half
//! open, black-holed, or an orchestrator that hangs. This stands beside the HTTP/2 keepalive of the shell, which a proxy in
//! between may answer in another's name. An answer that is owed for as long while other things are heard was lost: what it
//! answers is said again.
use pitwall_proto::v1::{self, connect_request, fact::Kind};

use super::Core;

pub(super) const HEARTBEAT_MS: u64 = 10_000;
/// Intervals without a word: the link is dead.
pub(super) const DEAD_AFTER: u64 = 4;
/// A session that lasted so many heartbeats was stable: the next failure begins at the base again.
const STABLE_HEARTBEATS: u64 = 3;
const AGES_PER_HEARTBEAT: usize = 1_000;

impl Core {
    pub(super) fn heartbeat_every(&self) -> u64 {
        match self.kept.cursor.heartbeat_every_ms {
            0 => HEARTBEAT_MS,
            ms => u64::from(ms),
        }
    }

    /// Silence, or an answer that is owed for too long. Where other things were heard meanwhile, what is owed is sent again instead.
    pub(super) fn link_is_dead(&mut self) -> bool {
        let now = self.now.boot_ms;
        let patience = self.heartbeat_every() * DEAD_AFTER;
        let stable = self.heartbeat_every() * STABLE_HEARTBEATS;
        let acked = self.kept.spool.acked;
        let Some(stream) = self.link.stream() else { return false };
        let heard_at = stream.heard_at;
        let Some(welcomed) = stream.welcomed.as_mut() else { return false };
        if welcomed.pulse_every > 0 && now >= heard_at + welcomed.pulse_every * DEAD_AFTER {
            return true;
        }
        let lasted = now.saturating_sub(welcomed.at) >= stable;
        let Some(asked_at) = welcomed.asked_at.filter(|at| now >= at + patience) else {
            if lasted {
                self.link.attempts = 0;
            }
            return false;
        };
        if heard_at <= asked_at {
            return true;
        }
        welcomed.asked_at = None;
        welcomed.in_flight.clear();
        welcomed.awaiting.clear();
        welcomed.sent = acked;
        self.tell_states_again();
        false
    }

    pub(super) fn beat(&mut self) {
        let now = self.now.boot_ms;
        let every = self.heartbeat_every();
        let Some(welcomed) = self.link.welcomed() else { return };
        if welcomed.next_heartbeat > now {
            return;
        }
        welcomed.next_heartbeat = now + every;
        let sent = welcomed.sent;
        let mut ages = self.checks.ages(now, sent);
        let verdict_revision = self.verdict_revision();
        loop {
            let rest = ages.split_off(ages.len().min(AGES_PER_HEARTBEAT));
            self.send(connect_request::Body::Heartbeat(v1::Heartbeat { verdict_revision, checks: ages }));
            if rest.is_empty() {
                return;
            }
            ages = rest;
        }
    }

    /// Grows with each new verdict, and outlives this process: the number of the newest verdict's fact.
    fn verdict_revision(&self) -> u64 {
        let verdicts = self.kept.spool.all_told().filter(|(_, f)| matches!(f.kind, Kind::Verdict(_)));
        verdicts.map(|(_, f)| f.seq).max().unwrap_or(0)
    }

    /// Verdicts that had waited are old news when they arrive: that they still hold is said right behind them.
    pub(super) fn catch_up(&mut self) {
        let (last, now) = (self.kept.spool.last_seq, self.now.boot_ms);
        if let Some(welcomed) = self.link.welcomed().filter(|w| !w.caught_up && w.sent >= last) {
            welcomed.caught_up = true;
            welcomed.next_heartbeat = now;
            self.beat();
        }
    }
}
