//! From what is stored to a state: the newest snapshot that is good, and the events behind it.
use pitwall_core::state::{SNAPSHOT_VERSION, SnapshotError, State};

use super::{Ownership, Problem, Read, Result, Store, StoreError};

/// The state that a project's journal adds up to.
pub fn state(store: &mut dyn Store, project: &str, owner: &Ownership) -> Result<State> {
    let (mut state, passed) = newest(store, project, owner)?;
    let from = state.sequence;
    let replayed = store.replay(project, from, &mut |event| {
        state.apply(&event);
        true
    });
    replayed.map_err(|mut error| {
        // What is missing may be missing because of them.
        for why in passed {
            error.source = format!("{}; {why}", error.source);
        }
        error
    })?;
    Ok(state)
}

/// As of the newest snapshot that is good, or the beginning; and why others were passed over, which costs time only.
pub(super) fn newest(store: &mut dyn Store, project: &str, owner: &Ownership) -> Result<(State, Vec<String>)> {
    let mut passed = Vec::new();
    for read in store.snapshots(project)? {
        match decode(project, owner, read) {
            Ok(state) => return Ok((state, passed)),
            Err(Bad::Later(found)) => {
                let problem = Problem::Version { found: found.into(), known: SNAPSHOT_VERSION.into() };
                let (path, source) = (store.path().to_owned(), format!("a snapshot of {project}"));
                return Err(StoreError { problem, path, doing: "replay", source });
            }
            Err(Bad::Spoilt(why)) => {
                tracing::warn!(project, why, "a snapshot is passed over; `pitwall journal verify` says more");
                passed.push(why);
            }
        }
    }
    Ok((State::new(project, &owner.lineage), passed))
}

/// Why a snapshot is of no use.
pub(super) enum Bad {
    Spoilt(String),
    /// Written by a later program: nothing is damaged, and nothing may be passed over.
    Later(u32),
}

pub(super) fn decode(project: &str, owner: &Ownership, read: Read) -> std::result::Result<State, Bad> {
    let snapshot = read.map_err(Bad::Spoilt)?;
    let bad = |why: String| Bad::Spoilt(format!("the snapshot at event {}: {why}", snapshot.sequence));
    match State::from_snapshot(project, &owner.lineage, &snapshot.body) {
        Ok(state) if state.sequence == snapshot.sequence => Ok(state),
        Ok(state) => Err(bad(format!("it says that it is at event {}", state.sequence))),
        Err(SnapshotError::Version { found }) => Err(Bad::Later(found)),
        Err(error @ SnapshotError::Unreadable(_)) => Err(bad(error.to_string())),
    }
}
