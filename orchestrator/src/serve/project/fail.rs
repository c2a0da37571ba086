//! When the journal fails, when this is no longer the owner, and when it ends.
use pitwall_core::{io::Input, project::Project};
use tokio::time::Instant;
use tonic::Status;

use super::{super::status, Done, FromStore, Mode, RENEW_EVERY, RETRY_FIRST, RETRY_MAX, Task, unix_seconds};
use crate::store::{Ownership, StoreError, journal::Journal};

impl Task {
    pub(super) async fn on_store(&mut self, told: FromStore) -> Result<(), StoreError> {
        let of_this_core = told.epoch == self.owner.epoch && matches!(self.mode, Mode::Up(_));
        match told.done {
            Done::Appended { batch } => {
                self.in_flight = self.in_flight.saturating_sub(1);
                // Of a core that was given up already.
                if of_this_core { self.on_appended(batch, told.result).await } else { Ok(()) }
            }
            Done::Renewed => {
                self.renew_at = Some(Instant::now() + RENEW_EVERY);
                match told.result {
                    // What cannot be read now is told by what is appended.
                    Err(error) if of_this_core && !error.is_retryable() => Err(error),
                    Ok(()) | Err(_) => Ok(()),
                }
            }
        }
    }

    /// Asks beside the task whether this is still the owner.
    pub(super) fn renew(&mut self) {
        if self.renew_at.is_none_or(|at| at > Instant::now()) || matches!(self.mode, Mode::Down { .. }) {
            return;
        }
        self.renew_at = None;
        let (journal, name, epoch, tell) =
            (self.journal.clone(), self.name.clone(), self.owner.epoch, self.tell.clone());
        tokio::spawn(async move {
            let result = journal.renew(&name, epoch).await;
            // The task may have ended.
            let _ = tell.send(FromStore { epoch, done: Done::Renewed, result });
        });
    }

    async fn on_appended(&mut self, batch: u64, result: Result<(), StoreError>) -> Result<(), StoreError> {
        match result {
            Ok(()) => {
                self.backoff = RETRY_FIRST;
                self.durable_batch = batch;
                self.decide(Input::Appended { batch }).await;
                while self.held.front().is_some_and(|(batch, _)| *batch <= self.durable_batch) {
                    if let Some((_, release)) = self.held.pop_front() {
                        release();
                    }
                }
                Ok(())
            }
            Err(error) if error.is_retryable() => {
                self.go_down(error).await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the core: nothing that it decided and did not make durable was seen by anybody.
    async fn go_down(&mut self, why: StoreError) {
        tracing::error!(project = %self.name, error = %why, "the journal failed; starting again from it");
        self.ready.send_replace(false);
        let told = status::store_failed(&why);
        self.end_everybody(&told);
        let retry_at = Instant::now() + self.backoff;
        self.backoff = (self.backoff * 2).min(RETRY_MAX);
        // With nothing acquired, as that writes.
        let durable = match resume(&self.journal, &self.name, &self.owner).await {
            Ok(project) => Some(project),
            Err(error) => {
                tracing::error!(project = %self.name, %error, "the last durable state cannot be read either");
                None
            }
        };
        self.mode = Mode::Down { durable, why, retry_at };
    }

    pub(super) async fn try_to_come_up(&mut self) -> Result<(), StoreError> {
        let attempt = async {
            // Whoever was superseded meanwhile does not take it back.
            self.journal.renew(&self.name, self.owner.epoch).await?;
            let owner = self.journal.acquire(&self.name, unix_seconds()).await?;
            let project = resume(&self.journal, &self.name, &owner).await?;
            Ok::<_, StoreError>((owner, project))
        };
        match attempt.await {
            Ok((owner, project)) => {
                tracing::info!(project = %self.name, epoch = owner.epoch, "started again from the journal");
                self.hub.resync(owner.lineage.clone(), project.revision().sequence);
                self.owner = owner;
                self.mode = Mode::Up(project);
                (self.last_batch, self.durable_batch) = (0, 0);
                self.ready.send_replace(true);
                self.decide(Input::Started).await;
                Ok(())
            }
            Err(error) if error.is_retryable() => {
                tracing::warn!(project = %self.name, %error, "the journal still fails");
                let at = Instant::now() + self.backoff;
                self.backoff = (self.backoff * 2).min(RETRY_MAX);
                if let Mode::Down { why, retry_at, .. } = &mut self.mode {
                    (*why, *retry_at) = (error, at);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Everybody who waits is told, every session ends.
    pub(super) fn end_everybody(&mut self, told: &Status) {
        self.held.clear();
        for (_, answer) in self.waiting.drain() {
            let _ = answer.send(Err(told.clone()));
        }
        for (_, out) in self.sessions.drain() {
            out.end(told.clone());
        }
    }

    /// Says goodbye and takes nothing more; what is on its way to the disk is waited for.
    pub(super) async fn begin_end(&mut self, reason: String) {
        self.decide(Input::Drain { reason: reason.clone() }).await;
        self.ending = Some(reason);
    }
}

/// What the journal adds up to, for this owner.
pub(super) async fn resume(journal: &Journal, name: &str, owner: &Ownership) -> Result<Box<Project>, StoreError> {
    let state = journal.state(name, owner).await?;
    Ok(Box::new(Project::resume(state, owner.epoch)))
}
