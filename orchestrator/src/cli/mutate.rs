//! Commands that change something: issued once, followed to their end, told by outcome.
//!
//! A request that may or may not have arrived is repeated under the same idempotency key, so it is never issued twice.
//! The wait is bounded by the command's own expiry and a grace; past that its outcome is unknown.
use std::{
    env,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use pitwall_proto::v1::{self, CommandState, command_spec::Kind, watch_response::Body};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    args::{self, Connect, Issue},
    client::{Client, within},
    exit::{CliError, Exit, Result},
    follow::{self, Heard, Terms},
    input,
    out::{Out, now},
    read, render,
};

/// Tries to issue, while the orchestrator does not answer.
const TRIES: u32 = 4;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(300);
/// The orchestrator itself ends a command at its expiry and a grace of the plan (60 s unless it says otherwise).
const GRACE: Duration = Duration::from_secs(120);
/// Where no stream can be had, the ledger is asked so often.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// As the orchestrator takes it.
const DIRECTIVE_MAX: usize = 64 * 1024;
const ORIGIN_MAX: usize = 128;

pub async fn tell(out: Out, asked: &args::Tell) -> Result<()> {
    let text = match (&asked.text, &asked.file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => input::read(file, DIRECTIVE_MAX, "a directive")?,
        (None, None) => return Err(CliError::new(Exit::Usage, "say TEXT or --file")),
    };
    let priority = match asked.priority {
        args::Priority::Urgent => v1::Priority::Urgent,
        args::Priority::Normal => v1::Priority::Normal,
    };
    let directive = v1::Directive { text, about: asked.about.clone(), priority: priority as i32 };
    issue(out, &asked.issue, &asked.agent, Kind::Directive(directive)).await
}

pub async fn throttle(out: Out, asked: &args::Throttle) -> Result<()> {
    let throttle = v1::Throttle {
        cpu_cores: asked.cpu,
        for_ms: asked.for_ms,
        ttl_ms: asked.ttl.unwrap_or_default(),
        ..Default::default()
    };
    issue(out, &asked.issue, &asked.agent, Kind::Throttle(throttle)).await
}

pub async fn kill(out: Out, asked: &args::Kill) -> Result<()> {
    // Without a start time the orchestrator fills it in from the latest reading, or refuses.
    let process = v1::ProcessIdentity { pid: asked.pid, start_ticks: asked.start_ticks, name: String::new() };
    let kill = v1::Kill { process: Some(process), grace_ms: asked.grace.unwrap_or_default() };
    issue(out, &asked.issue, &asked.agent, Kind::Kill(kill)).await
}

pub async fn restart(out: Out, asked: &args::Restart) -> Result<()> {
    let restart = v1::Restart { incarnation: 0, grace_ms: asked.grace.unwrap_or_default() };
    issue(out, &asked.issue, &asked.agent, Kind::Restart(restart)).await
}

/// Issue, wait for the end, exit by outcome.
pub async fn issue(out: Out, issue: &Issue, agent: &str, kind: Kind) -> Result<()> {
    let client = Client::connect(&issue.connect).await?;
    let request = v1::IssueCommandRequest {
        project: client.project(),
        agent: agent.into(),
        spec: Some(v1::CommandSpec { kind: Some(kind) }),
        start_within_ms: issue.start_within.unwrap_or_default(),
        idempotency_key: key(),
        origin: origin(),
    };
    let command = tokio::select! {
        issued = issue_once(out, client, &issue.connect, request) => issued?,
        error = interrupted("before the orchestrator answered: see `pitwall commands`") => return Err(error),
    };
    if issue.no_wait {
        out.show(&v1::IssueCommandResponse { command: Some(command.clone()) }, |_| format!("{}\n", command.id))?;
        return match Exit::of_state(command.state()) {
            Some(exit) if exit != Exit::Ok => {
                let message = format!("{} {}: {}", command.id, read::state_word(command.state()), command.detail);
                Err(CliError::new(exit, message))
            }
            _ => Ok(()),
        };
    }
    let id = command.id.clone();
    let goes_on = format!("{id} goes on: pitwall commands {id}, pitwall cancel {id}");
    let ended = tokio::select! {
        ended = wait(out, &issue.connect, command) => ended?,
        error = interrupted(&goes_on) => return Err(error),
    };
    let command = &ended.command;
    out.show(&v1::IssueCommandResponse { command: Some(command.clone()) }, |style| {
        let promise = ended.intervention.as_ref().filter(|_| command.state() == CommandState::Succeeded);
        let promise = promise.map(|i| render::commands::promise(i, now(), style)).unwrap_or_default();
        format!("{}{promise}", render::commands::end(command, style))
    })?;
    match Exit::of_state(command.state()) {
        Some(Exit::Ok) => Ok(()),
        Some(exit) => Err(CliError::silent(exit)),
        None => Err(CliError::internal("the wait ended before the command did")),
    }
}

/// The same key each time: however often it arrives, it is issued once.
async fn issue_once(
    out: Out,
    mut client: Client,
    connect: &Connect,
    request: v1::IssueCommandRequest,
) -> Result<v1::Command> {
    let mut pause = TRY_AGAIN_AFTER;
    for left in (0..TRIES).rev() {
        let answer = within(client.api().issue_command(request.clone())).await;
        match answer {
            Ok(answer) => {
                let told = answer.command;
                return told.ok_or_else(|| CliError::internal("the orchestrator answered without a command"));
            }
            Err(error) if error.exit == Exit::Unreachable && left > 0 => {
                out.progress(&format!("{}; trying again, it is issued once", error.message));
                sleep(pause).await;
                pause *= 2;
                // Perhaps a new one by now; where none is there the next call on the old one tells.
                if let Ok(again) = Client::connect(connect).await {
                    client = again;
                }
            }
            Err(error) if error.exit == Exit::Unreachable => {
                let hint = "it may have been issued: see `pitwall commands` once the orchestrator answers again";
                return Err(CliError::new(Exit::Unknown, error.message).hint(hint));
            }
            Err(error) => return Err(error),
        }
    }
    Err(CliError::internal("no try was made"))
}

pub async fn cancel(out: Out, asked: &args::Cancel) -> Result<()> {
    let client = Client::connect(&asked.connect).await?;
    let request = v1::CancelCommandRequest { project: client.project(), id: asked.id.clone() };
    let command = within(client.api().cancel_command(request)).await?.command;
    let command = command.ok_or_else(|| CliError::internal("the orchestrator answered without a command"))?;
    if asked.no_wait {
        return out
            .show(&v1::CancelCommandResponse { command: Some(command.clone()) }, |_| format!("{}\n", command.id));
    }
    let ended = tokio::select! {
        ended = wait(out, &asked.connect, command) => ended?.command,
        error = interrupted("the cancellation is asked for already") => return Err(error),
    };
    out.show(&v1::CancelCommandResponse { command: Some(ended.clone()) }, |style| {
        render::commands::end(&ended, style)
    })?;
    // Asked for was its end without effect; anything else came first.
    match ended.state() {
        CommandState::Cancelled => Ok(()),
        CommandState::Unknown => Err(CliError::silent(Exit::Unknown)),
        state => {
            let told = if out.json { String::new() } else { format!("it ended {} first", read::state_word(state)) };
            Err(CliError::new(Exit::Failed, told))
        }
    }
}

struct Ended {
    command: v1::Command,
    intervention: Option<v1::Intervention>,
}

/// Until the command's end, with its receipts on standard error.
async fn wait(out: Out, connect: &Connect, command: v1::Command) -> Result<Ended> {
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
async fn interrupted(what_goes_on: &str) -> Box<CliError> {
    // Without a handler the signal ends the process by itself.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
    CliError::new(Exit::Interrupted, format!("interrupted; {what_goes_on}"))
}

/// Unlike any other, as its two hashers are seeded by the operating system.
fn key() -> String {
    let part = || {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        hasher.write_i64(now());
        hasher.finish()
    };
    format!("cli-{:016x}{:016x}", part(), part())
}

/// Who asks, for people: `ada@night-box`.
pub fn origin() -> String {
    let user = env::var("USER").or_else(|_| env::var("LOGNAME")).unwrap_or_default();
    let user = if user.is_empty() { format!("uid {}", rustix::process::getuid().as_raw()) } else { user };
    let host = rustix::system::uname();
    let mut origin = format!("{user}@{}", host.nodename().to_string_lossy());
    origin.truncate(origin.floor_char_boundary(ORIGIN_MAX));
    origin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_fit() {
        let keys: std::collections::BTreeSet<String> = (0..100).map(|_| key()).collect();
        assert_eq!(keys.len(), 100);
        assert!(keys.iter().all(|k| k.len() <= 128));
        assert!(!origin().is_empty() && origin().len() <= ORIGIN_MAX);
    }

    #[test]
    fn the_wait_covers_expiry_grace_and_the_commands_own_limit() {
        let command = |kind| v1::Command {
            issued_unix_ms: 1_000,
            expires_unix_ms: 31_000,
            spec: Some(v1::CommandSpec { kind: Some(kind) }),
            ..Default::default()
        };
        let kill = command(Kind::Kill(v1::Kill { process: None, grace_ms: 5_000 }));
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
