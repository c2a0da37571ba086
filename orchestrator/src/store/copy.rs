//! Whole copies of a journal: looked through, taken while a server writes, and brought back as another history.
//!
//! A copy is not there, or whole: it is made beside its place, looked through, synced, and renamed (`replace`). What is brought back
//! goes on under a new lineage and a higher epoch, so that every sidecar resynchronises in full; what the lost history did
//! with unfinished commands is not known, and the core says so before anybody is let in.
use std::path::{Path, PathBuf};

use pitwall_core::{
    io::{Action, Input, Millis},
    project::Project,
    state::State,
};
use serde::Serialize;

use super::{
    DataDir, Result, SqliteStore, Store, load,
    replace::{self, Beside, failed},
};

/// What one project's history in a journal adds up to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    pub project: String,
    pub lineage: String,
    pub epoch: u64,
    /// All that ever were; the last one's number.
    pub events: u64,
    /// The oldest that is there; older ones are in the snapshots.
    pub kept_from: u64,
    /// The events that have a snapshot, newest first.
    pub snapshots: Vec<u64>,
    /// Project time of the last event; 0: there is none.
    pub last_unix_ms: Millis,
    /// Of the state that a replay gives: equal states have equal digests.
    pub state_digest: String,
}

/// Reads everything, replays everything, holds every snapshot against the events, and changes nothing.
pub fn verify(journal: &Path) -> Result<Vec<Account>> {
    let mut store = SqliteStore::open_to_read(journal)?;
    store.hold_still()?;
    store.check()?;
    let projects = store.projects()?;
    projects.iter().map(|project| account(&mut store, project).map(|(account, _)| account)).collect()
}

/// Copies a journal that may be written meanwhile: as of one moment.
pub fn backup(journal: &Path, to: &Path) -> Result<Vec<Account>> {
    if to.exists() {
        return Err(failed("write", to, &std::io::ErrorKind::AlreadyExists.into()));
    }
    let beside = Beside::make(to)?;
    SqliteStore::open_to_read(journal)?.copy_into(beside.path())?;
    let accounts = verify(beside.path())?;
    beside.settle(to)?;
    Ok(accounts)
}

/// What was brought back.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    pub projects: Vec<Account>,
    /// Commands that end as unknown, as the lost history may have sent them.
    pub doubted: usize,
    /// The journal that was there before.
    pub replaced: Option<PathBuf>,
}

/// Makes a copy the journal of a data directory that nobody uses. What was there is kept beside it.
pub fn restore(copy: &Path, data: &DataDir, now: Millis) -> Result<Restored> {
    let place = data.journal();
    replace::recover(&place)?;
    let beside = Beside::make(&place)?;
    let mut from = SqliteStore::open_to_read(copy)?;
    from.check()?;
    from.copy_into(beside.path())?;
    from.close()?;
    let mut store = SqliteStore::open_alone(beside.path())?;
    let mut restored = Restored { projects: Vec::new(), doubted: 0, replaced: None };
    for project in store.projects()? {
        let replaced = epoch_of(&place, &project);
        store.forget_bad_snapshots(&project)?;
        store.begin_another_history(&project, replaced, u64::try_from(now / 1_000).unwrap_or(0))?;
        let (account, doubted) = doubt(&mut store, &project, now)?;
        restored.projects.push(account);
        restored.doubted += doubted;
    }
    store.close()?;
    // What counts is what the file says, not what was meant to be written.
    if verify(beside.path())? != restored.projects {
        let error = std::io::Error::other("what was written is not there");
        return Err(failed("restore", beside.path(), &error));
    }
    beside.give_to_owner_of(data.path())?;
    finish(&place)?;
    let kept = replace::kept_name(&place, now);
    restored.replaced = place.exists().then(|| kept.clone());
    beside.replace(&place, &kept)?;
    Ok(restored)
}

/// The core ends what cannot be vouched for, before any sidecar comes.
fn doubt(store: &mut SqliteStore, project: &str, now: Millis) -> Result<(Account, usize)> {
    let (_, state) = account(store, project)?;
    let before = state.unfinished_commands().count();
    let epoch = store.ownership(project)?.epoch;
    for action in Project::resume(state, epoch).handle(now, Input::Restored) {
        if let Action::Append { events, .. } = action {
            store.append(project, epoch, &events)?;
        }
    }
    account(store, project).map(|(account, _)| (account, before))
}

fn account(store: &mut SqliteStore, project: &str) -> Result<(Account, State)> {
    let owner = store.ownership(project)?;
    // Oldest first, each of them good: here nothing is passed over.
    let mut snapshots = Vec::new();
    for read in store.snapshots(project)?.into_iter().rev() {
        match load::decode(project, &owner, read) {
            Ok(state) => snapshots.push(state),
            Err(load::Bad::Spoilt(why)) => return Err(store.corrupt("verify", why)),
            Err(load::Bad::Later(found)) => {
                return Err(store
                    .corrupt("verify", format!("a snapshot has version {found}, which this program does not know")));
            }
        }
    }
    let kept = store.kept(project)?;
    let kept_from = kept.first.map_or(kept.last + 1, |first| first.sequence);
    let places = kept.snapshots.iter().map(|s| s.sequence).collect();
    let mut snapshots = snapshots.into_iter().peekable();
    let begin = if kept_from == 1 { None } else { snapshots.next() };
    let mut state = begin.unwrap_or_else(|| State::new(project, &owner.lineage));
    let from = state.sequence;
    let mut differs = None;
    store.replay(project, from, &mut |event| {
        state.apply(&event);
        if let Some(snapshot) = snapshots.next_if(|snapshot| snapshot.sequence <= state.sequence)
            && snapshot.digest() != state.digest()
        {
            differs = Some(snapshot.sequence);
        }
        differs.is_none()
    })?;
    if let Some(sequence) = differs.or_else(|| snapshots.next().map(|beyond| beyond.sequence)) {
        let told = format!("the snapshot at event {sequence} is not what the events before it add up to");
        return Err(store.corrupt("verify", told));
    }
    let account = Account {
        project: project.into(),
        lineage: owner.lineage,
        epoch: owner.epoch,
        events: state.sequence,
        kept_from,
        snapshots: places,
        last_unix_ms: state.at,
        state_digest: state.digest(),
    };
    Ok((account, state))
}

/// 0 where there is none, or none that can be read: the clock then gives the higher one.
fn epoch_of(journal: &Path, project: &str) -> u64 {
    if !journal.exists() {
        return 0;
    }
    SqliteStore::open_to_read(journal).and_then(|mut store| store.ownership(project)).map_or(0, |owner| owner.epoch)
}

/// The log of a server that was killed goes into the file that it belongs to. A journal that cannot be read any more keeps
/// its log beside it, under its new name.
fn finish(journal: &Path) -> Result<()> {
    if !journal.exists() {
        return Ok(());
    }
    let finished = SqliteStore::open(journal).and_then(|mut store| {
        store.checkpoint()?;
        store.close()
    });
    match finished {
        Err(error) if error.is_retryable() => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
