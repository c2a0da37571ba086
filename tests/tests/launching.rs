//! What a sidecar does before and after its agent: nothing for another's state, no options of its own for the agent,
//! and the agent's end with its own. No orchestrator answers: none is needed for this.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use pitwall_tests::{
    binaries::{self, Running},
    wait,
};
use rustix::process::{Pid, Signal, test_kill_process};

/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:1";
const SOON: Duration = Duration::from_secs(3);
/// The agent's grace and what the sidecar needs around it.
const ENDS_WITHIN: Duration = Duration::from_secs(7);

fn file(dir: &Path, agent: &str, name: &str) -> PathBuf {
    dir.join(agent).join(name)
}

fn written(path: &Path) -> String {
    wait::until_sync(&format!("{} is written", path.display()), SOON, || {
        fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'))
    })
}

#[test]
fn a_state_directory_of_another_agent_is_refused_before_anything_is_started() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut first =
        binaries::sidecar(dir.path(), NOWHERE, "writer", &["--", "sh", "-c", "echo on > started; sleep 600"]);
    written(&file(dir.path(), "writer", "workspace/started"));
    first.signal(Signal::TERM);
    assert_eq!(first.ended(ENDS_WITHIN).code(), Some(0), "{:#?}", first.stderr());
    fs::remove_file(file(dir.path(), "writer", "workspace/started")).expect("it is there");

    let mut command = Command::new(binaries::path("pitwall-sidecar"));
    command.args(["--agent", "reviewer", "--orchestrator", NOWHERE, "--insecure"]);
    for (option, folder) in [("--workspace", "workspace"), ("--inbox", "inbox"), ("--state", "state")] {
        command.arg(option).arg(file(dir.path(), "writer", folder));
    }
    command.args(["--", "sh", "-c", "echo on > started; sleep 600"]);
    let mut other = Running::spawn("pitwall-sidecar", command);
    assert_eq!(other.ended(SOON).code(), Some(1));
    let said = wait::until_sync("its reason", SOON, || Some(other.stderr().join("\n")).filter(|text| !text.is_empty()));
    assert!(said.contains("belongs to the sidecar of agent writer") && said.contains("--state"), "{said}");
    assert!(!file(dir.path(), "writer", "workspace/started").exists(), "the agent was started");
    assert!(!file(dir.path(), "writer", "state/agent.json").exists());
}

#[test]
fn a_hangup_ends_the_agent_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let command = ["--", "sh", "-c", "echo $$ > pid; exec sleep 600"];
    let mut sidecar = binaries::sidecar(dir.path(), NOWHERE, "writer", &command);
    let pid = written(&file(dir.path(), "writer", "workspace/pid")).trim().parse().ok().and_then(Pid::from_raw);
    let agent = pid.expect("a pid");
    test_kill_process(agent).expect("it lives");
    sidecar.signal(Signal::HUP);
    assert_eq!(sidecar.ended(ENDS_WITHIN).code(), Some(0), "{:#?}", sidecar.stderr());
    test_kill_process(agent).expect_err("it has ended");
}

#[test]
fn the_agent_does_not_inherit_what_the_sidecar_was_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let command = ["sh", "-c", "env > env; sleep 600"];
    let mut options = Command::new(binaries::path("pitwall-sidecar"));
    options.env("PITWALL_AGENT", "writer").env("PITWALL_ORCHESTRATOR", NOWHERE).env("PITWALL_INSECURE", "1");
    options.env("PITWALL_UNTIL_STDIN_EOF", "0").env("AGENTS_OWN", "stays").env("PITWALL_AGENTS_OWN", "stays too");
    for (variable, folder) in [("WORKSPACE", "workspace"), ("INBOX", "inbox"), ("STATE", "state")] {
        let folder = file(dir.path(), "writer", folder);
        fs::create_dir_all(&folder).expect("the folder can be made");
        options.env(format!("PITWALL_{variable}"), folder);
    }
    options.arg("--").args(command);
    let mut sidecar = Running::spawn("pitwall-sidecar", options);
    let env = written(&file(dir.path(), "writer", "workspace/env"));
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.ended(ENDS_WITHIN).code(), Some(0), "{:#?}", sidecar.stderr());
    let names: Vec<&str> = env.lines().filter_map(|line| line.split('=').next()).collect();
    for option in ["AGENT", "ORCHESTRATOR", "INSECURE", "UNTIL_STDIN_EOF", "WORKSPACE", "INBOX", "STATE"] {
        assert!(!names.contains(&&*format!("PITWALL_{option}")), "{names:?}");
    }
    assert!(names.contains(&"PITWALL_AGENTS_OWN"), "only what is the sidecar's is withheld: {names:?}");
    assert!(names.contains(&"AGENTS_OWN") && names.contains(&"PATH"), "{names:?}");
}
