//! What can be done here, found by trying it, and what would enable the rest.
use pitwall_proto::v1;
use rustix::fs::Access;

use super::value::Version;
use super::{Actor, AgentTarget, duty, process};
use crate::sample::procfs::identity_of;

fn capability(name: &str, found: Result<(), (String, &str)>) -> v1::Capability {
    let (reason, enabled_by) = match &found {
        Ok(()) => (String::new(), String::new()),
        Err((reason, enabled_by)) => (reason.clone(), (*enabled_by).to_owned()),
    };
    v1::Capability { name: name.into(), available: found.is_ok(), reason, enabled_by }
}

const A_CGROUP: &str = "give the agent a cgroup of its own with the CPU controller, writable for the sidecar";
/// Numbers of linux/capability.h.
pub(crate) const CAP_DAC_READ_SEARCH: u32 = 2;
pub(crate) const CAP_KILL: u32 = 5;
pub(crate) const CAP_SYS_PTRACE: u32 = 19;

/// The lines of a compose file that make a limit possible.
fn bind(version: Version) -> &'static str {
    match version {
        Version::V1 => {
            "cgroup_parent: /pitwall/{agent} on the agent, and the volume /sys/fs/cgroup/cpu/pitwall/{agent}:/cg/cpu:rw on \
             its sidecar (`pitwall compose print --cgroup v1` has them)"
        }
        Version::V2 => {
            "cgroup_parent: /pitwall/{agent} on the agent, and the volume /sys/fs/cgroup/pitwall/{agent}:/cg:rw on its \
             sidecar (`pitwall compose print --cgroup v2` has them)"
        }
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
        let rung = |version: Version| {
            let view = self.agent.view();
            let (found, how) = match &view.beside {
                Some(beside) if view.root.is_none() => (self.usable_beside(beside, version), bind(version)),
                Some(_) => (self.usable(&view, version).map(drop), bind(version)),
                None => (self.usable(&view, version).map(drop), A_CGROUP),
            };
            capability(&format!("throttle.cpu.{}", version.rung()), found.map_err(|why| (why, how)))
        };
        let beside = self.config.target == AgentTarget::Beside;
        let launches = self.launches();
        let launched = || launches.clone().map_err(|why| (why, START_IT_HERE));
        let mut all = vec![
            rung(Version::V2),
            rung(Version::V1),
            capability(
                &format!("throttle.cpu.{}", duty::RUNG),
                match self.config.target {
                    AgentTarget::Command => launched(),
                    AgentTarget::Pid(_) | AgentTarget::Cgroup(_) | AgentTarget::Beside => Err((
                        "only an agent that the sidecar started itself is stopped and continued".into(),
                        START_IT_HERE,
                    )),
                },
            ),
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
        ];
        if beside {
            self.as_beside(&mut all);
        }
        all
    }

    /// In a container of its own an agent is started by its engine alone, and a host has one version of cgroups: what
    /// nobody could bring about is no lack. And the words are about this agent.
    fn as_beside(&self, all: &mut Vec<v1::Capability>) {
        let limited = all.iter().any(|c| c.available && c.name.starts_with("throttle.cpu."));
        let other = if self.hierarchies.is_unified() { Version::V1 } else { Version::V2 };
        let idle =
            ["launch".to_owned(), format!("throttle.cpu.{}", duty::RUNG), format!("throttle.cpu.{}", other.rung())];
        all.retain(|c| c.available || !(idle.contains(&c.name) || limited && c.name.starts_with("throttle.cpu.")));
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
        rustix::fs::access(inbox, Access::WRITE_OK).map_err(|e| {
            (format!("the inbox {} cannot be written: {e}", inbox.display()), "create it, writable for the sidecar")
        })
    }
}

/// Tried on the sidecar itself.
fn holds_processes() -> Result<(), String> {
    let me = identity_of(std::process::id() as i32).ok_or("/proc is not mounted")?;
    process::open(&me).map(drop).map_err(|missed| format!("processes cannot be held by pidfd: {missed:?}"))
}
