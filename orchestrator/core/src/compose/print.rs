//! What stands beside a service that is watched: a file of its own, to be given with a second `-f`, or to be pasted.

use super::{INBOX, STATE};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cgroup {
    V1,
    V2,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub service: String,
    /// Of the plan; mostly the service's name.
    pub agent: String,
    /// Volume or directory of the host, as the service has it already.
    pub workspace: String,
    /// Where the service has it.
    pub workspace_at: String,
    /// The network of the service, for checks that ask it.
    pub network: String,
    pub cgroup: Option<Cgroup>,
    pub gpu: bool,
}

impl Wanted {
    pub fn of(service: &str) -> Self {
        Self {
            service: service.into(),
            agent: service.into(),
            workspace: format!("{service}-workspace"),
            workspace_at: super::WORKSPACE.into(),
            network: "default".into(),
            cgroup: None,
            gpu: false,
        }
    }
}

/// A compose file; with another by `-f` it makes the service watched.
pub fn print(wanted: &Wanted) -> String {
    let Wanted { service, agent, workspace, workspace_at, network, .. } = wanted;
    let parent = format!("/pitwall/{service}");
    let (agent_cgroup, sidecar_cgroup) = match wanted.cgroup {
        None => (String::new(), String::new()),
        Some(version) => {
            let binds = match version {
                Cgroup::V1 => ["cpu:rw", "cpuacct:ro", "memory:rw", "pids:rw", "blkio:rw", "freezer:rw"]
                    .iter()
                    .filter_map(|bind| bind.split_once(':'))
                    .map(|(name, mode)| format!("      - /sys/fs/cgroup/{name}{parent}:/cg/{name}:{mode}\n"))
                    .collect::<String>(),
                Cgroup::V2 => format!("      - /sys/fs/cgroup{parent}:/cg:rw\n"),
            };
            // Under systemd's driver a parent is a slice, and lies in one folder of that name.
            (format!("    cgroup_parent: {parent}\n"), binds)
        }
    };
    let (agent_gpu, sidecar_gpu) = match wanted.gpu {
        false => (String::new(), String::new()),
        true => (devices("gpu"), devices("utility")),
    };
    let named = !workspace.starts_with(['.', '/', '~', '$']);
    let workspace_volume = if named { format!("  {workspace}:\n") } else { String::new() };
    format!(
        r#"# What watches `{service}`: give this file with a second `-f`, or paste its parts. The orchestrator is on `control`.
services:
  {service}:                          # the lines to change in the agent's own
    user: "1000:1000"                 # not root: {workspace_at} is to be this user's in its image
    pid: "service:{service}-pid"
    depends_on: [{service}-pid]
    restart: unless-stopped
    mem_limit: 2g                     # as it needs
{agent_cgroup}{agent_gpu}    volumes:
      - {workspace}:{workspace_at}
      - {service}-inbox:{INBOX}:ro
    # To start it only by `pitwall activate {agent}`: entrypoint: [{INBOX}/hold, --, its own program …]

  {service}-pid:                      # owns the pid namespace, so that agent and sidecar outlive each other
    image: ${{PITWALL_SIDECAR_IMAGE:-pitwall-sidecar}}
    command: [pause]
    network_mode: none
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    stop_signal: SIGKILL
    restart: unless-stopped
    volumes: ["{service}-inbox:{INBOX}:ro"]

  {service}-sidecar:
    image: ${{PITWALL_SIDECAR_IMAGE:-pitwall-sidecar}}
    user: "0:0"                       # of its capabilities it keeps three
    pid: "service:{service}-pid"
    depends_on: [{service}-pid]
    read_only: true
    cap_drop: [ALL]
    cap_add: [SYS_PTRACE, DAC_READ_SEARCH, KILL]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
    mem_limit: 64m
{sidecar_gpu}    networks: [control, {network}]
    environment:
      PITWALL_AGENT: {agent}
      PITWALL_ORCHESTRATOR: ${{PITWALL_ORCHESTRATOR:-https://orchestrator:7440}}
      PITWALL_WORKSPACE: {workspace_at}
      PITWALL_JOIN_TOKEN_FILE: /run/secrets/{service}-token
      PITWALL_AGENT_RESTART: engine   # as the agent has `restart: unless-stopped`
    secrets: [{service}-token]
    volumes:
      - {workspace}:{workspace_at}:ro
      - {service}-inbox:{INBOX}
      - {service}-state:{STATE}
{sidecar_cgroup}
networks:
  control:

volumes:
{workspace_volume}  {service}-inbox:
  {service}-state:

secrets:
  {service}-token:                    # `pitwall setup --plan PLAN --data DATA --secrets secrets`
    file: ${{PITWALL_SECRETS:-./secrets}}/{agent}.token
"#
    )
}

fn devices(what: &str) -> String {
    format!(
        "    deploy:\n      resources:\n        reservations:\n          devices: [{{ driver: nvidia, count: all, capabilities: [{what}] }}]\n"
    )
}
