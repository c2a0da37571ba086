//! The command line as clap sees it: every command, option and environment variable, with examples.
//! The names are a contract for scripts; `orchestrator/tests/cli.rs` holds the help to it.
use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::FalseyValueParser};

use super::amount;

mod files;
mod identity;
mod throttle;

pub use files::*;
pub use identity::*;
pub use throttle::*;

const EXAMPLES: &str = "\
Examples:
  pitwall serve --plan team.yaml --data ./pitwall-data
  pitwall status
  pitwall why frontend
  pitwall tell backend --about talents-api --priority urgent 'create app/api/talents/route.ts first'
  pitwall throttle ai-ml --cpu 0.5 --for 10m
  pitwall watch --output json | jq .";

/// Watches a team of AI agents that work in parallel, and keeps them moving.
#[derive(Debug, Parser)]
#[command(name = "pitwall", version, max_term_width = 110, after_long_help = super::long_help(EXAMPLES))]
#[command(after_help = "`pitwall --help` has examples and the exit codes.")]
pub struct Cli {
    #[command(flatten)]
    pub look: Look,
    #[command(subcommand)]
    pub command: Command,
}

/// How output looks.
#[derive(Clone, Copy, Debug, Args)]
pub struct Look {
    /// text is for people; json is the answer in the protobuf JSON mapping, one document, or one per line where it goes on
    #[arg(long, global = true, value_enum, default_value_t = Output::Text, value_name = "FORMAT", env = "PITWALL_OUTPUT")]
    pub output: Output,
    /// Colour on a terminal; NO_COLOR switches it off too
    #[arg(long, global = true, value_enum, default_value_t = ColorWhen::Auto, value_name = "WHEN")]
    pub color: ColorWhen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    Auto,
    Always,
    Never,
}

/// Which orchestrator to ask.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Orchestrator")]
pub struct Connect {
    /// Its address, for example https://pitwall.example:7440; without it, the context in use or the one on this machine
    #[arg(long, value_name = "URL", env = "PITWALL_ORCHESTRATOR")]
    pub orchestrator: Option<String>,
    /// The directory with authority.pem, certificate.pem and key.pem, as `pitwall identity create` makes it
    #[arg(long, value_name = "DIR", env = "PITWALL_IDENTITY")]
    pub identity: Option<PathBuf>,
    /// An orchestrator that `pitwall context add` remembered
    #[arg(long, value_name = "NAME", env = "PITWALL_CONTEXT", conflicts_with_all = ["orchestrator", "identity"])]
    pub context: Option<String>,
    /// Plaintext, without any identity: on loopback only
    #[arg(long, env = "PITWALL_INSECURE", value_parser = FalseyValueParser::new())]
    pub insecure: bool,
    /// The project; may be left out where the orchestrator serves one only
    #[arg(long, value_name = "NAME", env = "PITWALL_PROJECT", default_value = "", hide_default_value = true)]
    pub project: String,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the orchestrator of a plan
    #[command(
        after_help = "Example:\n  pitwall serve --plan team.yaml --data ./pitwall-data --listen 0.0.0.0:7440 --name pitwall.example"
    )]
    Serve(Serve),
    /// Check, copy or bring back the journal of a data directory
    #[command(
        after_help = "Examples:\n  pitwall journal backup --data ./pitwall-data night.journal\n  pitwall journal verify ./pitwall-data"
    )]
    Journal(Journal),
    /// Check, describe or apply a plan
    Plan(Plan),
    /// Everything at a glance: agents, and what blocks them, in the order in which to clear it
    Status(Read),
    /// Who is blocked by whose missing work, grouped by root, ranked by what clearing it frees
    Blockers(Read),
    /// The roster, with every deliverable
    Agents(Read),
    /// The machines: use, and the top consumers across agents
    Hosts(Read),
    /// What a person should know
    #[command(after_help = "Example:\n  pitwall findings --all")]
    Findings(Findings),
    /// The ledger of commands and what came of them, newest first
    #[command(after_help = "Examples:\n  pitwall commands --agent backend\n  pitwall commands ID")]
    Commands(Commands),
    /// What happened, in order
    #[command(
        after_help = "Examples:\n  pitwall events --agent backend --limit 50\n  pitwall events --after 1200 --follow"
    )]
    Events(Events),
    /// The live table on a terminal; one line per event in a pipe
    #[command(after_help = "Examples:\n  pitwall watch\n  pitwall watch --output json | jq .change.events")]
    Watch(Read),
    /// Why an agent or a deliverable is where it is: the chain, with evidence
    #[command(after_help = "Examples:\n  pitwall why frontend\n  pitwall why backend/talents-api")]
    Why(Why),
    /// Put a directive into an agent's inbox
    #[command(after_help = "Examples:\n  pitwall tell backend 'stop the admin page'\n  \
        pitwall tell backend --about talents-api --priority urgent --file note.md\n\n\
        With --about, its effect is watched for: that deliverable verified.")]
    Tell(Tell),
    /// Hold an agent, or one process of it, below a use of CPU, memory, processes, I/O or GPU, for a while
    #[command(after_help = "Examples:\n  pitwall throttle ai-ml --cpu 0.5 --for 10m\n  \
        pitwall throttle backend --memory 1GiB --pids 200 --io 20MB/s --for 1h\n  \
        pitwall throttle frontend --cpu 25% --process next-server --for 5m\n  \
        pitwall throttle backend --freeze --for 20s\n\n\
        One command in the ledger for each resource; the exit code is that of the worst. Each ends by itself: after --for, \
        or earlier when the orchestrator is gone for longer than --ttl. Held below the CPU and I/O is what is measured to \
        be; other limits are read back.")]
    Throttle(Throttle),
    /// End an agent's throttles now
    #[command(after_help = "Examples:\n  pitwall unthrottle ai-ml\n  pitwall unthrottle ai-ml --resource memory")]
    Unthrottle(Unthrottle),
    /// End one process of an agent, or it and its descendants: TERM, a grace, KILL
    #[command(after_help = "Examples:\n  pitwall kill frontend 4242\n  pitwall kill frontend next-server --tree\n\n\
        The process is taken from the latest reading with its start time, so that a later one of the same pid is never hit.")]
    Kill(Kill),
    /// End an agent's root process and start it again
    Restart(Restart),
    /// Start an agent that never started, with the launch command that its sidecar's owner configured
    Activate(OnAgent),
    /// Say which of two sidecars goes on: they have one state directory's contents, or one waits for the other's place
    #[command(
        after_help = "`pitwall findings` names them. Give the other one a state directory of its own.\n\nExample:\n  pitwall adopt backend 5f3a9c1e"
    )]
    Adopt(Adopt),
    /// Cancel a command that has not ended
    Cancel(Cancel),
    /// Replay the night that Pitwall was made for, with real processes on this machine, and report what was found
    #[command(after_help = "Examples:\n  pitwall demo\n  pitwall demo --seed 7 --without runaway\n  \
        pitwall demo --output json\n  pitwall demo --keep\n\n\
        Exit code 0: all findings and effects really happened; 1: not so, and standard error says what.")]
    Demo(crate::demo::args::Demo),
    #[command(hide = true)]
    DemoAgent(crate::demo::args::DemoAgent),
    /// Make certificates and join secrets before any server runs: the authority, and one secret file per agent
    #[command(after_help = "Example:\n  pitwall setup --plan team.yaml --data ./pitwall-data --secrets ./secrets\n\n\
        It may be run again: what is there and still good stays as it is.")]
    Setup(Setup),
    /// Join tokens for sidecars
    #[command(after_help = "Example:\n  pitwall token create --agent backend --ttl 15m > backend.token")]
    Token(Token),
    /// Who may talk to the orchestrator, and as what
    #[command(after_help = "Examples:\n  pitwall identity create ann --role operator --out ./ann\n  \
        pitwall identity list\n  pitwall identity revoke ann")]
    Identity(Identity),
    /// Orchestrators that this user works with, by name
    #[command(
        after_help = "Examples:\n  pitwall context add night --orchestrator https://pitwall.example:7440 --identity ./ann\n  \
        pitwall context use night\n  pitwall status --context night"
    )]
    Context(Context),
    /// Containers: what stands beside a service that is watched, and what is wrong with a compose file
    #[command(
        after_help = "Examples:\n  pitwall compose print --service backend --cgroup v1 > pitwall-backend.yaml\n  \
        docker compose -f compose.yaml -f pitwall-backend.yaml up -d\n  pitwall compose check compose.yaml"
    )]
    Compose(Compose),
    /// What the sidecar of an agent can do in its place, what not, why, and what would change it
    #[command(after_help = "Example:\n  pitwall doctor backend")]
    Doctor(OfAgent),
    /// Whether the orchestrator takes commands; for health checks
    #[command(after_help = "Example:\n  pitwall health || echo 'it does not'\n\n\
        Exit code 0: it does; 1: it answers and does not; 69: it does not answer.")]
    Health(Read),
    /// What was changed and what was refused: who, what, when, outcome; newest first
    #[command(after_help = "Examples:\n  pitwall audit --refused\n  pitwall audit --who ann --limit 20")]
    Audit(Audit),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  pitwall completions bash > /etc/bash_completion.d/pitwall")]
    Completions(Completions),
}

#[derive(Debug, Args)]
pub struct Serve {
    /// The plan, YAML
    #[arg(long, value_name = "FILE", env = "PITWALL_PLAN")]
    pub plan: PathBuf,
    /// Where the journal lives; made when absent
    #[arg(long, value_name = "DIR", env = "PITWALL_DATA")]
    pub data: PathBuf,
    /// Port 0 takes a free one and prints it
    #[arg(long, value_name = "ADDR", env = "PITWALL_LISTEN", default_value = "127.0.0.1:7440")]
    pub listen: SocketAddr,
    /// A name or address under which clients reach it, besides localhost, loopback and this machine's name; may be repeated
    #[arg(long = "name", value_name = "HOST", env = "PITWALL_NAMES", value_delimiter = ',', value_parser = amount::host)]
    pub names: Vec<String>,
    /// How long a sidecar's certificate counts; it is renewed at half of that
    #[arg(long, value_name = "DURATION", env = "PITWALL_CERTIFICATE_LIFE", default_value = "24h", value_parser = amount::duration_ms)]
    pub certificate_life: u32,
    /// For tests: how long the server's own certificate counts
    #[arg(long, hide = true, default_value = "30d", value_parser = amount::duration_ms)]
    pub server_certificate_life: u32,
    /// Plaintext, without any identity: on loopback only
    #[arg(long, env = "PITWALL_INSECURE", value_parser = FalseyValueParser::new())]
    pub insecure: bool,
    /// End when standard input does, so that no server outlives whoever started it
    #[arg(long, hide = true)]
    pub until_stdin_eof: bool,
}

#[derive(Debug, Args)]
pub struct OfAgent {
    #[arg(value_name = "AGENT")]
    pub agent: String,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Debug, Args)]
pub struct Read {
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Debug, Args)]
pub struct Findings {
    /// Also those that are closed
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Debug, Args)]
pub struct Commands {
    /// One command, with every receipt
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// Only those for this agent
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Debug, Args)]
pub struct Events {
    /// Only those after this sequence number; without it, the newest
    #[arg(long, value_name = "N")]
    pub after: Option<u64>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub limit: u32,
    /// Only those about this agent
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<String>,
    /// Go on with new ones as they happen
    #[arg(long, short)]
    pub follow: bool,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Debug, Args)]
pub struct Why {
    #[arg(value_name = "AGENT[/DELIVERABLE]", value_parser = amount::target)]
    pub target: amount::Target,
    #[command(flatten)]
    pub connect: Connect,
}

/// What all mutations share.
#[derive(Clone, Debug, Args)]
pub struct Issue {
    /// Print the command's id and return, instead of waiting for its end
    #[arg(long)]
    pub no_wait: bool,
    /// It must start within so long [default: the plan's command_expiry]
    #[arg(long, value_name = "DURATION", value_parser = amount::duration_ms)]
    pub start_within: Option<u32>,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Debug, Args)]
pub struct OnAgent {
    #[arg(value_name = "AGENT")]
    pub agent: String,
    #[command(flatten)]
    pub issue: Issue,
}

#[derive(Debug, Args)]
pub struct Tell {
    #[arg(value_name = "AGENT")]
    pub agent: String,
    /// What to say
    #[arg(value_name = "TEXT", required_unless_present = "file", conflicts_with = "file")]
    pub text: Option<String>,
    /// Say what this file says; - is standard input
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The deliverable of this agent that it is about
    #[arg(long, value_name = "DELIVERABLE", default_value = "", hide_default_value = true)]
    pub about: String,
    /// urgent puts it where the agent looks first
    #[arg(long, value_enum, default_value_t = Priority::Normal)]
    pub priority: Priority,
    #[command(flatten)]
    pub issue: Issue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Priority {
    Urgent,
    Normal,
}

#[derive(Debug, Args)]
pub struct Restart {
    #[arg(value_name = "AGENT")]
    pub agent: String,
    /// Between TERM and KILL [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = amount::duration_ms)]
    pub grace: Option<u32>,
    #[command(flatten)]
    pub issue: Issue,
}

#[derive(Debug, Args)]
pub struct Cancel {
    /// The command, as `pitwall commands` shows it
    #[arg(value_name = "ID")]
    pub id: String,
    /// Print the id and return, instead of waiting for its end
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Debug, Args)]
pub struct Adopt {
    #[arg(value_name = "AGENT")]
    pub agent: String,
    /// The sidecar's process, as the finding names it; its first letters are enough
    #[arg(value_name = "SIDECAR")]
    pub sidecar: String,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Debug, Args)]
pub struct Completions {
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_people_type_is_understood() {
        let cli = parse("pitwall throttle ai-ml --cpu 0.5 --for 10m --output json").expect("throttle");
        assert_eq!(cli.look.output, Output::Json);
        let Command::Throttle(throttle) = cli.command else { panic!("not a throttle") };
        assert_eq!((throttle.agent.as_str(), throttle.cpu, throttle.for_ms), ("ai-ml", Some(0.5), 600_000));

        let cli = parse("pitwall tell backend hurry --about talents-api --priority urgent --no-wait").expect("tell");
        let Command::Tell(tell) = cli.command else { panic!("not a tell") };
        assert_eq!((tell.text.as_deref(), tell.about.as_str()), (Some("hurry"), "talents-api"));
        assert!(tell.priority == Priority::Urgent && tell.issue.no_wait);

        let cli = parse("pitwall why backend/talents-api --orchestrator http://127.0.0.1:1 --insecure").expect("why");
        let Command::Why(why) = cli.command else { panic!("not a why") };
        assert_eq!(why.target.deliverable, "talents-api");
        assert!(why.connect.insecure);
    }

    #[test]
    fn wrong_use_is_told_before_anything_is_asked() {
        for line in [
            "pitwall",
            "pitwall tell backend",
            "pitwall tell backend text --file note.md",
            "pitwall throttle ai-ml --cpu 0.5",
            "pitwall throttle ai-ml --cpu 0 --for 10m",
            "pitwall throttle ai-ml --cpu 0.5 --for ten",
            "pitwall kill backend",
            "pitwall kill backend --pid 0",
            "pitwall why a/b/c",
            "pitwall events --limit 0",
            "pitwall status --output yaml",
            "pitwall serve --plan x --data y --listen nowhere",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
