//! The engine as a test sees it: is it there, what does it say, and the images, built once from this build's binaries.
use std::{
    env,
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use pitwall_tests::{binaries, surroundings};

pub const TAG: &str = "tests";

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the repository").to_owned()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Standard output of a program that has to succeed.
pub fn done(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", told(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub fn docker(args: &[&str]) -> String {
    done(Command::new("docker").args(args))
}

/// Whether it succeeded, and what it said.
pub fn tried(args: &[&str]) -> (bool, String) {
    let output = Command::new("docker").args(args).output().expect("docker is there");
    (output.status.success(), told(&output).trim().to_owned())
}

/// Both ways to speak compose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compose {
    /// `docker-compose` 1.29
    One,
    /// `docker compose`
    Two,
}

impl Compose {
    pub fn command(self) -> Command {
        match self {
            Self::One => Command::new("docker-compose"),
            Self::Two => {
                let mut command = Command::new("docker");
                command.arg("compose");
                command
            }
        }
    }

    fn need(self) -> &'static str {
        match self {
            Self::One => "compose1",
            Self::Two => "compose2",
        }
    }

    pub fn version(self) -> Result<String, String> {
        answers(self.command().args(["version", "--short"]))
    }
}

fn answers(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(told(&output).lines().next().unwrap_or("it failed").to_owned())
    }
}

/// Whether this test can run here; else it is told as skipped.
pub fn have(test: &str, compose: Compose) -> bool {
    let engine = answers(Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]));
    if !surroundings::have(test, "engine", engine.map(drop)) {
        return false;
    }
    if !surroundings::have(test, compose.need(), compose.version().map(drop)) {
        return false;
    }
    images();
    true
}

/// Where limits are read from outside.
pub fn have_cgroup1(test: &str) -> bool {
    let there = Path::new("/sys/fs/cgroup/cpu/cpu.shares").exists() || Path::new("/sys/fs/cgroup/cpu/tasks").exists();
    let found = if there { Ok(()) } else { Err("cgroups of version 1 with a cpu controller are not mounted".into()) };
    surroundings::have(test, "cgroup1", found)
}

fn images() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let binary = binaries::path("pitwall");
        assert!(binaries::path("pitwall-sidecar").exists());
        let folder = binary.parent().expect("a binary lies in a folder");
        done(Command::new(root().join("tests/containers/images.sh")).arg(folder).arg(TAG));
    });
}

/// By the line of README and of `compose.cgroup1.yaml`; what other stacks still use stays. Gives what is left.
pub fn remove_cgroup_folders() -> String {
    let line = "find /sys/fs/cgroup/*/pitwall -depth -type d -exec rmdir {} + 2>/dev/null";
    done(Command::new("sh").args(["-c", &format!("{line}; ls -d /sys/fs/cgroup/cpu/pitwall 2>&1; true")]))
}

/// Says what was seen from outside; `.ci/run` prints the file last.
pub fn proven(item: &str, test: &str, value: &str) {
    let line = format!("{item}  [{test}]  {}", value.replace('\n', " | "));
    println!("PROVEN {line}");
    if let Some(file) = env::var_os("PITWALL_PROOFS") {
        let file = OpenOptions::new().create(true).append(true).open(file);
        let _ = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    }
}
