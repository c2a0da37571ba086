//! What the sidecar does to its agent: launch and adopt, limit, kill, end, clean up.
//!
//! The core decides, this module carries out one effect at a time and tells exactly what came of it.
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, anyhow, bail};
use pitwall_proto::v1;
use pitwall_sidecar_core::io::{Effect, EffectOutcome, Hold};
use tokio::sync::mpsc;

pub mod agent;
mod beside;
mod capability;
pub(crate) mod child;
mod devices;
mod duty;
mod files;
mod gpu;
mod guardian;
pub mod held;
mod kill;
mod ladder;
pub mod launch;
mod limit;
mod part;
pub(crate) mod places;
mod process;
mod record;
mod settings;
mod shim;
mod thaw;
mod threads;
mod tree;
mod value;

pub use agent::AgentHandle;
use agent::AgentView;
pub(crate) use capability::{CAP_DAC_READ_SEARCH, CAP_KILL, CAP_SYS_NICE, CAP_SYS_PTRACE, effective_capabilities};

use crate::sample::cgroup::{Hierarchies, Places};
use crate::sample::procfs::{boot_id, identity_of};

/// Which agent this sidecar stands beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentTarget {
    /// A running process and its descendants.
    Pid(i32),
    /// Every process of a cgroup directory.
    Cgroup(PathBuf),
    /// The launch command, started by this sidecar.
    Command,
    /// In a container of its own, in the pid namespace that a pause process owns.
    Beside,
}

/// Who starts the agent again when it has ended, beside a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum RestartedBy {
    /// Nobody that the sidecar knows of.
    #[default]
    Nobody,
    /// The container engine: `restart: unless-stopped` or `always`.
    Engine,
}

/// What is fixed for a process of the sidecar.
#[derive(Clone, Debug)]
pub struct Config {
    /// The agent's name: names its cgroup.
    pub agent: String,
    pub target: AgentTarget,
    /// The command and its arguments. For targets other than `Command` it is not used.
    pub launch: Option<Vec<OsString>>,
    /// Launch only when activated.
    pub held: bool,
    /// For `Beside` only.
    pub restarted_by: RestartedBy,
    /// The agent's working directory.
    pub workspace: PathBuf,
    /// Where directives go: for its capability only.
    pub inbox: PathBuf,
    pub state_dir: PathBuf,
    /// This program, for its hidden subcommands (see [`hidden`]).
    pub self_exe: PathBuf,
    /// Variables that are the sidecar's own: the agent does not get them.
    pub own_variables: Vec<OsString>,
    /// Another process acts on this agent: what would be tried by a write is only asked for, and nothing is shared.
    pub only_looks: bool,
}

/// The agent that this sidecar or an earlier life of it started has ended. Told once per root.
#[derive(Clone, Debug, PartialEq)]
pub struct Exited {
    pub root: v1::ProcessIdentity,
    /// Only where it was a child of this process.
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

/// What was found at the start.
#[derive(Clone, Debug, PartialEq)]
pub enum Started {
    /// Launched just now.
    Launched(v1::ProcessIdentity),
    /// Started by an earlier life, and still alive.
    Adopted(v1::ProcessIdentity),
    /// Waits for activation.
    Held,
    /// Somebody else's process or cgroup is watched.
    Watching,
}

/// Carries out effects. Shared behind an `Arc`; effects may overlap.
pub struct Actor {
    config: Config,
    agent: AgentHandle,
    hierarchies: Hierarchies,
    boot_id: String,
    /// Why the agent has no cgroup of its own, where it has none.
    without_place: String,
    capabilities: Vec<v1::Capability>,
    exits: mpsc::Sender<Exited>,
    launching: tokio::sync::Mutex<()>,
    duty: tokio::sync::Mutex<Option<duty::Duty>>,
    thaws: thaw::Guardians,
    /// Limits that this life wrote or found its own.
    held: Mutex<Vec<Hold>>,
    /// Of these, those that it lifted itself, to end a process.
    lifted: Mutex<Vec<Hold>>,
    gpu_library: Option<OsString>,
}

impl Actor {
    /// Probes what can be done here; starts nothing. Fails for a target that may never be acted on.
    pub fn new(config: Config, exits: mpsc::Sender<Exited>) -> anyhow::Result<Self> {
        let hierarchies = Hierarchies::detect();
        let (view, without_place) = match &config.target {
            AgentTarget::Pid(pid) => of_pid(&hierarchies, *pid)?,
            AgentTarget::Cgroup(directory) => of_cgroup(&hierarchies, directory)?,
            AgentTarget::Command => of_command(&hierarchies, &config),
            AgentTarget::Beside => beside::find(&hierarchies, &config)?,
        };
        let mut actor = Self {
            config,
            agent: AgentHandle::new(view),
            hierarchies,
            boot_id: boot_id(),
            without_place,
            capabilities: Vec::new(),
            exits,
            launching: tokio::sync::Mutex::default(),
            duty: tokio::sync::Mutex::default(),
            thaws: thaw::Guardians::default(),
            held: Mutex::default(),
            lifted: Mutex::default(),
            gpu_library: gpu::library(),
        };
        actor.capabilities = actor.probe();
        Ok(actor)
    }

    /// Another library for GPUs than the driver's: for tests.
    pub fn use_gpu_library(&mut self, library: OsString) {
        self.gpu_library = Some(library);
        self.capabilities = self.probe();
    }

    /// What can be done here, and why not.
    pub fn capabilities(&self) -> Vec<v1::Capability> {
        self.capabilities.clone()
    }

    /// The same, looked for anew: by now the agent may be there.
    pub(crate) fn probe_again(&self) -> Vec<v1::Capability> {
        self.probe()
    }

    /// Adopts the agent that an earlier life started, else launches it, unless it is held.
    pub async fn start(&self) -> anyhow::Result<Started> {
        match self.config.target {
            AgentTarget::Command => self.start_command().await.map_err(|why| anyhow!(why)),
            AgentTarget::Pid(_) | AgentTarget::Cgroup(_) | AgentTarget::Beside => Ok(Started::Watching),
        }
    }

    /// All effects but `PutDirective`, which is the inbox's.
    pub async fn carry_out(&self, effect: Effect) -> EffectOutcome {
        match effect {
            Effect::PutDirective { file_name, .. } => {
                EffectOutcome::Failed { why: format!("{file_name} is for the inbox, not for the agent's processes") }
            }
            Effect::Examine { slot, amount } => self.examine(&slot, amount).await,
            Effect::Hold(hold) => self.hold(hold).await,
            Effect::Verify(hold) => self.verify(hold).await,
            Effect::Release(hold) => self.release(hold).await,
            Effect::Kill { process, grace_ms, tree: false } => self.kill(process, grace_ms).await,
            Effect::Kill { process, grace_ms, tree: true } => self.kill_tree(process, grace_ms).await,
            Effect::Launch if self.config.target == AgentTarget::Beside => self.await_agent().await,
            Effect::Launch => match self.launch().await {
                Ok(root) => EffectOutcome::Launched { root },
                Err(why) => EffectOutcome::Failed { why },
            },
            Effect::EndAgent { root, grace_ms } if self.may_restart() => self.end_beside(root, grace_ms).await,
            Effect::EndAgent { root, grace_ms } => self.end_agent(root, grace_ms).await,
            Effect::CleanUp => self.clean_up().await,
        }
    }

    /// Shared with the sampler: who the agent is.
    pub fn agent(&self) -> AgentHandle {
        self.agent.clone()
    }
}

impl Drop for Actor {
    /// A sidecar that ends without having started its agent leaves no empty cgroup. One that holds a process stays:
    /// the kernel refuses, and the next life takes it up.
    fn drop(&mut self) {
        if self.config.target == AgentTarget::Command {
            for directory in self.agent.view().places.directories() {
                // One that holds a process keeps also what is empty below it: that is the agent's.
                let mut pids = Vec::new();
                crate::sample::cgroup::members(&mut crate::sample::procfs::ProcFs::default(), directory, &mut pids);
                if pids.is_empty() {
                    let _ = places::remove_tree(directory, 0);
                }
            }
        }
    }
}

/// A later process of the same pid is never taken for it.
fn of_pid(hierarchies: &Hierarchies, pid: i32) -> anyhow::Result<(AgentView, String)> {
    if pid <= 1 || pid == std::process::id() as i32 {
        bail!("--pid {pid} cannot be an agent: name the agent's first process");
    }
    let root =
        identity_of(pid).with_context(|| format!("--pid {pid}: no such process; is it in this pid namespace?"))?;
    let view = AgentView { root: Some(root), ..AgentView::default() };
    let agents: Vec<i32> = kill::living(&AgentHandle::new(view.clone())).iter().map(|s| s.pid).collect();
    Ok(match places::own_of(hierarchies, pid, &agents) {
        Ok(places) => (AgentView { places, ..view }, String::from("the agent has no cgroup of this version")),
        Err(why) => (view, why),
    })
}

/// It may appear later on: a container's cgroup comes and goes with it.
fn of_cgroup(hierarchies: &Hierarchies, directory: &std::path::Path) -> anyhow::Result<(AgentView, String)> {
    let mut without_place = String::from("the cgroup has no such files");
    if directory.is_dir() {
        places::guard(hierarchies, directory).map_err(|why| anyhow!("--cgroup: {why}"))?;
        if Places::of_directory(directory).is_empty() {
            bail!("--cgroup {}: this is no directory of a cgroup hierarchy", directory.display());
        }
    } else {
        without_place = format!("{} does not exist yet", directory.display());
    }
    let view = AgentView { named_cgroup: Some(directory.to_owned()), ..AgentView::default() };
    Ok((view, without_place))
}

fn of_command(hierarchies: &Hierarchies, config: &Config) -> (AgentView, String) {
    let name = places::name(&config.agent, &config.state_dir);
    let (places, refusals) = places::make(hierarchies, &name, &config.self_exe);
    let why = match refusals.is_empty() {
        true => "no hierarchy of this version is mounted here".to_owned(),
        false => refusals.join("; "),
    };
    (AgentView { places, ..AgentView::default() }, why)
}

/// Hidden subcommands that the actor starts this program with: `Some(exit code)` when `args` (without the program's
/// name) is one. To be called first in `main`, before arguments are parsed and before a runtime exists.
pub fn hidden(args: &[OsString]) -> Option<u8> {
    shim::run(args)
}
