//! Which process somebody means: a pid or a name becomes an identity, with its start time, that no later process of the
//! same pid is taken for.
use pitwall_proto::{throttle, v1};

use super::{Project, sessions::refuse};
use crate::{
    io::{Refusal, RefusalKind},
    view,
};

/// Candidates that are named where a name is ambiguous.
const NAMED_MAX: usize = 8;

impl Project {
    /// What was given in full stays; a pid or a name is looked up in the latest reading, and in what the journal knows.
    pub(super) fn identified(&self, agent: &str, asked: &v1::ProcessIdentity) -> Result<v1::ProcessIdentity, Refusal> {
        let by_name = asked.pid == 0 && !asked.name.is_empty();
        if !by_name && asked.pid <= 1 {
            let message = "name a process by its pid, which is above 1, or by its name".to_owned();
            return Err(refuse(RefusalKind::InvalidArgument, "PROCESS_MISSING", message));
        }
        if !by_name && asked.start_ticks > 0 {
            return Ok(asked.clone());
        }
        let known = self.known_processes(agent);
        if !by_name {
            return known.into_iter().find(|p| p.pid == asked.pid).ok_or_else(|| {
                let message = format!(
                    "the latest reading of {agent} has no process {}: see `pitwall hosts`, or give its start time too",
                    asked.pid
                );
                refuse(RefusalKind::NotFound, "PROCESS_UNKNOWN", message)
            });
        }
        let mut found: Vec<v1::ProcessIdentity> = Vec::new();
        for process in known.into_iter().filter(|p| throttle::is_named(&p.name, &asked.name)) {
            if !found.iter().any(|p| (p.pid, p.start_ticks) == (process.pid, process.start_ticks)) {
                found.push(process);
            }
        }
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => {
                let message = format!(
                    "the latest reading of {agent} has no process named {:?}: see `pitwall hosts`, or give its pid",
                    asked.name
                );
                Err(refuse(RefusalKind::NotFound, "PROCESS_UNKNOWN", message))
            }
            several => {
                let pids: Vec<String> = several.iter().take(NAMED_MAX).map(|p| p.pid.to_string()).collect();
                let message = format!(
                    "{agent} has {} processes named {:?}: give the pid, one of {}",
                    several.len(),
                    asked.name,
                    pids.join(", ")
                );
                Err(refuse(RefusalKind::FailedPrecondition, "PROCESS_AMBIGUOUS", message))
            }
        }
    }

    /// Of the latest reading; then of quotas, and the root, as the journal has them.
    fn known_processes(&self, agent: &str) -> Vec<v1::ProcessIdentity> {
        let top = self.readings.get(agent).into_iter().flat_map(|(_, r)| r.top.iter());
        let of_reading = top.filter_map(|p| p.identity.clone());
        let state = &self.state.agents[agent];
        let quotas = state.quotas.values().filter_map(|q| q.process.as_ref());
        let of_journal = quotas.chain(state.seen.as_ref().map(|s| &s.root)).map(view::process);
        of_reading.chain(of_journal).filter(|p| p.pid > 1 && p.start_ticks > 0).collect()
    }
}
