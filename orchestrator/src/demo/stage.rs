//! The processes of a demo: one `pitwall serve`, the sidecars, and through them the agents, all below one temporary
//! directory. Every process ends when its standard input does, and agents when the lifeline does, so that the death
//! of the demo by whatever cause is the end of them all. Dropping the stage ends them too.
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead as _, BufReader},
    os::unix::fs::{DirBuilderExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::{
    fs::{CWD, FlockOperation, Mode, flock, mkfifoat},
    process::{Pid, Signal, kill_process},
};

use super::{
    cast::Role,
    night::{self, Night, Places},
    plan::Ports,
    ports::Reserved,
};
use crate::identity::{authority, setup};

const PREFIX: &str = "pitwall-demo-";
/// How long the server may take until it says where it listens.
const SERVE_WITHIN: Duration = Duration::from_secs(20);
/// How long sidecars have to end their agents and undo what they did, and the server to drain.
const SIDECARS_END_WITHIN: Duration = Duration::from_secs(12);
const SERVER_ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How long the next life of a sidecar that was killed has, to undo what that one left.
const AFTERLIFE_WITHIN: Duration = Duration::from_secs(5);
/// A sidecar joins at its start.
const SECRETS_FOR: Duration = Duration::from_secs(600);
/// An abandoned directory without a lock is somebody's who is just starting, for so long.
const STARTING_FOR: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Stage {
    pub places: Places,
    pub ports: Ports,
    pub url: String,
    server: Option<Child>,
    sidecars: Vec<Sidecar>,
    /// The end of the lifeline that agents hold on to.
    lifeline: Option<File>,
    _reserved: [Reserved; 2],
    _lock: File,
    keep_files: bool,
}

#[derive(Debug)]
struct Sidecar {
    name: String,
    command: Command,
    child: Child,
}

impl Stage {
    /// Starts everything; what fails on the way ends what was started before.
    pub fn set(night: &Night) -> Result<Self> {
        let temporary = std::env::temp_dir();
        sweep(&temporary);
        let (root, lock) = make_root(&temporary).context("the demo's directory cannot be made")?;
        let reserved = [
            Reserved::new().context("no port of loopback can be reserved")?,
            Reserved::new().context("no port of loopback can be reserved")?,
        ];
        let ports = Ports { api: reserved[0].port(), database: reserved[1].port(), by_name: false };
        let mut stage = Self {
            places: Places { root, contained: false },
            ports,
            url: String::new(),
            server: None,
            sidecars: Vec::new(),
            lifeline: None,
            _reserved: reserved,
            _lock: lock,
            keep_files: false,
        };
        let pitwall = std::env::current_exe().context("this program's own path is not known")?;
        let sidecar = pitwall.with_file_name("pitwall-sidecar");
        if !sidecar.is_file() {
            bail!("{} is not there: `cargo build --release` makes both programs", sidecar.display());
        }
        stage.furnish(night, &pitwall).context("the demo's files cannot be written")?;
        stage.make_secrets(night)?;
        stage.start_server(&pitwall)?;
        for role in night.watched() {
            stage.start_sidecar(night, role, &sidecar)?;
        }
        Ok(stage)
    }

    /// Plan, parts, directories, programs by their own names, lifeline.
    fn furnish(&mut self, night: &Night, pitwall: &Path) -> io::Result<()> {
        let places = &self.places;
        for directory in ["parts", "bin", "logs"] {
            fs::create_dir(places.root.join(directory))?;
        }
        fs::write(places.plan(), night.yaml(self.ports))?;
        night::save_parts(night, places, self.ports)?;
        for role in super::cast::ROLES {
            for what in ["workspace", "inbox", "state"] {
                fs::create_dir_all(places.of(night.cast.name(role), what))?;
            }
            symlink(pitwall, places.program(&night.program(role)))?;
        }
        fs::create_dir_all(self.elsewhere())?;
        symlink(pitwall, places.program(&night.cast.runaway))?;
        mkfifoat(CWD, places.lifeline(), Mode::from_raw_mode(0o600))?;
        // For reading too: opening for writing alone waits for the first agent.
        self.lifeline = Some(OpenOptions::new().read(true).write(true).open(places.lifeline())?);
        Ok(())
    }

    /// Where directives go that are meant not to arrive.
    fn elsewhere(&self) -> PathBuf {
        self.places.root.join("elsewhere")
    }

    fn data(&self) -> PathBuf {
        self.places.root.join("data")
    }

    fn secrets(&self) -> PathBuf {
        self.places.root.join("secrets")
    }

    /// The credential with which the demo itself connects.
    pub fn operator(&self) -> PathBuf {
        authority::directory(&self.data()).join("operator")
    }

    /// As `pitwall setup` does: authority, and a join secret for each sidecar, before the server runs.
    fn make_secrets(&self, night: &Night) -> Result<()> {
        let parsed = pitwall_core::plan::parse(&night.yaml(self.ports), "plan.yaml")
            .map_err(|mistakes| anyhow!("the demo's plan is wrong:\n{}", mistakes.render(false)))?;
        setup::run(&parsed.plan, &self.data(), &self.secrets(), SECRETS_FOR)
            .context("the demo's certificates cannot be made")?;
        Ok(())
    }

    fn start_server(&mut self, pitwall: &Path) -> Result<()> {
        let mut command = Command::new(pitwall);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--until-stdin-eof", "--plan"])
            .arg(self.places.plan())
            .arg("--data")
            .arg(self.data())
            .stdout(Stdio::piped());
        let mut server = self.spawn("serve", &mut command)?;
        let stdout = server.stdout.take();
        self.server = Some(server);
        let (tell, told) = mpsc::channel();
        // Reads on after the address is known: a full pipe would stop the server.
        thread::Builder::new().name("serve-stdout".into()).spawn(move || {
            for line in stdout.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
                if let Some(url) = url(&line) {
                    tell.send(url).ok();
                }
            }
        })?;
        match told.recv_timeout(SERVE_WITHIN) {
            Ok(url) => self.url = url,
            Err(_) => bail!("the server did not say where it listens:\n{}", self.tail("serve")),
        }
        Ok(())
    }

    fn start_sidecar(&mut self, night: &Night, role: Role, sidecar: &Path) -> Result<()> {
        let (name, places) = (night.cast.name(role), &self.places);
        let suppressed = role == Role::Backend && night.variant.suppress_inbox;
        let inbox = if suppressed { self.elsewhere() } else { places.of(name, "inbox") };
        let mut command = Command::new(sidecar);
        command
            .args(["--until-stdin-eof", "--agent", name, "--orchestrator", &self.url])
            .arg("--workspace")
            .arg(places.of(name, "workspace"))
            .arg("--inbox")
            .arg(inbox)
            .arg("--state")
            .arg(places.of(name, "state"))
            .arg("--join-token-file")
            .arg(setup::secret_file(&self.secrets(), name));
        if night.held(role) {
            command.arg("--launch-on-activation");
        }
        command.arg("--").arg(places.program(&night.program(role))).arg("demo-agent").arg(places.part(name));
        command.stdout(Stdio::null());
        let child = self.spawn(&format!("sidecar-{name}"), &mut command)?;
        self.sidecars.push(Sidecar { name: name.to_owned(), command, child });
        Ok(())
    }

    fn spawn(&self, name: &str, command: &mut Command) -> Result<Child> {
        let log = File::create(self.places.log(name)).with_context(|| format!("the log of {name} cannot be made"))?;
        // What the person who runs the demo has set for everyday use must not reach its processes.
        for variable in std::env::vars_os().map(|(name, _)| name).filter(|n| is_ours(n)) {
            command.env_remove(variable);
        }
        command.stdin(Stdio::piped()).stderr(log);
        command.spawn().with_context(|| format!("{name} cannot be started"))
    }

    /// A process that should live and does not, with the end of its log.
    pub fn casualty(&mut self) -> Option<String> {
        let server = self.server.iter_mut().map(|child| ("serve".to_owned(), child));
        let sidecars = self.sidecars.iter_mut().map(|s| (format!("sidecar-{}", s.name), &mut s.child));
        let dead = server.chain(sidecars).find_map(|(name, child)| {
            let status = child.try_wait().ok().flatten()?;
            Some((name, status))
        });
        dead.map(|(name, status)| format!("{name} ended with {status}:\n{}", self.tail(&name)))
    }

    fn tail(&self, name: &str) -> String {
        let log = fs::read_to_string(self.places.log(name)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Logs and journal stay where they are, to be looked at.
    pub fn keep_files(&mut self) {
        // So that the next demo does not sweep them away.
        self.keep_files = fs::write(self.places.root.join("kept"), "").is_ok();
    }

    /// Ends agents, sidecars and server, in that order, each within its time. Returns what had to be killed.
    pub fn end(&mut self) -> Vec<String> {
        let mut killed = Vec::new();
        for sidecar in &mut self.sidecars {
            drop(sidecar.child.stdin.take());
        }
        let until = Instant::now() + SIDECARS_END_WITHIN;
        for mut sidecar in self.sidecars.drain(..) {
            match gone_by(&mut sidecar.child, until) {
                Some(status) if status.success() => continue,
                Some(_) => {}
                None => killed.push(format!("sidecar-{}", sidecar.name)),
            }
            sidecar.next_life_undoes();
        }
        if let Some(mut server) = self.server.take() {
            drop(server.stdin.take());
            if gone_by(&mut server, Instant::now() + SERVER_ENDS_WITHIN).is_none() {
                killed.push("serve".into());
            }
        }
        drop(self.lifeline.take());
        killed.extend(kill_left_behind(&self.places.root));
        killed
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.end();
        if !self.keep_files {
            fs::remove_dir_all(&self.places.root).ok();
        }
    }
}

fn is_ours(variable: &std::ffi::OsStr) -> bool {
    variable.to_str().is_some_and(|name| name.starts_with("PITWALL_") && name != "PITWALL_LOG")
}

fn url(line: &str) -> Option<String> {
    let rest = &line[line.find("https://")?..];
    rest.split_whitespace().next().map(|url| url.trim_end_matches([',', ')', '.']).to_owned())
}

impl Sidecar {
    /// One that was killed left its agent and what it made for it: a life that ends at once adopts and undoes both.
    fn next_life_undoes(mut self) {
        self.command.stdin(Stdio::null()).env("PITWALL_LAUNCH_ON_ACTIVATION", "true");
        if let Ok(mut child) = self.command.spawn() {
            gone_by(&mut child, Instant::now() + AFTERLIFE_WITHIN);
        }
    }
}

/// Waits until then, and kills what is left: then there is no status.
fn gone_by(child: &mut Child, until: Instant) -> Option<ExitStatus> {
    while Instant::now() < until {
        match child.try_wait() {
            Ok(None) => thread::sleep(Duration::from_millis(20)),
            Ok(status) => return status,
            Err(_) => return None,
        }
    }
    child.kill().ok();
    child.wait().ok();
    None
}

/// Processes of this stage that outlived its end: those that run a part, or hold a directory, of it.
fn kill_left_behind(root: &Path) -> Vec<String> {
    // Agents end by themselves when the lifeline does.
    let until = Instant::now() + Duration::from_secs(2);
    let mut left = processes_of(root);
    while !left.is_empty() && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
        left = processes_of(root);
    }
    let mut killed = Vec::new();
    for (pid, what) in left {
        if let Some(pid) = Pid::from_raw(pid) {
            kill_process(pid, Signal::KILL).ok();
            killed.push(what);
        }
    }
    killed
}

/// Other processes whose command line names this directory.
fn processes_of(root: &Path) -> Vec<(i32, String)> {
    let mark = root.as_os_str().as_encoded_bytes();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let ours = line.windows(mark.len()).any(|window| window == mark);
            let text = String::from_utf8_lossy(&line).replace('\0', " ");
            ours.then(|| (pid, format!("{} (pid {pid})", text.split(' ').next().unwrap_or_default())))
        })
        .collect()
}

/// A fresh directory that nobody else may enter, and the lock that says that its demo lives.
fn make_root(temporary: &Path) -> io::Result<(PathBuf, File)> {
    let moment = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    for n in 0..100_u32 {
        let root = temporary.join(format!("{PREFIX}{}-{}", std::process::id(), moment.wrapping_add(n)));
        match DirBuilder::new().mode(0o700).create(&root) {
            Ok(()) => {
                let lock = File::create(root.join("lock"))?;
                flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
                return Ok((root, lock));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no free name in the temporary directory"))
}

/// Removes what killed demos left in the temporary directory. Whatever cannot be removed stays.
fn sweep(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(PREFIX))) {
        let root = entry.path();
        let abandoned = match File::open(root.join("lock")) {
            Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
            Err(_) => {
                let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
                age.is_some_and(|age| age > STARTING_FOR)
            }
        };
        // Kept for somebody to look at, as `keep_files` says.
        if abandoned && !root.join("kept").exists() {
            fs::remove_dir_all(root).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_what_the_server_says() {
        let line = "pitwall: serving night on https://127.0.0.1:40123 (data /tmp/x, lineage a, epoch 1)";
        assert_eq!(url(line).as_deref(), Some("https://127.0.0.1:40123"));
        assert_eq!(url("no address"), None);
    }

    #[test]
    fn only_abandoned_directories_are_swept() {
        let temporary = tempfile::tempdir().expect("a folder");
        let (living, lock) = make_root(temporary.path()).expect("made");
        let (dead, dead_lock) = make_root(temporary.path()).expect("made");
        let (kept, kept_lock) = make_root(temporary.path()).expect("made");
        fs::write(kept.join("kept"), "").expect("written");
        let starting = temporary.path().join(format!("{PREFIX}starting"));
        fs::create_dir(&starting).expect("made");
        let other = temporary.path().join("other");
        fs::create_dir(&other).expect("made");
        drop((dead_lock, kept_lock));
        sweep(temporary.path());
        assert!(!dead.exists());
        assert!([&living, &kept, &starting, &other].iter().all(|path| path.exists()));
        drop(lock);
    }
}
