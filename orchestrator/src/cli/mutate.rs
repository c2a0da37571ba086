//! Commands that change something: issued once, followed to their end, told by outcome.
//!
//! A request that may or may not have arrived is repeated under the same idempotency key, so it is never issued twice.
//! How the end is waited for is in `wait`.
use std::{
    env,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    task::Poll,
    time::Duration,
};

use pitwall_proto::{
    throttle,
    v1::{self, CommandState, command_spec::Kind},
};
use tokio::time::sleep;

use super::{
    args::{self, Connect, Issue},
    client::{Client, within},
    exit::{CliError, Exit, Result},
    input,
    out::{Out, now},
    read, render,
    wait::{Ended, interrupted, wait},
};

/// Tries to issue, while the orchestrator does not answer.
const TRIES: u32 = 4;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(300);
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

/// One command for each resource, sent together and waited for together.
pub async fn throttle(out: Out, asked: &args::Throttle) -> Result<()> {
    let mut kinds = Vec::new();
    // Nothing is issued while one of them is wrong.
    for throttle in asked.throttles() {
        throttle::checked(&throttle).map_err(|why| CliError::new(Exit::Usage, why))?;
        kinds.push(Kind::Throttle(throttle));
    }
    issue_all(out, &asked.issue, &asked.agent, kinds).await
}

pub async fn kill(out: Out, asked: &args::Kill) -> Result<()> {
    issue(out, &asked.issue, &asked.agent, Kind::Kill(asked.kill())).await
}

pub async fn restart(out: Out, asked: &args::Restart) -> Result<()> {
    let restart = v1::Restart { incarnation: 0, grace_ms: asked.grace.unwrap_or_default() };
    issue(out, &asked.issue, &asked.agent, Kind::Restart(restart)).await
}

/// Issue, wait for the end, exit by outcome.
pub async fn issue(out: Out, issue: &Issue, agent: &str, kind: Kind) -> Result<()> {
    issue_all(out, issue, agent, vec![kind]).await
}

/// The same for several; the exit is that of the worst.
async fn issue_all(out: Out, issue: &Issue, agent: &str, kinds: Vec<Kind>) -> Result<()> {
    let client = Client::connect(&issue.connect).await?;
    let several = kinds.len() > 1;
    let mut issued = Vec::new();
    for kind in kinds {
        let request = v1::IssueCommandRequest {
            project: client.project(),
            agent: agent.into(),
            spec: Some(v1::CommandSpec { kind: Some(kind) }),
            start_within_ms: issue.start_within.unwrap_or_default(),
            idempotency_key: key(),
            origin: origin(),
        };
        let one = tokio::select! {
            one = issue_once(out, client.clone(), &issue.connect, request) => one,
            error = interrupted("before the orchestrator answered: see `pitwall commands`") => return Err(error),
        };
        match one {
            Ok(command) => issued.push(command),
            // What was issued before goes on.
            Err(error) if issued.is_empty() => return Err(error),
            Err(error) => return Err(error.hint(format!("{}: pitwall commands", go_on(&issued)))),
        }
    }
    if issue.no_wait {
        show(out, several, &issued, &[], |_| issued.iter().map(|c| format!("{}\n", c.id)).collect())?;
        let ended = |c: &&v1::Command| Exit::of_state(c.state()).is_some_and(|exit| exit != Exit::Ok);
        let told = issued.iter().filter(ended);
        let told: Vec<String> =
            told.map(|c| format!("{} {}: {}", c.id, read::state_word(c.state()), c.detail)).collect();
        return match worst(&issued) {
            _ if told.is_empty() => Ok(()),
            exit => Err(CliError::new(exit, told.join("\n"))),
        };
    }
    let goes_on = match issued.as_slice() {
        [one] => format!("{id} goes on: pitwall commands {id}, pitwall cancel {id}", id = one.id),
        several => format!("{}: pitwall commands", go_on(several)),
    };
    let waits = issued.into_iter().map(|command| wait(out, &issue.connect, command));
    let ended: Vec<Ended> = tokio::select! {
        ended = together(waits) => ended?,
        error = interrupted(&goes_on) => return Err(error),
    };
    let commands: Vec<v1::Command> = ended.iter().map(|e| e.command.clone()).collect();
    let interventions: Vec<v1::Intervention> = ended.iter().filter_map(|e| e.intervention.clone()).collect();
    show(out, several, &commands, &interventions, |style| {
        let told = ended.iter().map(|Ended { command, intervention }| {
            let promise = intervention.as_ref().filter(|_| command.state() == CommandState::Succeeded);
            let promise = promise.map(|i| render::commands::promise(i, now(), style)).unwrap_or_default();
            format!("{}{promise}", render::commands::end(command, style))
        });
        told.collect()
    })?;
    match worst(&commands) {
        Exit::Ok => Ok(()),
        exit => Err(CliError::silent(exit)),
    }
}

/// One command is told as ever, several as a list of them.
fn show(
    out: Out,
    several: bool,
    commands: &[v1::Command],
    interventions: &[v1::Intervention],
    render: impl FnOnce(render::Style) -> String,
) -> Result<()> {
    if several {
        let (commands, interventions) = (commands.to_vec(), interventions.to_vec());
        return out.show(&v1::ListCommandsResponse { commands, interventions }, render);
    }
    out.show(&v1::IssueCommandResponse { command: commands.first().cloned() }, render)
}

fn go_on(issued: &[v1::Command]) -> String {
    let ids: Vec<&str> = issued.iter().map(|c| c.id.as_str()).collect();
    format!("{} {} on", ids.join(", "), if ids.len() == 1 { "goes" } else { "go" })
}

/// All of them at once; the first that cannot be waited for ends the others' wait.
async fn together(waits: impl Iterator<Item = impl Future<Output = Result<Ended>>>) -> Result<Vec<Ended>> {
    let mut waits: Vec<_> = waits.map(|wait| (Box::pin(wait), None)).collect();
    std::future::poll_fn(|context| {
        for (wait, ended) in &mut waits {
            if ended.is_none()
                && let Poll::Ready(result) = wait.as_mut().poll(context)
            {
                *ended = Some(result?);
            }
        }
        if waits.iter().any(|(_, ended)| ended.is_none()) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(waits.iter_mut().filter_map(|(_, ended)| ended.take()).collect()))
    })
    .await
}

/// By how little is known of what it did: done, not tried, refused, failed, unknown.
fn worst(commands: &[v1::Command]) -> Exit {
    const ORDER: [Exit; 5] = [Exit::Unknown, Exit::Failed, Exit::Rejected, Exit::NotDone, Exit::Ok];
    let exits: Vec<Exit> = commands.iter().filter_map(|c| Exit::of_state(c.state())).collect();
    ORDER.into_iter().find(|exit| exits.contains(exit)).unwrap_or(Exit::Ok)
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
    fn of_several_the_worst_outcome_decides() {
        use CommandState as S;
        let table: [(&[CommandState], Exit); 6] = [
            (&[S::Succeeded, S::Succeeded], Exit::Ok),
            (&[S::Succeeded, S::Superseded], Exit::NotDone),
            (&[S::Rejected, S::Expired, S::Succeeded], Exit::Rejected),
            (&[S::Succeeded, S::Failed, S::Rejected], Exit::Failed),
            (&[S::Failed, S::Unknown], Exit::Unknown),
            (&[S::Sent], Exit::Ok),
        ];
        for (states, exit) in table {
            let command = |s: &CommandState| v1::Command { state: *s as i32, ..Default::default() };
            assert_eq!(worst(&states.iter().map(command).collect::<Vec<_>>()), exit, "{states:?}");
        }
    }
}
