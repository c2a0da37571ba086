//! What would go wrong with a compose file beside agents: each mistake with why it is one, and what to write instead.
//! Who is who is told by what the services do: a *pause* runs `pause`, a *sidecar* has PITWALL_AGENT or runs
//! `pitwall-sidecar`, an *agent* shares the pid namespace of a sidecar.
use super::{
    INBOX, STATE, WORKSPACE,
    file::{self, File, Mount, Service},
    host::{below_cgroups, has_sockets, is_above, is_of},
    path::{HostPath, share},
};
use crate::plan::{
    Mistakes,
    node::{self, Place},
};

/// Every mistake, in the order of the file; empty: none.
pub fn check(text: &str, file_name: &str) -> Mistakes {
    let mut mistakes = Mistakes::new(text, file_name);
    let Some(tree) = node::read(text, &mut mistakes) else { return mistakes };
    let Some(file) = file::read(&tree) else {
        mistakes.add(Place::START, "there are no services in this file", "a compose file has them below `services:`");
        return mistakes;
    };
    let sidecars: Vec<&Service<'_>> = file.services.iter().filter(|s| is_sidecar(s)).collect();
    if sidecars.is_empty() {
        mistakes.add(
            Place::START,
            "no service in this file is a sidecar of Pitwall, so nobody is watched",
            "`pitwall compose print --service NAME` prints what stands beside a service",
        );
    }
    for sidecar in &sidecars {
        Beside::of(&file, sidecar).check(&mut mistakes);
    }
    for orchestrator in file.services.iter().filter(|s| is_orchestrator(s)) {
        published(orchestrator, &mut mistakes);
    }
    mistakes.list.dedup();
    mistakes.sorted()
}

fn is_pause(service: &Service<'_>) -> bool {
    let words = service.words();
    words.last().is_some_and(|word| word == "pause" || word.ends_with("/pause"))
        || (words.is_empty() && service.text("image").is_some_and(|(image, _)| image_name(&image) == "pause"))
}

fn is_sidecar(service: &Service<'_>) -> bool {
    let runs = service.words().iter().any(|word| word.rsplit('/').next() == Some("pitwall-sidecar"));
    let image = service.text("image").is_some_and(|(image, _)| image_name(&image).contains("pitwall-sidecar"));
    !is_pause(service) && (service.variable("PITWALL_AGENT").is_some() || runs || image)
}

fn is_orchestrator(service: &Service<'_>) -> bool {
    let image = service.text("image").is_some_and(|(image, _)| image_name(&image) == "pitwall");
    let words = service.words();
    let serves = words.iter().any(|word| word == "serve");
    serves && (image || words.iter().any(|w| w.contains("pitwall")) || service.variable("PITWALL_PLAN").is_some())
        || (image && words.is_empty())
}

/// `registry:5000/team/pitwall-sidecar:1@sha256:…` → `pitwall-sidecar`
fn image_name(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split([':', '@']).next().unwrap_or(last)
}

/// The service whose namespace is joined.
fn joined(service: &Service<'_>, key: &str) -> Option<String> {
    service.text(key)?.0.strip_prefix("service:").map(str::to_owned)
}

/// One sidecar with the agents that share its pid namespace.
struct Beside<'a> {
    file: &'a File<'a>,
    sidecar: &'a Service<'a>,
    agents: Vec<&'a Service<'a>>,
}

impl<'a> Beside<'a> {
    fn of(file: &'a File<'a>, sidecar: &'a Service<'a>) -> Self {
        let owner = joined(sidecar, "pid");
        // One that does not share the namespace is known by its name still.
        let named = sidecar.variable("PITWALL_AGENT").unwrap_or_default();
        let shares = |s: &&Service<'_>| {
            let other = s.name != sidecar.name && !is_sidecar(s) && !is_pause(s) && !is_orchestrator(s);
            let together = joined(s, "pid").is_some() && joined(s, "pid") == owner;
            other && (together || Some(&s.name) == owner.as_ref() || s.name == named)
        };
        Self { file, sidecar, agents: file.services.iter().filter(shares).collect() }
    }

    fn check(&self, mistakes: &mut Mistakes) {
        self.namespace(mistakes);
        self.state(mistakes);
        self.cgroup(mistakes);
        self.privileged(mistakes);
        for agent in &self.agents {
            user(agent, mistakes);
            memory(agent, mistakes);
            sockets(agent, mistakes);
            if agent.is_true("privileged") {
                let what = format!("{} is privileged: that is root on the host", agent.name);
                mistakes.add(place(agent, "privileged"), what, "leave `privileged` out");
            }
            self.volumes(agent, mistakes);
            self.networks(agent, mistakes);
            self.secrets(agent, mistakes);
            self.restart(agent, mistakes);
        }
    }

    fn namespace(&self, mistakes: &mut Mistakes) {
        let name = &self.sidecar.name;
        let wanted = self.sidecar.variable("PITWALL_AGENT").filter(|a| !a.is_empty()).unwrap_or_else(|| "agent".into());
        let help = format!(
            "a service `{wanted}-pid` with `command: [pause]` of the sidecar's image, and `pid: \"service:{wanted}-pid\"` on \
             both the agent and {name}"
        );
        for service in std::iter::once(&self.sidecar).chain(&self.agents) {
            if let Some((pid, at)) = service.text("pid").filter(|(pid, _)| pid == "host") {
                let what =
                    format!("{} has pid: {pid}: it sees and could signal every process of the host", service.name);
                mistakes.add(at, what, help.clone());
            }
        }
        match self.sidecar.text("pid") {
            None => {
                let what = format!("{name} has no `pid`: in a namespace of its own it sees no agent");
                mistakes.add(self.sidecar.place, what, help);
            }
            Some((_, at)) => {
                let Some(owner) = joined(self.sidecar, "pid") else { return };
                match self.file.service(&owner) {
                    None => mistakes.add(at, format!("there is no service {owner}"), help),
                    Some(owner) if is_pause(owner) => {
                        let shares = |a: &&Service<'_>| joined(a, "pid").as_ref() == Some(&owner.name);
                        if !self.agents.iter().any(shares) {
                            let what = format!("no agent shares the pid namespace of {}", owner.name);
                            mistakes.add(at, what, format!("`pid: \"service:{}\"` on the agent as well", owner.name));
                        }
                    }
                    Some(owner) => {
                        let what = format!(
                            "{name} lives in the namespace of {}: it dies with it, and stays dead when that one is stopped or \
                             made anew",
                            owner.name
                        );
                        mistakes.add(at, what, help);
                    }
                }
            }
        }
    }

    fn path(&self, variable: &str, default: &str) -> String {
        path_of(self.sidecar, variable, default)
    }

    fn state(&self, mistakes: &mut Mistakes) {
        let path = self.path("PITWALL_STATE", STATE);
        let help = format!(
            "`- {}-state:{path}` below its `volumes`, and `{}-state:` below the file's",
            self.sidecar.name, self.sidecar.name
        );
        let why = "made anew it would have lost its certificate, and what it has to undo";
        match holding(self.sidecar, &path) {
            None => {
                let what = format!("{} has no volume for its state at {path}: {why}", self.sidecar.name);
                mistakes.add(self.sidecar.place, what, help);
            }
            Some(m) if m.tmpfs || m.source.is_empty() => {
                let what = format!(
                    "the state of {} lies in a volume that does not outlive the container: {why}",
                    self.sidecar.name
                );
                mistakes.add(m.place, what, help);
            }
            Some(m) if m.read_only => {
                mistakes.add(
                    m.place,
                    format!("the state of {} is read-only", self.sidecar.name),
                    "leave `:ro` out here",
                );
            }
            Some(_) => {}
        }
    }

    fn cgroup(&self, mistakes: &mut Mistakes) {
        let parents: Vec<Option<String>> =
            self.agents.iter().map(|a| a.text("cgroup_parent").map(|(p, _)| p)).collect();
        let agent = self.agents.first().map_or("the agent", |a| a.name.as_str());
        for mount in self.sidecar.mounts() {
            let Some(below) = below_cgroups(&mount.source) else { continue };
            let meant = parents.iter().flatten().find(|p| !p.is_empty()).cloned();
            let path = meant.clone().unwrap_or_else(|| format!("/pitwall/{agent}"));
            let help = if path.ends_with(".slice") {
                format!("bind the agent's own: the folder {path}, where `find /sys/fs/cgroup -name {path}` shows it")
            } else {
                let path = path.trim_start_matches('/');
                format!("bind the agent's own: /sys/fs/cgroup/cpu/{path} (v1), /sys/fs/cgroup/{path} (v2)")
            };
            if below.is_empty() || is_above(&below, &path) {
                let what = format!(
                    "{} is bound with all that is in it: it could write every container's limits",
                    mount.source
                );
                mistakes.add(mount.place, what, help);
            } else if meant.is_none() && !self.agents.is_empty() {
                let what = format!("{} is bound, but {agent} has no `cgroup_parent`: it is not in there", mount.source);
                mistakes.add(mount.place, what, format!("`cgroup_parent: /{below}` on {agent}"));
            } else if meant.is_some() && !parents.iter().flatten().any(|parent| is_of(&below, parent)) {
                let what = format!(
                    "{} is bound, and {agent} is not in there: {} would hold the limits of others",
                    mount.source, self.sidecar.name
                );
                mistakes.add(mount.place, what, help);
            }
        }
    }

    fn privileged(&self, mistakes: &mut Mistakes) {
        if self.sidecar.is_true("privileged") {
            let what = format!("{} is privileged: it needs three capabilities, and not the host", self.sidecar.name);
            let help = "`cap_drop: [ALL]` and `cap_add: [SYS_PTRACE, DAC_READ_SEARCH, KILL]` instead";
            mistakes.add(place(self.sidecar, "privileged"), what, help);
        }
        sockets(self.sidecar, mistakes);
    }

    fn volumes(&self, agent: &Service<'_>, mistakes: &mut Mistakes) {
        for (other, at) in agent.names("volumes_from") {
            let what = format!("{} has all the volumes of {other}: also those that are not meant for it", agent.name);
            mistakes.add(at, what, "name the volumes it needs below its `volumes`");
        }
        let [workspace, inbox] =
            [("PITWALL_WORKSPACE", WORKSPACE), ("PITWALL_INBOX", INBOX)].map(|(v, d)| self.path(v, d));
        let theirs = agent.mounts();
        let sidecars = || self.file.services.iter().filter(|s| is_sidecar(s));
        let states: Vec<String> =
            sidecars().filter_map(|s| holding(s, &path_of(s, "PITWALL_STATE", STATE))).map(|m| m.source).collect();
        let tokens = self.tokens();
        for shared in &theirs {
            if states.iter().any(|state| share(state, &shared.source)) {
                let what =
                    format!("{} sees the state of its sidecar: it could take its key and pose as it", agent.name);
                mistakes.add(shared.place, what, "leave this volume to the sidecar alone");
            }
            if tokens.iter().any(|token| share(token, &shared.source)) {
                let what = format!(
                    "{} sees a join token in {}: it could join in a sidecar's place",
                    agent.name, shared.source
                );
                mistakes.add(
                    shared.place,
                    what,
                    "keep tokens where no agent's volume is, and leave them to the sidecars alone",
                );
            }
        }
        let state = self.path("PITWALL_STATE", STATE);
        for mine in self.sidecar.mounts().into_iter().filter(|m| !m.source.is_empty() && m.target != state) {
            let same = |m: &&Mount| {
                HostPath::of_mount(&m.source) == HostPath::of_mount(&mine.source) && share(&m.source, &mine.source)
            };
            if mine.target == inbox {
                for shared in theirs.iter().filter(|m| !m.read_only && share(&m.source, &mine.source)) {
                    let what = format!(
                        "{} can write its inbox: it could activate itself, and change what it is told",
                        agent.name
                    );
                    mistakes.add(shared.place, what, format!("`{}:{}:ro` on the agent", shared.source, shared.target));
                }
            } else if !mine.read_only
                && let Some(shared) = theirs.iter().find(same)
                && (mine.target == workspace || !shared.read_only)
            {
                let what = format!(
                    "{} can write the workspace of {}: a witness must not make evidence",
                    self.sidecar.name, agent.name
                );
                mistakes.add(mine.place, what, format!("`{}:{}:ro`", mine.source, mine.target));
            }
        }
    }

    /// The files of the host with the sidecars' tokens: named as secrets, or bound. Other secrets are the agents' own.
    fn tokens(&self) -> Vec<String> {
        let mut files = Vec::new();
        for sidecar in self.file.services.iter().filter(|s| is_sidecar(s)) {
            let named = sidecar.names("secrets");
            let theirs = self.file.secrets.iter().filter(|(name, _)| named.iter().any(|(n, _)| n == name));
            files.extend(theirs.map(|(_, file)| match file.starts_with(['.', '/', '~']) {
                true => file.clone(),
                false => format!("./{file}"),
            }));
            let bound = sidecar.variable("PITWALL_JOIN_TOKEN_FILE").filter(|path| !path.is_empty());
            files.extend(bound.and_then(|path| holding(sidecar, &path)).map(|m| m.source).filter(|s| !s.is_empty()));
        }
        files
    }

    fn networks(&self, agent: &Service<'_>, mistakes: &mut Mistakes) {
        if let Some((mode, at)) = agent.text("network_mode").filter(|(mode, _)| mode == "host") {
            let what =
                format!("{} has network_mode: {mode}: it reaches whatever listens on the host's loopback", agent.name);
            return mistakes.add(at, what, "a network of its own: `networks: [agents]`");
        }
        let joined = joined(agent, "network_mode").and_then(|name| self.file.service(&name));
        let theirs = joined.map_or_else(|| agent.networks(), Service::networks);
        for orchestrator in self.file.services.iter().filter(|s| is_orchestrator(s)) {
            let Some(shared) = orchestrator.networks().into_iter().find(|n| theirs.contains(n)) else { continue };
            let what = format!("{} reaches the orchestrator on the network {shared}", agent.name);
            let help = "`networks: [control]` on the orchestrator and the sidecars, and not on any agent";
            mistakes.add(place(agent, "networks"), what, help);
        }
        // The orchestrator may be in another file.
        if !self.file.services.iter().any(is_orchestrator) {
            let mine = self.sidecar.networks();
            if !mine.is_empty() && mine.iter().all(|n| theirs.contains(n)) {
                let what = format!(
                    "{} is on every network of {}, also on that which leads to the orchestrator",
                    agent.name, self.sidecar.name
                );
                mistakes.add(
                    place(agent, "networks"),
                    what,
                    "a network `control` for the sidecar that the agent is not on",
                );
            }
        }
    }

    fn secrets(&self, agent: &Service<'_>, mistakes: &mut Mistakes) {
        let mine = self.sidecar.names("secrets");
        for (name, at) in agent.names("secrets") {
            let file = self.file.secrets.iter().find(|(n, _)| *n == name).map(|(_, file)| HostPath::of(file));
            let same = file.is_some_and(|file| self.tokens().iter().any(|token| HostPath::of(token) == file));
            if same || mine.iter().any(|(n, _)| *n == name) {
                let what = format!("{} has the join token of its sidecar: it could join in its place", agent.name);
                mistakes.add(at, what, "leave this secret to the sidecar alone");
            }
        }
    }

    fn restart(&self, agent: &Service<'_>, mistakes: &mut Mistakes) {
        let promised = self.sidecar.variable("PITWALL_AGENT_RESTART").is_some_and(|who| who == "engine");
        let restarts = agent.text("restart").is_some_and(|(policy, _)| policy != "no");
        if promised && !restarts {
            let what =
                format!("{} is told that the engine restarts {}, and it does not", self.sidecar.name, agent.name);
            mistakes.add(place(agent, "restart"), what, "`restart: unless-stopped` on the agent");
        }
    }
}

fn path_of(service: &Service<'_>, variable: &str, default: &str) -> String {
    service.variable(variable).filter(|v| !v.is_empty()).unwrap_or_else(|| default.into())
}

/// The mount that a path of a service lies in.
fn holding(service: &Service<'_>, path: &str) -> Option<Mount> {
    let holds = |m: &Mount| HostPath::of(&m.target).holds(&HostPath::of(path));
    service.mounts().into_iter().filter(holds).max_by_key(|m| m.target.len())
}

fn place(service: &Service<'_>, key: &str) -> Place {
    let first = service.names(key).into_iter().next();
    service.text(key).or(first).map_or(service.place, |(_, place)| place)
}

fn user(agent: &Service<'_>, mistakes: &mut Mistakes) {
    let help = "`user: \"1000:1000\"`, and `/workspace` of that user in its image";
    let why = "as root it could end its sidecar and read what that one keeps";
    match agent.text("user") {
        None => {
            let what = format!("{} does not say its user, and most images are root's: {why}", agent.name);
            mistakes.add(agent.place, what, help);
        }
        Some((user, at)) if matches!(user.split(':').next(), Some("0" | "root" | "")) => {
            mistakes.add(at, format!("{} runs as root: {why}", agent.name), help);
        }
        Some(_) => {}
    }
}

fn memory(agent: &Service<'_>, mistakes: &mut Mistakes) {
    if !agent.has_memory_limit() {
        let what = format!("{} has no memory limit: it can take the host, and everybody on it, with it", agent.name);
        mistakes.add(agent.place, what, "`mem_limit: 2g`");
    }
}

fn sockets(service: &Service<'_>, mistakes: &mut Mistakes) {
    for mount in service.mounts() {
        if has_sockets(&mount.source) {
            let what =
                format!("{} has the engine's socket in {}: that is root on the host", service.name, mount.source);
            mistakes.add(mount.place, what, "leave it out; Pitwall needs no engine's socket");
        }
    }
}

fn published(orchestrator: &Service<'_>, mistakes: &mut Mistakes) {
    if let Some((mode, at)) = orchestrator.text("network_mode").filter(|(mode, _)| mode == "host") {
        let what = format!(
            "{} has network_mode: {mode}: what it listens on is published on every address of the host, and agents reach \
             it by their gateway",
            orchestrator.name
        );
        mistakes.add(at, what, "`networks: [control]`, and `127.0.0.1:7440:7440` below its `ports`");
    }
    for (address, at) in orchestrator.published() {
        if address.is_empty() || address == "0.0.0.0" || address == "::" {
            let what = format!(
                "{} is published on every address of the host: agents reach it by their gateway",
                orchestrator.name
            );
            mistakes.add(
                at,
                what,
                "`127.0.0.1:7440:7440`, or for remote control the one address that operators come from",
            );
        }
    }
}
