//! What was seen, as findings for people: works or not, why, and the lines of a compose file that would change it. Pure.
use std::{collections::BTreeSet, path::PathBuf};

use pitwall_proto::v1;

use crate::{
    act::{CAP_DAC_READ_SEARCH, CAP_KILL, CAP_SYS_NICE, CAP_SYS_PTRACE},
    sample::Means,
};

#[derive(Clone, Debug, Default)]
pub struct Neighbourhood {
    pub processes: usize,
    pub holding: usize,
    pub root: Option<String>,
    pub root_uid: Option<u32>,
    /// Whether its I/O counters can be read; absent without a root.
    pub root_io: Option<bool>,
    pub leaf: Option<String>,
    /// Absent: not visible here.
    pub memory_limit: Option<Option<u64>>,
}

#[derive(Clone, Debug, Default)]
pub struct Folder {
    pub path: PathBuf,
    pub there: bool,
    pub writable: bool,
    /// Of a volume, and not of the container itself.
    pub own_mount: bool,
}

#[derive(Clone, Debug)]
pub struct Seen {
    pub beside: bool,
    /// The sidecar starts the agent itself.
    pub starts: bool,
    /// Why a sidecar would not even start here.
    pub started: Result<(), String>,
    pub neighbourhood: Neighbourhood,
    pub capabilities: Vec<v1::Capability>,
    /// What is measured how.
    pub means: Vec<Means>,
    pub effective: u64,
    pub uid: u32,
    pub workspace: Folder,
    pub inbox: Folder,
    pub state: Folder,
    pub orchestrator: Result<(), String>,
    pub orchestrator_url: String,
    /// Absent: none was named.
    pub token: Option<Result<(), String>>,
    /// It has a certificate, or needs none.
    pub joined: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Works,
    /// Another way to what works already, or of what this machine lacks altogether: why not, and what would change it.
    Spare,
    /// Works less than it could, or less safely.
    Lacks,
    Broken,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub level: Level,
    pub what: String,
    pub detail: String,
    /// Lines of a compose file, or what else would change it; empty where nothing has to.
    pub change: String,
}

impl Found {
    pub fn severe(&self) -> bool {
        self.level == Level::Broken
    }
}

pub fn judge(seen: &Seen) -> Vec<Found> {
    let mut all = Vec::new();
    let mut add = |level, what: &str, detail: String, change: &str| {
        let change = if level == Level::Works { String::new() } else { change.to_owned() };
        all.push(Found { level, what: what.into(), detail, change });
    };
    use Level::{Broken, Lacks, Works};

    if let Err(why) = &seen.started {
        add(Broken, "agent", why.clone(), "pid: \"service:AGENT-pid\" on both the agent and its sidecar");
    }
    // Beside a container it is its compose file that is changed.
    let change = |compose: &'static str, else_by: &'static str| if seen.beside { compose } else { else_by };
    let n = &seen.neighbourhood;
    match (&n.root, n.holding) {
        (Some(root), _) => add(Works, "agent", format!("{root}, {} of its processes are seen", n.processes), ""),
        (None, 1..) => add(Works, "agent", "it is held until `pitwall activate`".into(), ""),
        (None, 0) if seen.started.is_ok() && seen.starts => {
            add(Works, "agent", "it does not run yet: this sidecar starts it".into(), "");
        }
        (None, 0) if seen.started.is_ok() => {
            add(
                Lacks,
                "agent",
                "no process of it is seen".into(),
                change("start its container; both need pid: \"service:AGENT-pid\"", "start it"),
            );
        }
        (None, _) => {}
    }
    if n.root_uid == Some(0) && seen.beside {
        let why = "it runs as root: it could end its sidecar and read what that one keeps";
        add(Broken, "agent's user", why.into(), "user: \"1000:1000\" on the agent");
    }
    for (number, name, what) in [
        (CAP_SYS_PTRACE, "SYS_PTRACE", "see the agent's I/O, and what it is"),
        (CAP_DAC_READ_SEARCH, "DAC_READ_SEARCH", "read a workspace of another user"),
        (CAP_KILL, "KILL", "signal processes of another user"),
    ] {
        if seen.beside && seen.effective & (1 << number) == 0 {
            add(Lacks, "capabilities", format!("without {name} it cannot {what}"), &format!("cap_add: [{name}]"));
        }
    }
    if seen.beside && seen.uid != 0 {
        let why = format!("it runs as uid {}, for whom cap_add has no effect", seen.uid);
        add(Broken, "sidecar's user", why, "user: \"0:0\" with cap_drop: [ALL] on the sidecar");
    }
    // SYS_NICE is for affinity and nice, where somebody wants those.
    let used = [CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_KILL, CAP_SYS_NICE].iter().fold(0, |all, n| all | 1 << n);
    let spare = seen.effective & !used;
    if seen.beside && spare != 0 {
        let why = format!("it holds {} capabilities that it has no use for", spare.count_ones());
        add(Lacks, "capabilities", why, "cap_drop: [ALL] on the sidecar");
    }

    let shown = |f: &Folder| f.path.display().to_string();
    match (&seen.workspace, seen.beside) {
        (w, _) if !w.there => {
            add(
                Lacks,
                "workspace",
                format!("{} is not there yet", shown(w)),
                change("volumes: [\"AGENT-workspace:/workspace:ro\"]", "make it, or name another one: --workspace"),
            );
        }
        (w, true) if w.writable => {
            let why = format!("{} is writable for the sidecar, which never needs that", shown(w));
            add(Lacks, "workspace", why, "volumes: [\"AGENT-workspace:/workspace:ro\"] on the sidecar");
        }
        (w, _) => add(Works, "workspace", shown(w), ""),
    }
    match &seen.state {
        s if !s.writable => {
            let why = format!("{} cannot be written: nothing could be remembered", shown(s));
            let how = change("volumes: [\"AGENT-state:/state\"] on the sidecar", "make it writable for the sidecar");
            add(Broken, "state", why, how);
        }
        s if seen.beside && !s.own_mount => {
            let why = format!("{} ends with this container: the sidecar would have to join anew", shown(s));
            add(Broken, "state", why, "volumes: [\"AGENT-state:/state\"] on the sidecar");
        }
        s => add(Works, "state", shown(s), ""),
    }
    if seen.beside && seen.inbox.there && !seen.inbox.own_mount {
        let why = format!("{} is in this container alone: the agent does not see it", shown(&seen.inbox));
        add(
            Broken,
            "inbox",
            why,
            "volumes: [\"AGENT-inbox:/inbox\"] on the sidecar, [\"AGENT-inbox:/inbox:ro\"] on the agent",
        );
    }
    match (&n.leaf, n.memory_limit) {
        (Some(leaf), Some(None)) => {
            let why = format!("{leaf}; no memory limit: the agent can take the whole machine with it");
            let how =
                change("mem_limit: 2g on the agent", "in the plan, quota: { memory: { hard: 2GiB } } of the agent");
            add(Lacks, "cgroup", why, how);
        }
        (Some(leaf), _) => add(Works, "cgroup", leaf.clone(), ""),
        (None, _) => {}
    }
    if n.root_io == Some(false) {
        add(Lacks, "I/O", "the agent's counters cannot be read".into(), "cap_add: [SYS_PTRACE]");
    }
    // Without an agent nothing was measured of it.
    for means in seen.means.iter().filter(|_| n.root.is_some()) {
        match &means.how {
            Ok(how) => add(Works, means.what, how.clone(), ""),
            Err(why) => add(Lacks, means.what, why.clone(), &means.change),
        }
    }
    match &seen.orchestrator {
        Ok(()) => add(Works, "orchestrator", format!("{} answers", seen.orchestrator_url), ""),
        Err(why) => {
            let how = change(
                "networks: [control] on the sidecar, and the orchestrator's name in PITWALL_ORCHESTRATOR",
                "start it with `pitwall serve`, or name another one: --orchestrator",
            );
            add(Broken, "orchestrator", format!("{}: {why}", seen.orchestrator_url), how);
        }
    }
    match (&seen.token, seen.joined) {
        (_, true) => add(Works, "identity", "it has joined".into(), ""),
        (Some(Ok(())), false) => add(Works, "identity", "it has not joined yet, its token is there".into(), ""),
        (Some(Err(why)), false) => {
            add(
                Broken,
                "identity",
                format!("the join token cannot be read: {why}"),
                change("secrets: [AGENT-token] on the sidecar", "`pitwall token create`, and --join-token-file"),
            );
        }
        (None, false) => {
            let how = change(
                "secrets: [AGENT-token], and PITWALL_JOIN_TOKEN_FILE: /run/secrets/AGENT-token",
                "`pitwall token create`, and --join-token-file",
            );
            add(Broken, "identity", "it has neither a certificate nor a join token".into(), how);
        }
    }
    all.extend(capabilities(&seen.capabilities));
    all
}

/// One way to limit a resource is enough, the others are told all the same; a machine without a GPU lacks none of its
/// limits.
fn capabilities(all: &[v1::Capability]) -> Vec<Found> {
    let resource =
        |name: &str| name.strip_prefix("throttle.")?.rsplit_once('.').map(|(resource, _)| resource.to_owned());
    let limited: BTreeSet<String> = all.iter().filter(|c| c.available).filter_map(|c| resource(&c.name)).collect();
    let without_gpu = all.iter().any(|c| c.name == "gpu" && !c.available);
    let is_spare =
        |name: &str| resource(name).is_some_and(|of| limited.contains(&of) || without_gpu && of.starts_with("gpu-"));
    let of = |c: &v1::Capability| {
        let level = match (c.available, c.name.as_str()) {
            (true, _) => Level::Works,
            (false, "directive" | "kill") => Level::Broken,
            (false, name) if is_spare(name) => Level::Spare,
            (false, _) => Level::Lacks,
        };
        Found { level, what: c.name.clone(), detail: c.reason.clone(), change: c.enabled_by.clone() }
    };
    all.iter().map(of).collect()
}

pub fn told(all: &[Found]) -> String {
    let wide = all.iter().map(|f| f.what.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for found in all {
        let word = match found.level {
            Level::Works => "ok    ",
            Level::Spare => "other ",
            Level::Lacks => "lacks ",
            Level::Broken => "BROKEN",
        };
        let pad = " ".repeat(wide - found.what.chars().count());
        out.push_str(format!("{word}  {}{pad}  {}", found.what, found.detail).trim_end());
        out.push('\n');
        if !found.change.is_empty() {
            out.push_str(&format!("        {}  change: {}\n", " ".repeat(wide), found.change));
        }
    }
    let count = |level| all.iter().filter(|f| f.level == level).count();
    out.push_str(&format!(
        "{} ok, {} lacking, {} broken\n",
        count(Level::Works),
        count(Level::Lacks),
        count(Level::Broken)
    ));
    out
}

#[cfg(test)]
mod tests;
