//! The real binary, ended with the test whatever happens.
use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use super::SLACK;

pub struct Serving {
    child: Child,
    pub url: String,
    pub line: String,
    stderr: Arc<Mutex<String>>,
}

pub fn serve_command(plan: &Path, data: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pitwall"));
    command.args([
        OsStr::new("serve"),
        OsStr::new("--plan"),
        plan.as_os_str(),
        OsStr::new("--data"),
        data.as_os_str(),
        OsStr::new("--listen"),
        OsStr::new(listen),
        OsStr::new("--insecure"),
    ]);
    command
}

impl Serving {
    pub fn start(plan: &Path, data: &Path) -> Self {
        Self::spawn(serve_command(plan, data, "127.0.0.1:0"))
    }

    pub fn spawn(command: Command) -> Self {
        Self::try_spawn(command).unwrap_or_else(|(status, said)| panic!("it does not serve: {status}; it said: {said}"))
    }

    /// `Err`: how it ended instead of serving, and what it said.
    pub fn try_spawn(mut command: Command) -> Result<Self, (ExitStatus, String)> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = collect(child.stderr.take().unwrap());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap_or_default().to_owned();
        if url.is_empty() {
            let status = child.wait().unwrap();
            // Its last words may be on their way.
            let end = Instant::now() + SLACK;
            while Arc::strong_count(&stderr) > 1 && Instant::now() < end {
                thread::sleep(Duration::from_millis(5));
            }
            let said = stderr.lock().unwrap().clone();
            return Err((status, said));
        }
        Ok(Self { child, url, line, stderr })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// `kill -9`, and gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub fn ended_within(&mut self, promised: Duration) -> ExitStatus {
        let end = Instant::now() + promised + SLACK;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it did not end; it said: {}", self.stderr());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- serve\n{}", self.stderr());
        }
    }
}

fn collect(mut from: ChildStderr) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let into = text.clone();
    thread::spawn(move || {
        let mut buffer = [0; 4_096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    });
    text
}
