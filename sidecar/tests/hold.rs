//! The program that holds an agent, and what a sidecar does about it: the two agree on one file.
#![allow(clippy::unwrap_used, reason = "a test says by it what must be there")]

use std::{
    fs,
    io::ErrorKind,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use pitwall_sidecar::act::held::Held;

const HOLD: &str = env!("CARGO_BIN_EXE_hold");
const SIDECAR: &str = env!("CARGO_BIN_EXE_pitwall-sidecar");
const SLACK: Duration = Duration::from_secs(10);

/// Killed and reaped when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut seen: impl FnMut() -> bool) {
    let deadline = Instant::now() + SLACK;
    while !seen() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child of another test, between its fork and its exec, may still hold a program as it was written.
fn started(command: &mut Command) -> Child {
    let mut child = None;
    until("it can be started", || match command.spawn() {
        Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => false,
        spawned => child.replace(spawned.unwrap()).is_none(),
    });
    child.unwrap()
}

fn command_line(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}

#[test]
fn it_holds_until_it_is_activated_and_then_is_the_command_itself() {
    let inbox = tempfile::tempdir().unwrap();
    let held = Held::new(inbox.path());
    held.share(Path::new(SIDECAR), |_| false).unwrap();
    let program = inbox.path().join("hold");
    let start = || {
        let mut command = Command::new(&program);
        Running(started(command.args(["--", "sleep", "600"]).stderr(Stdio::null())))
    };
    let first = start();
    let pid = first.0.id();
    until("it runs", || command_line(pid).contains("hold -- sleep 600"));
    held.activate().unwrap();
    until("it is the command", || command_line(pid).trim() == "sleep 600");
    // An activation stands: the container that is started again does not hold.
    let again = start();
    until("it is the command at once", || command_line(again.0.id()).trim() == "sleep 600");
}

#[test]
fn wrong_use_and_commands_that_cannot_be_started_are_told() {
    let inbox = tempfile::tempdir().unwrap();
    Held::new(inbox.path()).activate().unwrap();
    let program = inbox.path().join("hold");
    fs::copy(HOLD, &program).unwrap();
    for (words, code, said) in [
        (vec![], 2, "give the command"),
        (vec!["sleep"], 2, "give the command"),
        (vec!["--"], 2, "give the command"),
        (vec!["--", "/nowhere/at/all"], 127, "/nowhere/at/all cannot be started"),
    ] {
        let mut command = Command::new(&program);
        let output =
            started(command.args(&words).stdout(Stdio::piped()).stderr(Stdio::piped())).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{words:?}: {output:?}");
    }
}

/// Beside no pause everything of this machine would be the agent.
#[test]
fn without_a_pause_nothing_is_taken_for_the_agent() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).display().to_string();
    for words in [vec![], vec!["doctor"]] {
        let output = Command::new(SIDECAR)
            .args(&words)
            .args(["--agent", "a", "--workspace", &path("w"), "--inbox", &path("i"), "--state", &path("s")])
            .args(["--orchestrator", "http://127.0.0.1:9", "--insecure"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("is no pause") && said.contains("--cgroup"), "{said}");
    }
}
