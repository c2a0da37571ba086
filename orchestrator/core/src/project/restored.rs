//! After a restore from a backup, or when an older copy took the journal's place: what the lost history did is not known,
//! and sidecars tell again what they still have.
//!
//! Each sidecar's word for an older copy is taken once in a life of this process: a journal can be set back only while
//! nobody owns it. Higher cursors of it are followed after that, so that no number is given twice, but only its own
//! commands end UNKNOWN for them. How far they may go is bounded by `fencing`.
use std::collections::{BTreeMap, BTreeSet};

use pitwall_proto::{
    journal::{self, event::Body},
    v1,
};

use super::Project;
use crate::{io::SessionId, state::State};

/// The streams in which each agent's sidecar beat once.
#[derive(Debug, Default)]
pub(super) struct Resyncs {
    beaten: BTreeMap<String, SessionId>,
    /// Agents whose sidecars made this process doubt its journal.
    doubters: BTreeSet<String>,
}

impl Resyncs {
    pub fn forget_removed(&mut self, state: &State) {
        self.beaten.retain(|name, _| state.agents.contains_key(name));
        self.doubters.retain(|name| state.agents.contains_key(name));
    }
}

impl Project {
    pub(super) fn restored(&mut self) {
        self.doubt("", self.state.next_cursor);
        self.doubt_unfinished(None);
    }

    /// A sidecar that follows this history has a command that this journal never gave: an older copy took its place, as when
    /// a whole machine is set back. An id that is given twice would be taken for the command of then.
    pub(super) fn notice_older_copy(&mut self, hello: &v1::Hello) {
        let Some(resume) = hello.resume.as_ref().filter(|r| r.lineage == self.state.lineage) else { return };
        let Some(cursor) = resume.command_cursor.filter(|cursor| *cursor >= self.state.next_cursor) else { return };
        let first = self.resyncs.doubters.insert(hello.agent.clone());
        self.doubt(&hello.agent, cursor.saturating_add(1));
        self.doubt_unfinished((!first).then_some(hello.agent.as_str()));
    }

    fn doubt(&mut self, found_by: &str, next_cursor: u64) {
        self.emit(Body::Restored(journal::Restored {
            backup_sequence: self.state.sequence,
            backup_at_ms: self.state.at,
            found_by: found_by.into(),
            next_cursor,
        }));
    }

    /// A stream of this history begins with a sign of life; then comes what has to be told anew, and behind all of it the
    /// next sign of life, with the number of the newest verdict. Once that is in the journal, so is the rest.
    pub(super) fn on_beat_after_restore(
        &mut self,
        session: SessionId,
        agent: &str,
        instance: &str,
        beat: &v1::Heartbeat,
    ) {
        let waited_for = self.state.restored.as_ref().is_some_and(|r| r.waiting.contains(agent));
        if !waited_for {
            return;
        }
        let first = self.resyncs.beaten.insert(agent.into(), session) != Some(session);
        if !first && self.state.agents[agent].fact_acked(instance) >= beat.verdict_revision {
            self.resyncs.beaten.remove(agent);
            self.emit(Body::SidecarResynced(journal::SidecarResynced { agent: agent.into() }));
        }
    }
}
