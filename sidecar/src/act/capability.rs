//! What can be done here, found by trying it, and what would enable the rest.
use pitwall_proto::v1;
use rustix::fs::Access;

use super::agent::AgentView;
use super::child::Child;
use super::files::{Files, What};
use super::ladder::{RESOURCES, Rung};
use super::threads::Knob;
use super::value::Version;
use super::{Actor, AgentTarget, duty, gpu, process};
use crate::sample::procfs::{identity_of, is_alive};

fn capability(name: &str, found: Result<(), (String, &str)>) -> v1::Capability {
    let (reason, enabled_by) = match &found {
        Ok(()) => (String::new(), String::new()),
        Err((reason, enabled_by)) => (reason.clone(), (*enabled_by).to_owned()),
    };
    v1::Capability { name: name.into(), available: found.is_ok(), reason, enabled_by }
}

fn of(name: &str, found: Result<(), String>, how: &str) -> v1::Capability {
    capability(name, found.map_err(|why| (why, how)))
}

const GPU_RIGHTS: &str = "the NVIDIA driver with its devices given to the sidecar, which must be root on the host: the \
                          driver permits it to nobody else";
const A_CGROUP: &str = "give the agent a cgroup of its own with that controller, writable for the sidecar";
/// Numbers of linux/capability.h.
pub(crate) const CAP_DAC_READ_SEARCH: u32 = 2;
pub(crate) const CAP_KILL: u32 = 5;
pub(crate) const CAP_SYS_PTRACE: u32 = 19;
pub(crate) const CAP_SYS_NICE: u32 = 23;

/// The lines of a compose file that make a limit possible.
fn bind(files: Files) -> String {
    match files.version {
        Version::V1 => {
            let controller = files.controller();
            format!(
                "cgroup_parent: /pitwall/{{agent}} on the agent, and the volume \
                 /sys/fs/cgroup/{controller}/pitwall/{{agent}}:/cg/{controller}:rw on its sidecar \
                 (`pitwall compose print --cgroup v1` has them)"
            )
        }
        Version::V2 => "cgroup_parent: /pitwall/{agent} on the agent, and the volume \
                        /sys/fs/cgroup/pitwall/{agent}:/cg:rw on its sidecar (`pitwall compose print --cgroup v2` has \
                        them)"
            .into(),
    }
}

/// Is this capability in force for this process?
pub(crate) fn has_capability(number: u32) -> bool {
    effective_capabilities().is_some_and(|set| set & (1 << number) != 0)
}

pub(crate) fn effective_capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

const START_IT_HERE: &str = "let the sidecar start the agent: pitwall-sidecar … -- COMMAND";

impl Actor {
    pub(super) fn probe(&self) -> Vec<v1::Capability> {
        let beside = self.config.target == AgentTarget::Beside;
        let launches = self.launches();
        let launched = || launches.clone().map_err(|why| (why, START_IT_HERE));
        let mut all = self.rungs();
        all.extend([
            capability(
                "kill",
                holds_processes()
                    .map_err(|why| (why, "a kernel of 5.3 or newer, without a filter on pidfd_open"))
                    .and_then(|()| self.signals()),
            ),
            capability("launch", launched()),
            capability("activate", if beside { self.activates() } else { launched() }),
            capability("restart", if beside { self.restarts() } else { launched() }),
            capability("directive", self.inbox()),
        ]);
        if beside {
            self.as_beside(&mut all);
        }
        all
    }

    /// Each rung of each resource, and whether one process alone can be limited by cgroups.
    fn rungs(&self) -> Vec<v1::Capability> {
        let view = self.agent.view();
        let mut all = Vec::new();
        for (resource, word) in RESOURCES {
            for rung in Rung::ladder(resource) {
                let name = format!("throttle.{word}.{}", rung.name());
                all.push(match rung {
                    Rung::Files(files) => {
                        let how = if view.beside.is_some() { bind(files) } else { A_CGROUP.into() };
                        of(&name, self.has_files(&view, files), &how)
                    }
                    Rung::Duty => of(&name, self.may_stop(), START_IT_HERE),
                    Rung::Threads(knob) => of(
                        &name,
                        self.has_threads(&view, knob),
                        "cap_add: [SYS_NICE] on the sidecar, or start it as root",
                    ),
                    Rung::Gpu(setting) => {
                        let found = gpu::probe(self.gpu_library.as_deref(), setting, !self.config.only_looks);
                        of(&name, found, GPU_RIGHTS)
                    }
                });
            }
        }
        for version in [Version::V2, Version::V1] {
            let how = "a cgroup of the agent's own that the sidecar may divide: writable with its cgroup.procs";
            all.push(of(&format!("throttle.process.{}", version.rung()), self.divides(&view, version), how));
        }
        all
    }

    fn has_files(&self, view: &AgentView, files: Files) -> Result<(), String> {
        match &view.beside {
            Some(beside) if view.root.is_none() => self.usable_beside(beside, files),
            Some(_) | None => self.usable(view, files).map(drop),
        }
    }

    fn may_stop(&self) -> Result<(), String> {
        match self.config.target {
            AgentTarget::Command => self.launches(),
            AgentTarget::Pid(_) | AgentTarget::Cgroup(_) | AgentTarget::Beside => {
                Err("only an agent that the sidecar started itself is stopped and continued".into())
            }
        }
    }

    fn has_threads(&self, view: &AgentView, knob: Knob) -> Result<(), String> {
        if knob == Knob::Affinity && std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) {
            return Err("there is one core, and no fewer can be given".into());
        }
        match view.root.as_ref().filter(|root| is_alive(root)) {
            Some(root) => self.may_set(knob, root.pid),
            // It is not there yet: as one that is started here will be, or of another user.
            None if view.beside.is_none() => self.may_set(knob, std::process::id() as i32),
            None if has_capability(CAP_SYS_NICE) => Ok(()),
            None => Err("the sidecar lacks the capability SYS_NICE for processes of another user".into()),
        }
    }

    /// Tried with a cgroup for nobody, and by moving the root to where it is already.
    fn divides(&self, view: &AgentView, version: Version) -> Result<(), String> {
        let files = Files { what: What::Cpu, version };
        self.has_files(view, files)?;
        let Some(leaf) = files.place(&view.places) else { return Ok(()) };
        let procs = leaf.join("cgroup.procs");
        let at = |e: std::io::Error| format!("{} cannot be written: {e}", procs.display());
        for path in [leaf, &procs] {
            rustix::fs::access(path, Access::WRITE_OK)
                .map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
        }
        if self.config.only_looks {
            return Ok(());
        }
        Child::probe(leaf, files)?;
        let root = view.root.as_ref().filter(|root| is_alive(root));
        let is_there = |pid: i32| files.place(&self.hierarchies.of_process(pid)) == Some(leaf);
        match root.map(|root| root.pid).filter(|pid| is_there(*pid)) {
            Some(pid) => std::fs::write(&procs, pid.to_string()).map_err(at),
            None => Ok(()),
        }
    }

    /// In a container of its own an agent is started by its engine alone, and a host has one version of cgroups: what
    /// nobody could bring about is no lack. And the words are about this agent.
    fn as_beside(&self, all: &mut Vec<v1::Capability>) {
        let resource = |name: &str| name.rsplit_once('.').map(|(resource, _)| resource.to_owned());
        let limited: Vec<String> = all
            .iter()
            .filter(|c| c.available && c.name.starts_with("throttle."))
            .filter_map(|c| resource(&c.name))
            .collect();
        let other = if self.hierarchies.is_unified() { Version::V1 } else { Version::V2 };
        let is_idle = |name: &str| {
            let rung = name.rsplit_once('.').map_or("", |(_, rung)| rung);
            name == "launch"
                || name.starts_with("throttle.")
                    && (rung == duty::RUNG
                        || rung == other.rung()
                        || resource(name).is_some_and(|resource| limited.contains(&resource)))
        };
        all.retain(|c| c.available || !is_idle(&c.name));
        for capability in all {
            capability.enabled_by = capability.enabled_by.replace("{agent}", &self.config.agent);
        }
    }

    fn launches(&self) -> Result<(), String> {
        match (&self.config.target, &self.config.launch) {
            (AgentTarget::Command, Some(command)) if !command.is_empty() => holds_processes(),
            (AgentTarget::Command, _) => Err("no launch command is configured".into()),
            (AgentTarget::Pid(_) | AgentTarget::Cgroup(_) | AgentTarget::Beside, _) => {
                Err("the agent is started by somebody else".into())
            }
        }
    }

    /// Beside a container the agent is of another user.
    fn signals(&self) -> Result<(), (String, &'static str)> {
        if self.config.target != AgentTarget::Beside || has_capability(CAP_KILL) {
            return Ok(());
        }
        Err((
            "the sidecar lacks the capability KILL for processes of another user".into(),
            "cap_add: [KILL] on the sidecar",
        ))
    }

    fn activates(&self) -> Result<(), (String, &'static str)> {
        self.share_hold().map_err(|why| {
            let how = "mount the inbox into the sidecar, writable, and start the agent's container with \
                       entrypoint [/inbox/hold, --, its command]";
            (format!("the program that holds an agent cannot be shared: {why}"), how)
        })
    }

    fn restarts(&self) -> Result<(), (String, &'static str)> {
        if self.may_restart() {
            return self.signals();
        }
        let how = "restart: unless-stopped on the agent, and PITWALL_AGENT_RESTART: engine on its sidecar";
        Err(("nobody is known to start the agent's container again".into(), how))
    }

    fn inbox(&self) -> Result<(), (String, &'static str)> {
        let inbox = &self.config.inbox;
        // It is made when the first one comes.
        let there = inbox.ancestors().find(|path| path.exists()).unwrap_or(inbox);
        rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| {
            let what = if there == inbox { "cannot be written" } else { "cannot be made" };
            (format!("the inbox {} {what}: {e}", inbox.display()), "create it, writable for the sidecar")
        })
    }
}

/// Tried on the sidecar itself.
fn holds_processes() -> Result<(), String> {
    let me = identity_of(std::process::id() as i32).ok_or("/proc is not mounted")?;
    process::open(&me).map(drop).map_err(|missed| format!("processes cannot be held by pidfd: {missed:?}"))
}
