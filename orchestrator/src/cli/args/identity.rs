//! Who may talk to an orchestrator: secrets, tokens, identities, contexts, the audit log.
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Connect, amount};

#[derive(Debug, Args)]
pub struct Setup {
    /// The plan, YAML: its agents get a secret each
    #[arg(long, value_name = "FILE", env = "PITWALL_PLAN")]
    pub plan: PathBuf,
    /// The data directory of the server that will run
    #[arg(long, value_name = "DIR", env = "PITWALL_DATA")]
    pub data: PathBuf,
    /// Where the secrets are written: AGENT.token
    #[arg(long, value_name = "DIR", env = "PITWALL_SECRETS")]
    pub secrets: PathBuf,
    /// How long a secret may be used
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = amount::duration_ms)]
    pub ttl: u32,
}

#[derive(Debug, Args)]
pub struct Token {
    #[command(subcommand)]
    pub action: TokenAction,
}

#[derive(Debug, Subcommand)]
pub enum TokenAction {
    /// Print a one-time token with which the sidecar of an agent joins; it pins this orchestrator's authority
    Create {
        /// The agent, as the plan has it
        #[arg(long, value_name = "NAME")]
        agent: String,
        /// How long it may be used
        #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = amount::duration_ms)]
        ttl: u32,
        #[command(flatten)]
        connect: Connect,
    },
}

#[derive(Debug, Args)]
pub struct Identity {
    #[command(subcommand)]
    pub action: IdentityAction,
}

#[derive(Debug, Subcommand)]
pub enum IdentityAction {
    /// Make an operator's identity: a key that never leaves this machine, and a certificate for it
    Create {
        /// Of a person or a program
        #[arg(value_name = "NAME")]
        name: String,
        /// viewer reads; operator also commands; admin also makes identities and reads the audit log
        #[arg(long, value_enum)]
        role: RoleWord,
        /// Where authority.pem, certificate.pem and key.pem are put; made when absent
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How long it counts [default: 90d]
        #[arg(long, value_name = "DURATION", value_parser = amount::long_duration_ms)]
        ttl: Option<u64>,
        #[command(flatten)]
        connect: Connect,
    },
    /// Sidecars and operators that count, and tokens that may still be used
    List {
        /// Also those that ended
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        connect: Connect,
    },
    /// From now on no certificate of this identity counts, and no token for it; its streams end
    Revoke {
        /// The name, or the whole subject where several have the name
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        connect: Connect,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleWord {
    Viewer,
    Operator,
    Admin,
}

#[derive(Debug, Args)]
pub struct Context {
    #[command(subcommand)]
    pub action: ContextAction,
}

#[derive(Debug, Subcommand)]
pub enum ContextAction {
    /// Remember an orchestrator, or change what is remembered
    Add {
        #[arg(value_name = "NAME")]
        name: String,
        /// Its address
        #[arg(long, value_name = "URL")]
        orchestrator: String,
        /// The directory with authority.pem, certificate.pem and key.pem
        #[arg(long, value_name = "DIR")]
        identity: PathBuf,
    },
    /// From now on commands go there
    Use {
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// All that are remembered; * is in use
    List,
    /// Forget one
    Remove {
        #[arg(value_name = "NAME")]
        name: String,
    },
}

#[derive(Debug, Args)]
pub struct Audit {
    /// Only what was refused
    #[arg(long)]
    pub refused: bool,
    /// Only of this identity, by name or subject
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub who: String,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    #[command(flatten)]
    pub connect: Connect,
}
