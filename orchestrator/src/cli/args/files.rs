//! What works on files: plans, journals, compose files.
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Connect;

#[derive(Debug, Args)]
pub struct Compose {
    #[command(subcommand)]
    pub action: ComposeAction,
}

#[derive(Debug, Subcommand)]
pub enum ComposeAction {
    /// Print what stands beside a service, and the lines to change in its own: a file for a second `-f`, or to paste
    Print(ComposePrint),
    /// Find what would go wrong beside agents, each with why and what instead
    #[command(after_help = "Exit code 0: nothing; 64: mistakes.")]
    Check {
        /// The compose file; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct ComposePrint {
    /// The service that runs the agent
    #[arg(long, value_name = "NAME")]
    pub service: String,
    /// The agent's name in the plan [default: the service's]
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// The agent's workspace as the service has it, for example ./repo:/app [default: SERVICE-workspace:/workspace]
    #[arg(long, value_name = "SOURCE:PATH")]
    pub workspace: Option<String>,
    /// The network that the service is on, for checks that ask it
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub network: String,
    /// With the lines that let the agent be measured and limited by its cgroup: v1 has a folder per controller (see
    /// /sys/fs/cgroup), v2 one
    #[arg(long, value_enum, value_name = "VERSION")]
    pub cgroup: Option<CgroupWord>,
    /// With a GPU for the agent, measured by its sidecar
    #[arg(long)]
    pub gpu: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CgroupWord {
    V1,
    V2,
}

#[derive(Debug, Args)]
pub struct Plan {
    #[command(subcommand)]
    pub action: PlanAction,
}

#[derive(Debug, Args)]
pub struct Journal {
    #[command(subcommand)]
    pub action: JournalAction,
}

const JOURNAL_RESTORE: &str = "\
Example:
  pitwall journal restore night.journal --data ./pitwall-data

The orchestrator must be down. What was there before is kept beside it. The history goes on as another one: sidecars
resynchronise in full and tell again what they still have, commands that had not ended when the copy was made end as
UNKNOWN, and a finding says what may be lost. A damaged journal that can still be read may be its own copy: it goes on with
what it has. Identities are no part of it: they lie in DIR/identity.";

#[derive(Debug, Subcommand)]
pub enum JournalAction {
    /// Read and replay all of it, hold its snapshots against its events, and change nothing
    #[command(after_help = "Example:\n  pitwall journal verify night.journal\n\nExit code 0: whole; 1: not.")]
    Verify {
        /// A data directory, or a copy
        #[arg(value_name = "DIR|FILE")]
        path: PathBuf,
    },
    /// Copy it as of one moment, also while the orchestrator runs; the copy is verified
    #[command(after_help = "Example:\n  pitwall journal backup --data ./pitwall-data night.journal")]
    Backup {
        /// The orchestrator's data directory
        #[arg(long, value_name = "DIR", env = "PITWALL_DATA")]
        data: PathBuf,
        /// The copy; must not be there yet
        #[arg(value_name = "FILE")]
        to: PathBuf,
    },
    /// Make a copy the journal of a data directory
    #[command(after_help = JOURNAL_RESTORE)]
    Restore {
        /// The copy
        #[arg(value_name = "FILE")]
        from: PathBuf,
        /// The data directory; made when absent
        #[arg(long, value_name = "DIR", env = "PITWALL_DATA")]
        data: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum PlanAction {
    /// Find every mistake in a plan, with line and column; needs no orchestrator
    #[command(after_help = "Exit code 0: usable; 64: mistakes.")]
    Check {
        /// The plan, YAML; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the JSON Schema of a plan, for editors
    #[command(after_help = "Example:\n  pitwall plan schema > plan.schema.json")]
    Schema,
    /// Make a plan the next generation while the agents work, and print what changed
    Apply {
        /// The plan, YAML; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        connect: Connect,
    },
}
