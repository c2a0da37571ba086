//! Carries out what the core decides of retention, step by step, each one short: appends go on in between.
use pitwall_core::{
    io::Millis,
    retention::{Step, next_step},
};

use super::{Page, Result, Snapshot, journal::Journal};

/// Events that are read at once, between appends.
const PAGE: usize = 1_000;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub snapshots: u32,
    pub forgotten: u64,
}

/// Until nothing is due. `epoch` is the owner's: another one's journal is left alone.
pub async fn run(journal: &Journal, project: &str, epoch: u64, now: Millis, keep_ms: u64) -> Result<Done> {
    let mut done = Done::default();
    loop {
        let kept = journal.kept(project).await?;
        match next_step(now, keep_ms, &kept) {
            None => return Ok(done),
            Some(Step::Snapshot) => {
                let snapshot = take(journal, project, kept.last).await?;
                journal.snapshot(project, epoch, snapshot).await?;
                done.snapshots += 1;
            }
            Some(Step::Forget { up_to, before }) => {
                done.forgotten += journal.forget(project, epoch, up_to, before).await?;
            }
        }
    }
}

/// From the snapshot before, and what came since: beside the project's own task, which goes on deciding.
async fn take(journal: &Journal, project: &str, up_to: u64) -> Result<Snapshot> {
    let mut state = journal.newest_snapshot(project).await?;
    while state.sequence < up_to {
        let page = Page { after: state.sequence, before: up_to + 1, limit: PAGE, newest: false };
        let events = journal.read(project, page).await?;
        if events.first().is_none_or(|first| first.sequence != state.sequence + 1) {
            return Err(journal.missing(state.sequence + 1));
        }
        state = apart(move || {
            events.iter().for_each(|event| state.apply(event));
            state
        })
        .await;
    }
    Ok(apart(move || Snapshot { sequence: state.sequence, at: state.at, body: state.to_snapshot() }).await)
}

/// Work that would hold up a thread that serves.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this with it.
            Err(_) => std::future::pending().await,
        },
    }
}
