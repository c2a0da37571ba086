//! The operator's command line: parse, run, print, exit by a documented code.
//!
//! `args` is what may be typed, `client` the connection, `follow` a watch that is kept up; `read`, `mutate`, `watch` and
//! `plan` are the commands; `render` is their look. Data goes to standard output, words about progress and errors to
//! standard error.
mod adopt;
pub mod amount;
pub mod args;
pub(crate) mod client;
mod compose;
mod contexts;
mod doctor;
pub mod exit;
pub mod follow;
mod identity;
mod input;
mod journal;
mod mutate;
pub mod out;
mod plan;
mod read;
pub mod render;
pub mod screen;
mod wait;
mod watch;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _};
use pitwall_proto::v1::{self, command_spec::Kind};
use tokio::runtime;

use self::{
    args::{Cli, Command},
    exit::{CliError, Exit, Result},
    out::Out,
};
use crate::{demo, identity::keeper::Lives, serve};

/// The end of `pitwall --help`.
pub(crate) fn long_help(examples: &str) -> String {
    format!("{examples}\n\n{JSON}\n\n{}", exit::help())
}

const JSON: &str = "\
Output for scripts:
  --output json prints the protocol's answer (pitwall.v1, field names as in the .proto files, enums by
  name, 64-bit numbers as strings, absent means not measured) as one document on standard output:
  status GetSituationResponse, blockers ListBlockersResponse, agents ListAgentsResponse, hosts
  ListHostsResponse, findings ListFindingsResponse, commands ListCommandsResponse, events
  ListEventsResponse, why ExplainResponse, plan check CheckPlanResponse, plan apply ApplyPlanResponse,
  cancel CancelCommandResponse, adopt AdoptSidecarResponse, throttle of several resources
  ListCommandsResponse; all other commands IssueCommandResponse with the command as it ended.
  watch prints one WatchResponse a line, events --follow one Event a line.
  An error is one line on standard error: {\"error\": {\"reason\", \"message\", \"hint\", \"exit\"}}.
  Times of day are UTC; a ? behind a percentage: part of the evidence is unknown.";

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = Out::new(cli.look);
    let error = match run(out, cli.command) {
        Ok(()) => return Exit::Ok.into(),
        Err(error) => error,
    };
    // With standard error gone there is nobody to tell, and the exit code says it.
    let _ = io::stderr().write_all(error.render(out.json).as_bytes());
    error.exit.into()
}

fn run(out: Out, command: Command) -> Result<()> {
    match command {
        Command::Completions(asked) => {
            let mut script = Vec::new();
            clap_complete::generate(asked.shell, &mut Cli::command(), "pitwall", &mut script);
            out.text(&String::from_utf8_lossy(&script))
        }
        Command::Serve(asked) => {
            let config = serve::Config {
                plan: asked.plan,
                data: asked.data,
                listen: asked.listen,
                insecure: asked.insecure,
                names: asked.names,
                lives: Lives { agent: millis(asked.certificate_life), server: millis(asked.server_certificate_life) },
                until_stdin_eof: asked.until_stdin_eof,
            };
            let runtime = runtime::Builder::new_multi_thread().enable_all().build();
            started(runtime)?.block_on(serve::run(config))
        }
        Command::Demo(asked) => client_runtime()?.block_on(demo::run(&asked, out)),
        Command::DemoAgent(asked) => demo::agent(&asked.part),
        Command::Setup(asked) => identity::setup(out, &asked),
        Command::Token(args::Token { action }) => client_runtime()?.block_on(identity::token(out, &action)),
        Command::Identity(args::Identity { action }) => client_runtime()?.block_on(identity::identity(out, &action)),
        Command::Context(args::Context { action }) => contexts::run(out, &action),
        Command::Compose(args::Compose { action }) => compose::run(out, &action),
        Command::Doctor(asked) => ask(doctor::doctor(out, &asked)),
        Command::Health(asked) => ask(doctor::health(out, &asked.connect)),
        Command::Audit(asked) => ask(identity::audit(out, &asked)),
        Command::Journal(args::Journal { action }) => journal::run(out, &action),
        Command::Plan(args::Plan { action }) => client_runtime()?.block_on(plan::run(out, &action)),
        Command::Status(asked) => ask(read::status(out, &asked.connect)),
        Command::Blockers(asked) => ask(read::blockers(out, &asked.connect)),
        Command::Agents(asked) => ask(read::agents(out, &asked.connect)),
        Command::Hosts(asked) => ask(read::hosts(out, &asked.connect)),
        Command::Findings(asked) => ask(read::findings(out, &asked)),
        Command::Commands(asked) => ask(read::commands(out, &asked)),
        Command::Events(asked) => ask(read::events(out, &asked)),
        Command::Why(asked) => ask(read::why(out, &asked.target, &asked.connect)),
        Command::Watch(asked) => ask(watch::run(out, &asked.connect)),
        // These listen for Ctrl-C themselves, to name the command that goes on.
        Command::Tell(asked) => client_runtime()?.block_on(mutate::tell(out, &asked)),
        Command::Throttle(asked) => client_runtime()?.block_on(mutate::throttle(out, &asked)),
        Command::Unthrottle(asked) => {
            let resource = asked.resource.map_or(0, |held| held.resource() as i32);
            let kind = Kind::Unthrottle(v1::Unthrottle { resource });
            client_runtime()?.block_on(mutate::issue(out, &asked.issue, &asked.agent, kind))
        }
        Command::Kill(asked) => client_runtime()?.block_on(mutate::kill(out, &asked)),
        Command::Restart(asked) => client_runtime()?.block_on(mutate::restart(out, &asked)),
        Command::Activate(asked) => {
            let kind = Kind::Activate(v1::Activate { incarnation: 0 });
            client_runtime()?.block_on(mutate::issue(out, &asked.issue, &asked.agent, kind))
        }
        Command::Adopt(asked) => client_runtime()?.block_on(adopt::adopt(out, &asked)),
        Command::Cancel(asked) => client_runtime()?.block_on(mutate::cancel(out, &asked)),
    }
}

/// A command that changes nothing: Ctrl-C ends it at once.
fn ask(command: impl Future<Output = Result<()>>) -> Result<()> {
    client_runtime()?.block_on(async {
        tokio::select! {
            // First, so that an end by itself is not taken for an interruption.
            biased;
            ended = command => ended,
            Ok(()) = tokio::signal::ctrl_c() => Err(CliError::silent(Exit::Interrupted)),
        }
    })
}

fn millis(ms: u32) -> std::time::Duration {
    std::time::Duration::from_millis(ms.into())
}

/// One thread is enough for a client.
fn client_runtime() -> Result<runtime::Runtime> {
    started(runtime::Builder::new_current_thread().enable_all().build())
}

fn started(runtime: io::Result<runtime::Runtime>) -> Result<runtime::Runtime> {
    runtime.map_err(|error| CliError::internal(format!("cannot start: {error}")))
}
