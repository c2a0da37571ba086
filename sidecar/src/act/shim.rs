//! The hidden subcommands of this program, each a process of its own:
//!
//! - `exec-in`: moves itself to the agent's cgroups, begins a session, waits until its identity is recorded, and
//!   becomes the agent's command. So the agent is in its cgroup from its first instruction, and a sidecar that dies
//!   in between leaves nothing: the gate closes unopened.
//! - `join-only`: tries whether a process may move to a cgroup.
//! - `guardian`: see `guardian`.
//! - `thaw`: see `thaw`.
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{guardian, thaw};

const EXEC_IN: &str = "exec-in";
const JOIN_ONLY: &str = "join-only";
/// Opens the gate.
pub const GO: u8 = b'g';
/// As a shell would say it.
const CANNOT_EXEC: u8 = 127;

/// See `act::hidden`.
pub fn run(args: &[OsString]) -> Option<u8> {
    let (first, rest) = args.split_first()?;
    if first == EXEC_IN {
        return Some(match exec_in(rest) {
            Ok(never) => match never {},
            Err(why) => {
                // Standard output is the pipe to the sidecar.
                let _ = std::io::stdout().write_all(why.as_bytes());
                CANNOT_EXEC
            }
        });
    }
    if first == JOIN_ONLY {
        return Some(u8::from(rest.first().is_none_or(|d| join(Path::new(d)).is_err())));
    }
    if first == guardian::NAME {
        return Some(guardian::run(rest));
    }
    if first == thaw::NAME {
        return Some(thaw::run(rest));
    }
    None
}

pub fn join_only(directory: &Path) -> [OsString; 2] {
    [JOIN_ONLY.into(), directory.as_os_str().to_owned()]
}

pub fn exec_in(args: &[OsString]) -> Result<std::convert::Infallible, String> {
    let task = Task::parse(args)?;
    // Until the exec succeeds, a copy that closes itself by it: then the sidecar sees the end of the pipe.
    let status = std::io::stdout().as_fd().try_clone_to_owned().map_err(|e| format!("no pipe to the sidecar: {e}"))?;
    let failed = |why: String| {
        let _ = std::fs::File::from(status.try_clone().ok()?).write_all(why.as_bytes());
        Some(())
    };
    let result = (|| {
        for directory in &task.cgroups {
            join(directory).map_err(|e| format!("cannot move to the cgroup {}: {e}", directory.display()))?;
        }
        rustix::process::setsid().map_err(|e| format!("cannot begin a session: {e}"))?;
        let mut gate = [0];
        match std::io::stdin().read(&mut gate) {
            Ok(1) if gate[0] == GO => {}
            Ok(_) | Err(_) => return Err("the sidecar ended before it recorded this process".to_owned()),
        }
        let log = OpenOptions::new().append(true).create(true).open(&task.log);
        let log = log.map_err(|e| format!("{} cannot be written: {e}", task.log.display()))?;
        let log_too = log.try_clone().map_err(|e| e.to_string())?;
        let mut command = Command::new(&task.command);
        command.args(&task.args).stdin(Stdio::null()).stdout(log).stderr(log_too);
        let why = command.exec();
        Err(format!("{} cannot be started: {why}", task.command.to_string_lossy()))
    })();
    if let Err(why) = &result {
        failed(why.clone());
    }
    // Said already: nothing more on a standard output that may be the log by now.
    result.map_err(|_| String::new())
}

/// 0 means "the one that writes".
fn join(directory: &Path) -> std::io::Result<()> {
    std::fs::write(directory.join("cgroup.procs"), "0")
}

#[derive(Debug, PartialEq)]
struct Task {
    cgroups: Vec<PathBuf>,
    log: PathBuf,
    command: OsString,
    args: Vec<OsString>,
}

impl Task {
    fn parse(args: &[OsString]) -> Result<Self, String> {
        let mut task = Self { cgroups: Vec::new(), log: PathBuf::new(), command: OsString::new(), args: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().ok_or_else(|| format!("{} lacks a value", arg.to_string_lossy()));
            if arg == "--cgroup" {
                task.cgroups.push(value()?.into());
            } else if arg == "--log" {
                task.log = value()?.into();
            } else if arg == "--" {
                task.command = value()?;
                task.args = args.cloned().collect();
                return Ok(task);
            } else {
                return Err(format!("unknown argument {}", arg.to_string_lossy()));
            }
        }
        Err("no command was given".into())
    }
}

/// Arguments of `exec-in`.
pub fn exec_in_args(cgroups: Vec<OsString>, log: &Path, command: &[OsString]) -> Vec<OsString> {
    let mut args = vec![OsString::from(EXEC_IN)];
    args.extend(cgroups);
    args.extend([OsStr::new("--log").to_owned(), log.as_os_str().to_owned(), OsStr::new("--").to_owned()]);
    args.extend(command.iter().cloned());
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_launcher_writes_the_shim_reads() {
        let command: Vec<OsString> = ["sh", "-c", "--", "--log"].map(OsString::from).to_vec();
        let cgroups = ["--cgroup", "/a b"].map(OsString::from).to_vec();
        let args = exec_in_args(cgroups, Path::new("/log"), &command);
        assert_eq!(args[0], EXEC_IN);
        let task = Task::parse(&args[1..]).unwrap();
        assert_eq!(task.cgroups, [PathBuf::from("/a b")]);
        assert_eq!((task.log, task.command), (PathBuf::from("/log"), OsString::from("sh")));
        assert_eq!(task.args, command[1..]);
    }

    #[test]
    fn other_words_are_not_subcommands_and_broken_ones_are_errors() {
        assert_eq!(run(&[]), None);
        assert_eq!(run(&["--agent".into(), "x".into()]), None);
        for broken in [vec!["--cgroup"], vec!["--what"], vec!["--log", "x"], vec!["--"]] {
            let broken: Vec<OsString> = broken.into_iter().map(OsString::from).collect();
            assert!(Task::parse(&broken).is_err());
        }
    }
}
