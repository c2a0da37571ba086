//! Looks now and then whether the journal is to be compacted. What does not succeed is told and tried again: the project
//! does without.
use std::time::Duration;

use tokio::time::sleep;

use super::mailbox::ProjectHandle;
use crate::store::compact;

const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Until it is dropped.
pub async fn look_after(project: ProjectHandle) {
    loop {
        let asked = project.ask(|core, now| (core.epoch(), core.state().plan.windows.keep_ms, now)).await;
        // Else the journal fails, which others tell.
        if let Ok((epoch, keep_ms, now)) = asked {
            match compact::run(&project.journal, &project.name, epoch, now, keep_ms).await {
                Ok(done) if done == compact::Done::default() => {}
                Ok(done) => tracing::info!(snapshots = done.snapshots, forgotten = done.forgotten, "journal compacted"),
                Err(error) => tracing::warn!(%error, "the journal was not compacted; tried again in a minute"),
            }
        }
        sleep(LOOK_EVERY).await;
    }
}
