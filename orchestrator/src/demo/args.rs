//! What `pitwall demo` may be told.
use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Replay the night that Pitwall was made for, with real processes on this machine, and report what was found.
#[derive(Clone, Debug, Args)]
pub struct Demo {
    /// Varies names, paths, order and times; 0 is the night as it was written down
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Let the agent that causes this trouble behave; may be given several times
    #[arg(long, value_enum, value_name = "TROUBLE")]
    pub without: Vec<Without>,
    /// Only watch: nothing is told, throttled, killed or activated
    #[arg(long)]
    pub no_operator: bool,
    /// Leave everything running at the end, to explore; Ctrl-C ends it
    #[arg(long)]
    pub keep: bool,
    /// full takes about a minute, short about 20 s
    #[arg(long, value_enum, value_name = "LENGTH", default_value_t = Windows::Full)]
    pub windows: Windows,
    /// Test hook: directives for backend are put where it does not look
    #[arg(long, hide = true)]
    pub suppress_inbox: bool,
}

/// A trouble of the night that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Without {
    /// Backend creates its API in time by itself
    Missing,
    /// Backend works only on what somebody waits for
    Misdirected,
    /// Design and docs show up
    Absent,
    /// next-server stays within its agent's quota
    Runaway,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Windows {
    Full,
    Short,
}

/// One process of the demo's cast; started by sidecars, not by people.
#[derive(Clone, Debug, Args)]
pub struct DemoAgent {
    /// What it does, JSON
    #[arg(value_name = "FILE")]
    pub part: PathBuf,
}

/// What the night is to be like: the arguments without how they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    pub seed: u64,
    pub without: Vec<Without>,
    pub operator: bool,
    pub suppress_inbox: bool,
    pub windows: Windows,
}

impl Variant {
    pub fn has(&self, trouble: Without) -> bool {
        !self.without.contains(&trouble)
    }
}

impl From<&Demo> for Variant {
    fn from(demo: &Demo) -> Self {
        Self {
            seed: demo.seed,
            without: demo.without.clone(),
            operator: !demo.no_operator,
            suppress_inbox: demo.suppress_inbox,
            windows: demo.windows,
        }
    }
}
