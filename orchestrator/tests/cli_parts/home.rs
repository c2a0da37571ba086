//! A folder in which nothing else runs, and servers in it that end with the test.
use std::{
    fs,
    io::{BufRead as _, BufReader, Lines, Write as _},
    process::{Child, ChildStderr, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The example of the design.
pub const EXAMPLE: &str = r#"
project: talent-platform
defaults:
  expected_within: 2m
  stall_after: 5m
  misdirected_after: 10m
  quota: { cpu: 2, memory: 2GiB, pids: 512 }
agents:
  backend:
    inbox: /inbox            # where directives are put for it
    deliverables:
      talents-api:
        title: GET /api/talents
        estimate: 20m
        weight: 3
        checks:
          - file: { path: app/api/talents/route.ts, contains: "export async function GET", forbids: [TODO] }
          - http: { url: "http://backend:3000/api/talents", status: 200, json: { /talents/0/id: present } }
  frontend:
    deliverables:
      talent-list:
        needs: [backend/talents-api]
        checks: [ { file: { path: app/talents/page.tsx } } ]
  design:
    expected_within: 10m
    deliverables:
      tokens: { checks: [ { directory: { path: design-system, min_files: 3 } } ] }
"#;

pub const PLAN: &str = "\
project: night
agents:
  backend: { deliverables: { api: { estimate: 10m, checks: [ \"file: app/route.ts\" ] } } }
  frontend: { deliverables: { page: { needs: [backend/api], checks: [ \"file: app/page.tsx\" ] } } }
";

/// The server prints its address once it serves.
const STARTED_WITHIN: Duration = Duration::from_secs(20);

pub struct Home {
    dir: tempfile::TempDir,
}

pub struct Told {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a folder") }
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).expect("written");
    }

    /// Servers outside this folder are not found by it, and it inherits no settings.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pitwall"));
        command.args(args).current_dir(self.dir.path()).env("XDG_RUNTIME_DIR", self.dir.path()).stdin(Stdio::null());
        for name in ["ORCHESTRATOR", "INSECURE", "PROJECT", "OUTPUT", "LOG", "PLAN", "DATA", "LISTEN"] {
            command.env_remove(format!("PITWALL_{name}"));
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Told {
        self.run_with(args, "")
    }

    pub fn run_with(&self, args: &[&str], input: &str) -> Told {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        // Small enough for the pipe, and it may not be read at all.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("ended");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Told { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let told = self.run(&[args, &["--output", "json"]].concat());
        assert_eq!(told.code, 0, "{args:?}: {}", told.stderr);
        serde_json::from_str(&told.stdout).expect("one JSON document")
    }

    pub fn serve(&self, plan: &str) -> Server {
        self.serve_in("data", plan)
    }

    pub fn serve_in(&self, data: &str, plan: &str) -> Server {
        self.write("served.yaml", plan);
        self.start(data)
    }

    /// The same plan and journal, after the first one was killed.
    pub fn serve_again(&self) -> Server {
        self.start("data")
    }

    fn start(&self, data: &str) -> Server {
        let args = ["serve", "--plan", "served.yaml", "--data", data, "--listen", "127.0.0.1:0", "--insecure"];
        let mut command = self.command(&args);
        // The pipe's end is the server's end, even when the test is killed.
        command.arg("--until-stdin-eof").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("started");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = tell.send(line);
        });
        let line = told.recv_timeout(STARTED_WITHIN).expect("the server says where it serves");
        let at = line.find("http://").unwrap_or_else(|| panic!("no address in {line:?}"));
        let url = line[at..].split_whitespace().next().expect("an address").to_owned();
        Server { child, url }
    }

    /// A command that was issued, as its first receipt says, and waits; with the rest of what it says.
    pub fn waiting(&self, args: &[&str]) -> (Guard, Lines<BufReader<ChildStderr>>) {
        let mut command = self.command(args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let first = lines.next().expect("a receipt").expect("UTF-8");
        assert!(first.contains("QUEUED"), "{first}");
        (Guard::new(child), lines)
    }
}

/// Killed when dropped, as by `kill -9`.
pub struct Server {
    child: Child,
    pub url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that must not outlive its test.
pub struct Guard(Child);

impl Guard {
    pub fn new(child: Child) -> Self {
        Self(child)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl std::ops::Deref for Guard {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

/// Ctrl-C.
pub fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
}

/// Its exit code, waited for.
pub fn ended(child: &mut Child, within: Duration) -> Option<i32> {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        thread::sleep(Duration::from_millis(20));
    }
    None
}
