//! Until a command's end: by a watch, or by asking where no stream is to be had. Bounded by the command's own expiry and a
//! grace; past that its outcome is unknown.
use std::time::Duration;

use pitwall_proto::v1::{self, command_spec::Kind, watch_response::Body};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    args::Connect,
    client::{Client, within},
    exit::{CliError, Exit, Result},
    follow::{self, Heard, Terms},
    out::Out,
    read, render,
};

/// The orchestrator itself ends a command at its expiry and a grace of the plan (60 s unless it says otherwise).
const GRACE: Duration = Duration::from_secs(120);
/// Where no stream can be had, the ledger is asked so often.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// A command at its end, and what it promised.
pub(super) struct Ended {
    pub command: v1::Command,
    pub intervention: Option<v1::Intervention>,
}

/// Until the command's end, with its receipts on standard error.
pub(super) async fn wait(out: Out, connect: &Connect, command: v1::Command) -> Result<Ended> {
    let deadline = Instant::now() + bound(&command);
    let mut watched = Watched { out, told: 0, last: command, intervention: None };
    watched.receipts();
    let terms = Terms {
        connect: connect.clone(),
        from: None,
        give_up_after: deadline.duration_since(Instant::now()),
        patient: true,
    };
    let mut heard = follow::follow(terms);
    let mut client = None;
    let mut streaming = true;
    while !watched.ended() {
        tokio::select! {
            () = sleep_until(deadline) => return Err(watched.too_late()),
            told = heard.recv(), if streaming => match told {
                Some(Ok(Heard::Connected(connected))) => {
                    watched.list(&connected).await?;
                    client = Some(connected);
                }
                Some(Ok(Heard::Message(message))) => watched.hear(message.body),
                Some(Ok(Heard::Lost(why))) => out.progress(&format!("{why}; trying again")),
                // No stream to be had, for example because too many are open: ask instead.
                Some(Err(_)) | None => streaming = false,
            },
            () = sleep(POLL_EVERY), if !streaming => {
                if client.is_none() {
                    client = Client::connect(connect).await.ok();
                }
                if let Some(client) = &client {
                    watched.list(client).await?;
                }
            }
        }
    }
    // The promise is told beside the outcome; without an answer the outcome alone is.
    if watched.intervention.is_none()
        && let Some(client) = &client
    {
        let _ = watched.list(client).await;
    }
    Ok(Ended { command: watched.last, intervention: watched.intervention })
}

struct Watched {
    out: Out,
    /// Receipts that were printed.
    told: usize,
    last: v1::Command,
    intervention: Option<v1::Intervention>,
}

impl Watched {
    fn ended(&self) -> bool {
        Exit::of_state(self.last.state()).is_some()
    }

    fn take(&mut self, command: v1::Command) {
        // A list and a stream may overtake each other; the ledger only moves forward.
        if command.history.len() >= self.last.history.len() {
            self.last = command;
            self.receipts();
        }
    }

    fn receipts(&mut self) {
        for step in self.last.history.iter().skip(self.told) {
            self.out.progress(&format!("{}  {}", self.last.id, render::commands::receipt(step)));
        }
        self.told = self.told.max(self.last.history.len());
    }

    fn hear(&mut self, body: Option<Body>) {
        match body {
            Some(Body::Change(change)) => {
                let id = self.last.id.clone();
                if let Some(intervention) = change.interventions.into_iter().find(|i| i.id == id) {
                    self.intervention = Some(intervention);
                }
                if let Some(command) = change.commands.into_iter().find(|c| c.id == id) {
                    self.take(command);
                }
            }
            Some(Body::Snapshot(_) | Body::Readouts(_)) | None => {}
        }
    }

    /// An orchestrator that does not answer now may later; any other refusal ends the wait.
    async fn list(&mut self, client: &Client) -> Result<()> {
        let id = self.last.id.clone();
        let request =
            v1::ListCommandsRequest { project: client.project(), id: id.clone(), limit: 1, ..Default::default() };
        match within(client.api().list_commands(request)).await {
            Ok(answer) => {
                let Some(command) = answer.commands.into_iter().find(|c| c.id == id) else {
                    return Err(CliError::new(Exit::Unknown, format!("the ledger no longer knows {id}"))
                        .hint("the orchestrator may have been started with other data"));
                };
                self.intervention = answer.interventions.into_iter().find(|i| i.id == id).or(self.intervention.take());
                self.take(command);
                Ok(())
            }
            Err(error) if error.exit == Exit::Unreachable => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn too_late(&self) -> Box<CliError> {
        let id = &self.last.id;
        let message =
            format!("{id} was {} when last heard of, and its time is over", read::state_word(self.last.state()));
        CliError::new(Exit::Unknown, message).hint(format!("it may have taken effect: pitwall commands {id}"))
    }
}

/// Time to its expiry, its own limit, and the grace in which a result may still come.
fn bound(command: &v1::Command) -> Duration {
    let to_expiry = command.expires_unix_ms.saturating_sub(command.issued_unix_ms);
    let own = match command.spec.as_ref().and_then(|s| s.kind.as_ref()) {
        Some(Kind::Kill(kill)) => kill.grace_ms,
        Some(Kind::Restart(restart)) => restart.grace_ms,
        Some(Kind::Directive(_) | Kind::Throttle(_) | Kind::Unthrottle(_) | Kind::Activate(_)) | None => 0,
    };
    Duration::from_millis(u64::try_from(to_expiry).unwrap_or(0)) + Duration::from_millis(own.into()) + GRACE
}

/// Completes on Ctrl-C.
pub(super) async fn interrupted(what_goes_on: &str) -> Box<CliError> {
    // Without a handler the signal ends the process by itself.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
    CliError::new(Exit::Interrupted, format!("interrupted; {what_goes_on}"))
}

#[cfg(test)]
mod tests {
    use pitwall_proto::v1::CommandState;

    use super::*;

    #[test]
    fn the_wait_covers_expiry_grace_and_the_commands_own_limit() {
        let command = |kind| v1::Command {
            issued_unix_ms: 1_000,
            expires_unix_ms: 31_000,
            spec: Some(v1::CommandSpec { kind: Some(kind) }),
            ..Default::default()
        };
        let kill = command(Kind::Kill(v1::Kill { grace_ms: 5_000, ..Default::default() }));
        assert_eq!(bound(&kill), Duration::from_secs(35) + GRACE);
        assert_eq!(bound(&command(Kind::Activate(v1::Activate::default()))), Duration::from_secs(30) + GRACE);
        assert_eq!(bound(&v1::Command::default()), GRACE);
    }

    #[test]
    fn the_ledger_only_moves_forward_for_the_reader_too() {
        let step = |state: CommandState| v1::CommandStep { state: state as i32, ..Default::default() };
        let at = |states: &[CommandState]| v1::Command {
            id: "c1".into(),
            state: states.last().map_or(0, |s| *s as i32),
            history: states.iter().map(|s| step(*s)).collect(),
            ..Default::default()
        };
        let out = Out { json: true, style: render::Style::plain(), terminal: false, error_color: false };
        let mut watched = Watched { out, told: 0, last: at(&[CommandState::Queued]), intervention: None };
        let ended = [CommandState::Queued, CommandState::Sent, CommandState::Succeeded];
        let change = |command| Some(Body::Change(v1::Change { commands: vec![command], ..Default::default() }));
        watched.hear(change(at(&ended)));
        assert!(watched.ended() && watched.told == 3);
        watched.hear(change(at(&ended[..2])));
        assert_eq!(watched.last.state(), CommandState::Succeeded);
    }
}
