//! Leases that are still wanted are renewed when a third of their time to live has passed; what is not renewed ends by
//! itself at the sidecar, on its own clock.
use pitwall_proto::v1::{self, connect_response};

use super::{Project, sessions::Session};
use crate::io::{Millis, SessionId};

const RENEWALS_PER_TTL: Millis = 3;
const DEFAULT_TTL_MS: u32 = 60_000;

impl Project {
    fn wanted_leases(&self, agent: &str) -> Vec<(String, Millis)> {
        let wanted = self.state.leased_commands().filter(|c| c.issued.agent == agent).filter_map(|c| {
            let (throttle, until) = c.wanted_lease()?;
            let ttl = if throttle.ttl_ms == 0 { DEFAULT_TTL_MS } else { throttle.ttl_ms };
            (until > self.now).then(|| (c.issued.id.clone(), Millis::from(ttl)))
        });
        wanted.collect()
    }

    fn renewal_due(&self, session: &Session) -> Option<Millis> {
        let ttl = self.wanted_leases(&session.agent).into_iter().map(|(_, ttl)| ttl).min()?;
        Some(session.renewed_at.map_or(self.now, |at| at + ttl / RENEWALS_PER_TTL))
    }

    pub(super) fn owe_renewals(&mut self, session: SessionId) {
        let Some(open) = self.sessions.get(session) else { return };
        if self.renewal_due(open).is_none_or(|due| due > self.now) {
            return;
        }
        let commands = self.wanted_leases(&open.agent).into_iter().map(|(id, _)| id).collect();
        let now = self.now;
        if let Some(open) = self.sessions.get_mut(session) {
            open.renewed_at = Some(now);
        }
        self.send(session, connect_response::Body::LeaseRenewal(v1::LeaseRenewal { commands }));
    }

    pub(super) fn renewal_deadline(&self) -> Option<(Millis, String)> {
        let due = self
            .sessions
            .all()
            .filter(|s| !self.only_observes(&s.agent))
            .filter_map(|s| Some((self.renewal_due(s)?, &s.agent)));
        due.map(|(at, agent)| (at, format!("leases of {agent} are to be renewed"))).min()
    }
}
