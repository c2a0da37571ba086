//! The real binaries as processes that end with their guard.
use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// Lines of one stream that are kept for messages; more is dropped.
const LINES_KEPT: usize = 10_000;

/// Where binaries lie for whoever is no test: by name.
static PLACES: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());

/// From now on the binary of this name is that one.
pub fn place(name: &str, path: &Path) {
    PLACES.lock().expect("no test panics inside").insert(name.into(), path.into());
}

/// The binary of this name from the target folder that this test was built into, where it was not placed elsewhere.
pub fn path(name: &str) -> PathBuf {
    if let Some(path) = PLACES.lock().expect("no test panics inside").get(name) {
        return path.clone();
    }
    let test = env::current_exe().expect("a test knows its own path");
    let folder = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --workspace` first", path.display());
    path
}

/// A process of ours. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    out: Lines,
    err: Lines,
    /// An agent outlives its sidecar by design; the guard of the test ends both.
    outlived: Option<Outlived>,
}

/// What a killed sidecar leaves. Ends when dropped.
#[derive(Debug)]
pub struct Outlived {
    /// Its agent works at or below it.
    folder: PathBuf,
    /// The next life, which ends at once and with it all that the earlier one left.
    next: Command,
}

/// What a process printed so far.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn follow(stream: impl std::io::Read + Send + 'static) -> Self {
        let lines = Self::default();
        let into = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let mut lines = into.0.lock().expect("no reader panics");
                if lines.len() < LINES_KEPT {
                    lines.push(line);
                }
            }
        });
        lines
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().expect("no reader panics").clone()
    }
}

impl Running {
    pub fn start<A: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> Self {
        let mut command = Command::new(path(name));
        command.args(args).env_remove("PITWALL_ORCHESTRATOR");
        Self::spawn(name, command)
    }

    pub fn spawn(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let out = Lines::follow(child.stdout.take().expect("piped"));
        let err = Lines::follow(child.stderr.take().expect("piped"));
        Self { child, name: name.into(), out, err, outlived: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> Vec<String> {
        self.out.all()
    }

    pub fn stderr(&self) -> Vec<String> {
        self.err.all()
    }

    /// The first line of standard output that `find` accepts.
    pub fn line<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let begin = std::time::Instant::now();
        loop {
            if let Some(found) = self.out.all().iter().find_map(|line| find(line)) {
                return found;
            }
            let ended = self.child.try_wait().ok().flatten();
            assert!(
                ended.is_none() && begin.elapsed() < Duration::from_secs(10) * wait::SLACK,
                "{} told no {what} (ended: {ended:?})\nstdout: {:#?}\nstderr: {:#?}",
                self.name,
                self.stdout(),
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{} cannot be signalled: {error}", self.name));
    }

    /// After `KILL` or `STOP`, which take effect a moment later: it does nothing any more.
    pub fn stands_still(&self, killed: bool) {
        let tasks = format!("/proc/{}/task", self.pid());
        let still = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // Behind the name, which may have any character in it; nothing: the thread has ended.
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            state.is_none_or(|state| if killed { state == 'Z' || state == 'X' } else { state == 'T' })
        };
        wait::until_sync(&format!("{} stands still", self.name), Duration::from_secs(2), || {
            fs::read_dir(&tasks).into_iter().flatten().flatten().all(still).then_some(())
        });
    }

    /// `kill -9`, and gone. What outlives it lives on as long as the value that comes back.
    pub fn kill(mut self) -> Option<Outlived> {
        self.end();
        self.outlived.take()
    }

    /// Waits for the end that was asked for.
    pub fn ended(&mut self, promised: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        let child = &mut self.child;
        wait::until_sync(&what, promised, || child.try_wait().expect("it is our child"))
    }

    fn end(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
        drop(self.outlived.take());
        if std::thread::panicking() {
            eprintln!("--- {} stdout\n{}", self.name, self.stdout().join("\n"));
            eprintln!("--- {} stderr\n{}", self.name, self.stderr().join("\n"));
        }
    }
}

/// A real `pitwall serve` on a free port, with certificates where nothing else is said.
#[derive(Debug)]
pub struct Server {
    pub process: Running,
    pub url: String,
    /// Its data directory.
    pub data: PathBuf,
}

/// Where the operator's credential of a server lies, by its address. A port is another server's later on: the last counts.
static OPERATORS: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());

/// The credential with which an address is spoken to; `None`: plaintext.
pub fn operator(url: &str) -> Option<PathBuf> {
    OPERATORS.lock().expect("no test panics inside").get(url).cloned()
}

/// The credential for a server that something else than this process started.
pub fn introduce(url: &str, identity: &Path) {
    OPERATORS.lock().expect("no test panics inside").insert(url.into(), identity.into());
}

/// `pitwall` with these arguments, as the local operator of that server.
pub fn pitwall(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(path("pitwall"));
    command
        .args(args)
        .args(["--orchestrator", url])
        .env_remove("PITWALL_ORCHESTRATOR")
        .env("PITWALL_CONFIG", "/nonexistent");
    match operator(url) {
        Some(directory) => command.arg("--identity").arg(directory),
        None => command.arg("--insecure"),
    };
    command
}

impl Server {
    /// Serves this plan with its journal in `dir/data`.
    pub fn start(dir: &Path, plan: &str) -> Self {
        Self::start_with(dir, plan, &[])
    }

    /// The same with more options.
    pub fn start_with(dir: &Path, plan: &str, more: &[&str]) -> Self {
        let file = dir.join("plan.yaml");
        fs::write(&file, plan).expect("the plan can be written");
        Self::serve_with(&file, &dir.join("data"), "127.0.0.1:0", more)
    }

    pub fn serve(plan: &Path, data: &Path, listen: &str) -> Self {
        Self::serve_with(plan, data, listen, &[])
    }

    pub fn serve_with(plan: &Path, data: &Path, listen: &str, more: &[&str]) -> Self {
        let mut command = Command::new(path("pitwall"));
        command.arg("serve").arg("--plan").arg(plan).arg("--data").arg(data).args(["--listen", listen]).args(more);
        Self::spawn(command, data)
    }

    /// From a command that ends in `pitwall serve`.
    pub fn spawn(mut command: Command, data: &Path) -> Self {
        command.env_remove("PITWALL_ORCHESTRATOR");
        let mut process = Running::spawn("pitwall", command);
        let url = process.line("address", |line| {
            let at = line.find(" on http")? + " on ".len();
            Some(line[at..].split([' ', ',', ')']).next().unwrap_or_default().to_owned())
        });
        let mut operators = OPERATORS.lock().expect("no test panics inside");
        if url.starts_with("https") {
            operators.insert(url.clone(), data.join("identity/operator"));
        } else {
            operators.remove(&url);
        }
        Self { process, url, data: data.into() }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        self.url.split_once("://").map_or("", |(_, address)| address)
    }
}

/// A join token for an agent, in a file.
pub fn token(url: &str, agent: &str, file: &Path) {
    let output = pitwall(url, &["token", "create", "--agent", agent]).output().expect("it can be started");
    assert!(output.status.success(), "no token for {agent}: {}", String::from_utf8_lossy(&output.stderr));
    fs::write(file, output.stdout).expect("the token can be written");
}

/// A real `pitwall-sidecar` with its folders below `dir/AGENT`. Where the server has certificates and this one has none
/// yet, it joins with a fresh token.
pub fn sidecar(dir: &Path, url: &str, agent: &str, more: &[&str]) -> Running {
    sidecar_as(dir, url, agent, more, |_| {})
}

/// The same, from a command that was changed.
pub fn sidecar_as(dir: &Path, url: &str, agent: &str, more: &[&str], change: impl FnOnce(&mut Command)) -> Running {
    let mut command = sidecar_command(dir, url, agent, more);
    change(&mut command);
    let mut next = Command::new(command.get_program());
    next.arg("--until-stdin-eof").args(command.get_args());
    let mut running = Running::spawn("pitwall-sidecar", command);
    running.outlived = Some(Outlived { folder: dir.join(agent), next });
    running
}

pub fn sidecar_command(dir: &Path, url: &str, agent: &str, more: &[&str]) -> Command {
    let folder = |name: &str| {
        let folder = dir.join(agent).join(name);
        fs::create_dir_all(&folder).expect("the folder can be made");
        folder
    };
    let state = folder("state");
    let mut command = Command::new(path("pitwall-sidecar"));
    command.args(["--agent", agent, "--orchestrator", url]);
    if url.starts_with("https") {
        let file = dir.join(agent).join("token");
        let kept = fs::read_to_string(state.join("identity.json")).unwrap_or_default();
        if !kept.contains("BEGIN CERTIFICATE") && !file.exists() {
            token(url, agent, &file);
        }
        command.arg("--join-token-file").arg(file);
    } else {
        command.arg("--insecure");
    }
    // Where the test names its own, that one counts.
    if !more.contains(&"--workspace") {
        command.arg("--workspace").arg(folder("workspace"));
    }
    command.arg("--inbox").arg(folder("inbox")).arg("--state").arg(state).args(more);
    command
}

impl Drop for Outlived {
    fn drop(&mut self) {
        self.next.env("PITWALL_LAUNCH_ON_ACTIVATION", "true");
        self.next.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Where the agent is somebody else's there is nothing to undo, and this refuses to start.
        let _ = self.next.status();
        self.kill();
    }
}

impl Outlived {
    /// The next life has adopted it, and its guard ends it.
    pub fn is_anothers_now(self) {
        std::mem::forget(self);
    }

    /// The last resort: every process that works at or below the folder.
    fn kill(&self) {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            // Gone meanwhile, or not ours to read.
            if let Some(pid) = pid
                && fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&self.folder))
            {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}
