//! The command line. The names are a contract for scripts; every option is an environment variable too.
use std::{
    ffi::OsString,
    net::IpAddr,
    path::{Path, PathBuf},
};

use clap::{ArgGroup, CommandFactory as _, Parser, builder::FalseyValueParser};

use crate::act::RestartedBy;

const EXAMPLES: &str = "\
Examples:
  Start and watch a command:
    pitwall-sidecar --agent backend --workspace ./ws --inbox ./ws/.pitwall/inbox --state ./state/backend \\
      --orchestrator https://pitwall.example:7440 --join-token-file backend.token -- node agent.js
  Watch a process that runs already:
    pitwall-sidecar --agent backend … --pid 4711
  Watch everything in a cgroup:
    pitwall-sidecar --agent backend … --cgroup /sys/fs/cgroup/agents/backend
  Start the command only when the operator says `pitwall activate design`:
    pitwall-sidecar --agent design … --launch-on-activation -- ./design-agent

  In a container, find the agent in the pid namespace that both share with a pause container:
    pitwall-sidecar --agent backend … --agent-restart engine
  That pause container's command; and what works in this place, what does not, and what would change it:
    pitwall-sidecar pause
    pitwall-sidecar doctor --agent backend …

The agent that a sidecar started outlives a killed sidecar; the next one with the same --state adopts it.
SIGTERM, SIGINT and SIGHUP end the agent first. Exit codes: 0 ended as asked, 1 could not start or go on, 2 wrong arguments.";

/// Verifies what one agent really produced, measures what it really uses, and carries out the orchestrator's commands.
#[derive(Clone, Debug, Parser)]
#[command(name = "pitwall-sidecar", version, max_term_width = 110, after_help = EXAMPLES)]
#[command(group = ArgGroup::new("target").args(["pid", "cgroup", "command"]))]
pub struct Args {
    /// The agent's name, as the plan has it
    #[arg(long, value_name = "NAME", env = "PITWALL_AGENT", value_parser = name)]
    pub agent: String,
    /// Where the agent works; checks see nothing outside. It may come later
    #[arg(long, value_name = "DIR", env = "PITWALL_WORKSPACE")]
    pub workspace: PathBuf,
    /// Where directives for the agent are put; made when missing
    #[arg(long, value_name = "DIR", env = "PITWALL_INBOX")]
    pub inbox: PathBuf,
    /// Whom to connect to, for example https://pitwall.example:7440
    #[arg(long, value_name = "URL", env = "PITWALL_ORCHESTRATOR")]
    pub orchestrator: String,
    /// What this sidecar must remember; one directory for each sidecar, out of the agent's reach
    #[arg(long, value_name = "DIR", env = "PITWALL_STATE")]
    pub state: PathBuf,
    /// The project; may be left out where the orchestrator serves one only
    #[arg(long, value_name = "NAME", env = "PITWALL_PROJECT", default_value = "", hide_default_value = true)]
    pub project: String,
    /// The one-time token with which it joins, as `pitwall token create` printed it; read until it has a certificate
    #[arg(long, value_name = "FILE", env = "PITWALL_JOIN_TOKEN_FILE")]
    pub join_token_file: Option<PathBuf>,
    /// Plaintext, without any identity: on loopback only
    #[arg(long, env = "PITWALL_INSECURE", value_parser = FalseyValueParser::new())]
    pub insecure: bool,

    /// The agent is this process and its descendants
    #[arg(long, value_name = "N", env = "PITWALL_PID", value_parser = clap::value_parser!(i32).range(2..), help_heading = "Agent")]
    pub pid: Option<i32>,
    /// The agent is every process of this cgroup directory
    #[arg(long, value_name = "PATH", env = "PITWALL_CGROUP", help_heading = "Agent")]
    pub cgroup: Option<PathBuf>,
    /// Who starts the agent's container again when it has ended: with `engine`, a restart is TERM, a grace, KILL, and the
    /// engine's new start
    #[arg(long, value_name = "WHO", env = "PITWALL_AGENT_RESTART", value_enum, default_value_t = RestartedBy::Nobody, help_heading = "Agent")]
    pub agent_restart: RestartedBy,
    /// What the sidecar itself may use, as a share of one core: above it, it measures less often, and says so
    #[arg(long, value_name = "PERCENT", env = "PITWALL_CPU_BUDGET", value_parser = percent, help_heading = "Agent")]
    pub cpu_budget: Option<f64>,
    /// Do not start the command until the operator activates the agent
    #[arg(long, env = "PITWALL_LAUNCH_ON_ACTIVATION", value_parser = FalseyValueParser::new(), help_heading = "Agent")]
    pub launch_on_activation: bool,
    /// The agent is this command: it is started in the workspace, watched, and ended with the sidecar
    #[arg(last = true, value_name = "COMMAND", num_args = 1.., help_heading = "Agent")]
    pub command: Vec<OsString>,

    /// End the agent and this sidecar when stdin ends: with the process that holds the other end of it
    #[arg(long, hide = true, env = "PITWALL_UNTIL_STDIN_EOF", value_parser = FalseyValueParser::new())]
    pub until_stdin_eof: bool,
    /// For tests of cause and effect: directives count as delivered, and are not written
    #[arg(long, hide = true, env = "PITWALL_TEST_SUPPRESS_INBOX", value_parser = FalseyValueParser::new())]
    pub suppress_inbox: bool,
}

/// Why arguments that parsed cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("--orchestrator {0} is not a URL; write for example https://pitwall.example:7440")]
    NotAUrl(String),
    #[error("--orchestrator {0} is https, and --insecure is plaintext: leave one of the two")]
    Https(String),
    #[error("--orchestrator {0} is plaintext; write https://, or add --insecure to allow that on loopback")]
    Plaintext(String),
    #[error(
        "--orchestrator {0} is not on loopback: plaintext would let anybody on the way command this agent; connect to 127.0.0.1, [::1] or localhost"
    )]
    NotLoopback(String),
    #[error("--launch-on-activation needs a command to start: add `-- COMMAND`")]
    NothingToLaunch,
    #[error("--state {state} lies inside the workspace {workspace}: the agent could change what its sidecar remembers")]
    StateInWorkspace { state: String, workspace: String },
    #[error("{option} {path} cannot be made absolute: {why}")]
    Path { option: &'static str, path: String, why: String },
}

impl Args {
    /// Every variable that stands for an option.
    pub fn variables() -> Vec<OsString> {
        Self::command().get_arguments().filter_map(|arg| arg.get_env()).map(OsString::from).collect()
    }

    /// With absolute paths, or why they cannot be used.
    pub fn checked(mut self) -> Result<Self, Unusable> {
        self.orchestrator = usable(&self.orchestrator, self.insecure)?;
        if self.launch_on_activation && self.command.is_empty() {
            return Err(Unusable::NothingToLaunch);
        }
        self.workspace = absolute("--workspace", &self.workspace)?;
        self.inbox = absolute("--inbox", &self.inbox)?;
        self.state = absolute("--state", &self.state)?;
        if self.state.starts_with(&self.workspace) {
            let [state, workspace] = [&self.state, &self.workspace].map(|path| path.display().to_string());
            return Err(Unusable::StateInWorkspace { state, workspace });
        }
        Ok(self)
    }
}

fn usable(url: &str, insecure: bool) -> Result<String, Unusable> {
    let not_a_url = || Unusable::NotAUrl(url.into());
    let uri: http::Uri = url.parse().map_err(|_| not_a_url())?;
    let host = uri.host().ok_or_else(not_a_url)?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") if insecure => return Err(Unusable::Https(url.into())),
        Some("https") => return Ok(url.into()),
        Some(_) | None => return Err(not_a_url()),
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare != "localhost" && !bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        return Err(Unusable::NotLoopback(url.into()));
    }
    if !insecure {
        return Err(Unusable::Plaintext(url.into()));
    }
    Ok(url.into())
}

fn absolute(option: &'static str, path: &Path) -> Result<PathBuf, Unusable> {
    std::path::absolute(path).map(|path| path.components().collect()).map_err(|e| Unusable::Path {
        option,
        path: path.display().to_string(),
        why: e.to_string(),
    })
}

/// `0.5%`, as a share.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok());
    match number.filter(|n| (0.01..=100.0).contains(n)) {
        Some(percent) => Ok(percent / 100.0),
        None => Err("write a share of one core from 0.01% to 100%, for example 0.5%".into()),
    }
}

fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 63 || !text.chars().all(fits) || text.starts_with(['.', '-']) {
        return Err("a name has 1 to 63 letters, digits, `-`, `_` or `.`, and begins with a letter or digit".into());
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        let base = [
            "pitwall-sidecar",
            "--agent",
            "a",
            "--workspace",
            "/w",
            "--inbox",
            "/i",
            "--state",
            "/s",
            "--orchestrator",
        ];
        Args::try_parse_from(base.iter().chain(words))
    }

    #[test]
    fn the_command_line_is_consistent_and_every_shown_option_has_a_variable() {
        Args::command().debug_assert();
        for option in Args::command().get_arguments().filter(|option| option.get_long().is_some()) {
            if !["help", "version"].contains(&option.get_id().as_str()) {
                assert!(option.get_env().is_some_and(|env| env.to_string_lossy().starts_with("PITWALL_")), "{option}");
            }
        }
    }

    #[test]
    fn an_agent_is_given_in_exactly_one_way() {
        let url = "http://127.0.0.1:1";
        assert_eq!(parse(&[url, "--pid", "7"]).unwrap().pid, Some(7));
        assert_eq!(parse(&[url, "--", "sh", "-c", "x"]).unwrap().command.len(), 3);
        let beside = parse(&[url]).unwrap();
        assert!(beside.pid.is_none() && beside.cgroup.is_none() && beside.command.is_empty());
        assert_eq!(beside.agent_restart, RestartedBy::Nobody);
        assert_eq!(parse(&[url, "--agent-restart", "engine"]).unwrap().agent_restart, RestartedBy::Engine);
        assert!(parse(&[url, "--pid", "7", "--", "sh"]).is_err());
        assert!(parse(&[url, "--pid", "1"]).is_err());
        assert!(parse(&[url, "--cgroup", "/c", "--pid", "7"]).is_err());
    }

    #[test]
    fn a_budget_is_a_share_of_one_core() {
        let of = |text| parse(&["http://127.0.0.1:1", "--cpu-budget", text]).map(|args| args.cpu_budget);
        assert_eq!(of("0.5%").unwrap(), Some(0.005));
        assert_eq!(of("2 %").unwrap(), Some(0.02));
        for text in ["0.5", "0%", "-1%", "101%", "nan%", "", "%"] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn plaintext_is_for_loopback_and_only_when_asked() {
        for (url, insecure, fits) in [
            ("http://127.0.0.1:7440", true, true),
            ("http://localhost:7440", true, true),
            ("http://[::1]:7440", true, true),
            ("http://127.0.0.1:7440", false, false),
            ("http://10.0.0.1:7440", true, false),
            ("http://localhost.example.org:7440", true, false),
            ("https://127.0.0.1:7440", true, false),
            ("https://pitwall.example:7440", false, true),
            ("127.0.0.1:7440", true, false),
            ("", true, false),
        ] {
            assert_eq!(usable(url, insecure).is_ok(), fits, "{url} {:?}", usable(url, insecure));
        }
        assert!(matches!(usable("http://10.0.0.1:1", false), Err(Unusable::NotLoopback(_))));
    }

    #[test]
    fn the_agent_cannot_be_given_its_sidecars_state() {
        let mut args = parse(&["http://127.0.0.1:1", "--insecure", "--pid", "7"]).unwrap();
        assert!(args.clone().checked().is_ok());
        args.state = "/w/.state".into();
        assert!(matches!(args.checked(), Err(Unusable::StateInWorkspace { .. })));
        let held = parse(&["http://127.0.0.1:1", "--insecure", "--pid", "7", "--launch-on-activation"]).unwrap();
        assert_eq!(held.checked().unwrap_err(), Unusable::NothingToLaunch);
    }
}
