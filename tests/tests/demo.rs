//! The demo as a person runs it: the real binaries, the night with every trouble and without each of them, and that
//! nothing is left of it however it ends. One night at a time: agents burn CPU, and two cores must be enough.
use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use pitwall_tests::{
    binaries::{self, Running},
    surroundings, wait,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// What the product promises of a short night.
const SHORT_NIGHT: Duration = Duration::from_secs(30);
/// The demo's own limits for ending agents, sidecars and the server.
const ENDS_WITHIN: Duration = Duration::from_secs(12);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A test that failed holds nothing that another needs.
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a demo keeps everything; what it leaves can be told by this path.
struct Place {
    folder: tempfile::TempDir,
    /// Names of the cgroups of its agents, as far as sidecars were seen at work. The machine has others too.
    cgroups: Arc<Mutex<BTreeSet<String>>>,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a folder"), cgroups: Arc::default() };
        let (mark, cgroups) = (place.mark(), Arc::downgrade(&place.cgroups));
        // Until the place is gone.
        thread::spawn(move || {
            while let Some(cgroups) = cgroups.upgrade() {
                let seen = processes(&mark).into_iter().filter_map(|(_, line)| cgroup_of(&line));
                cgroups.lock().expect("nobody panics with it").extend(seen);
                thread::sleep(Duration::from_millis(100));
            }
        });
        place
    }

    fn mark(&self) -> String {
        self.folder.path().to_str().expect("a plain path").to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binaries::path("pitwall"));
        command.arg("demo").args(args).env("TMPDIR", self.folder.path());
        command
    }

    /// Processes that belong to this demo, itself left out, with their command lines.
    fn processes(&self) -> Vec<(Pid, String)> {
        processes(&self.mark())
    }

    fn demo_folders(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).expect("it is there").flatten();
        entries.filter(|e| e.file_name().to_string_lossy().starts_with("pitwall-demo-")).map(|e| e.path()).collect()
    }

    /// Whatever lies here, but for the directory in which all servers of a user announce themselves.
    fn files(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).expect("it is there").flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    walk(&entry.path(), found);
                } else {
                    found.push(entry.path());
                }
            }
        }
        let mut found = self.demo_folders();
        walk(self.folder.path(), &mut found);
        found
    }

    /// No process, cgroup or port: a port is held by a process only.
    fn nothing_is_left(&self) {
        wait::until_sync("the end of every process of the demo", ENDS_WITHIN, || {
            self.processes().is_empty().then_some(())
        });
        let names = self.cgroups.lock().expect("nobody panics with it").clone();
        assert!(names.len() > 5, "the cgroups of the agents were not seen: {names:?}");
        let mut left = Vec::new();
        find(Path::new("/sys/fs/cgroup"), 4, &names, &mut left);
        assert!(left.is_empty(), "cgroups are left: {left:?}");
    }
}

fn processes(mark: &str) -> Vec<(Pid, String)> {
    let pids = fs::read_dir("/proc").expect("linux").flatten();
    let pids = pids.filter_map(|e| Pid::from_raw(e.file_name().to_str()?.parse().ok()?));
    let line = |pid: Pid| fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_pid())).ok();
    let lines = pids.filter_map(|pid| Some((pid, line(pid)?.replace('\0', " "))));
    lines.filter(|(_, line)| line.contains(mark)).collect()
}

/// The name that a sidecar of this command line gives its agent's cgroups: agent, and digest of the state directory.
fn cgroup_of(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let after = |option: &str| words.iter().position(|word| *word == option).and_then(|at| words.get(at + 1));
    let state = fs::canonicalize(after("--state")?).ok()?;
    let digest = blake3::hash(state.as_os_str().as_encoded_bytes()).to_hex();
    Some(format!("pitwall-{}-{}", after("--agent")?, &digest[..8]))
}

/// Cgroups of these names, in every hierarchy.
fn find(folder: &Path, depth: usize, names: &BTreeSet<String>, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if names.contains(&*entry.file_name().to_string_lossy()) {
                found.push(entry.path());
            }
            if depth > 0 {
                find(&entry.path(), depth - 1, names, found);
            }
        }
    }
}

/// How a demo ended.
struct Ended {
    code: Option<i32>,
    report: Value,
    stderr: String,
}

impl Ended {
    fn findings(&self) -> BTreeSet<String> {
        words(&self.report["findings"], &["kind", "subject"])
    }

    fn interventions(&self) -> BTreeSet<String> {
        words(&self.report["interventions"], &["kind", "target", "outcome"])
    }

    fn good(&self) {
        assert_eq!(
            (self.code, &self.report["ok"]),
            (Some(0), &Value::Bool(true)),
            "{}\n{:#}",
            self.stderr,
            self.report
        );
    }
}

fn words(list: &Value, keys: &[&str]) -> BTreeSet<String> {
    let word = |item: &Value| keys.iter().filter_map(|key| item[key].as_str()).collect::<Vec<_>>().join(" ");
    list.as_array().expect("a list").iter().map(word).collect()
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// A short night to its end, and that nothing is left of it.
fn short(args: &[&str]) -> Ended {
    let place = Place::new();
    let mut all = vec!["--windows", "short", "--output", "json"];
    all.extend(args);
    let begin = std::time::Instant::now();
    let output = place.command(&all).stdin(Stdio::null()).output().expect("the demo runs");
    let took = begin.elapsed();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}\n{stderr}", String::from_utf8_lossy(&output.stdout)));
    assert!(took < SHORT_NIGHT * wait::SLACK, "the night took {took:?}");
    eprintln!("demo {args:?}: {took:?}");
    place.nothing_is_left();
    Ended { code: output.status.code(), report, stderr }
}

const MISSING: &str = "missing_deliverable backend/talents-api";
const MISDIRECTED: &str = "misdirected backend/talents-api";
const DESIGN: &str = "agent_missing design";
const DOCS: &str = "agent_missing docs";
const CPU: &str = "quota_exceeded frontend/cpu";
const MEMORY: &str = "quota_exceeded frontend/memory";
const TELL: &str = "directive backend/talents-api effective";
const SEEN: &str = "activate design effective";
const REFUSED: &str = "activate docs rejected";
const THROTTLE: &str = "throttle frontend effective";
const KILL: &str = "kill frontend effective";

#[test]
fn the_night_is_found_and_answered() {
    let _alone = alone();
    let ended = short(&[]);
    ended.good();
    assert_eq!(ended.findings(), set(&[MISSING, MISDIRECTED, DESIGN, DOCS, CPU, MEMORY]));
    assert_eq!(ended.interventions(), set(&[TELL, SEEN, REFUSED, THROTTLE, KILL]));
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(&ended.report), set(&["ok", "findings", "interventions"]));
    let finding = set(&["kind", "subject", "knowable_ms", "found_ms", "latency_ms"]);
    let intervention = set(&["kind", "target", "outcome", "issued_ms", "received_ms", "effect_ms"]);
    assert!(ended.report["findings"].as_array().expect("a list").iter().all(|f| keys(f) == finding));
    assert!(ended.report["interventions"].as_array().expect("a list").iter().all(|i| keys(i) == intervention));
    assert!(ended.report["findings"].as_array().expect("a list").iter().all(|f| f["latency_ms"].is_i64()));
}

#[test]
fn another_seed_is_another_night_and_is_found_too() {
    let _alone = alone();
    let ended = short(&["--seed", "7"]);
    ended.good();
    assert_eq!((ended.findings().len(), ended.interventions().len()), (6, 5), "{:#}", ended.report);
    assert!(!ended.findings().contains(MISSING), "the names must differ: {:?}", ended.findings());
}

#[test]
fn without_missing_backend_delivers_and_is_not_told() {
    let _alone = alone();
    let ended = short(&["--without", "missing"]);
    ended.good();
    assert_eq!(ended.findings(), set(&[DESIGN, DOCS, CPU, MEMORY]));
    assert_eq!(ended.interventions(), set(&[SEEN, REFUSED, THROTTLE, KILL]));
}

#[test]
fn without_misdirected_what_is_missing_is_found_alone() {
    let _alone = alone();
    let ended = short(&["--without", "misdirected"]);
    ended.good();
    assert_eq!(ended.findings(), set(&[MISSING, DESIGN, DOCS, CPU, MEMORY]));
    assert_eq!(ended.interventions(), set(&[TELL, SEEN, REFUSED, THROTTLE, KILL]));
}

#[test]
fn without_absent_nobody_is_missing_or_activated() {
    let _alone = alone();
    let ended = short(&["--without", "absent"]);
    ended.good();
    assert_eq!(ended.findings(), set(&[MISSING, MISDIRECTED, CPU, MEMORY]));
    assert_eq!(ended.interventions(), set(&[TELL, THROTTLE, KILL]));
}

#[test]
fn without_runaway_nothing_is_throttled_or_killed() {
    let _alone = alone();
    let ended = short(&["--without", "runaway"]);
    ended.good();
    assert_eq!(ended.findings(), set(&[MISSING, MISDIRECTED, DESIGN, DOCS]));
    assert_eq!(ended.interventions(), set(&[TELL, SEEN, REFUSED]));
}

#[test]
fn without_an_operator_all_is_found_and_nothing_has_an_effect() {
    let _alone = alone();
    let ended = short(&["--no-operator"]);
    ended.good();
    assert_eq!(ended.findings(), set(&[MISSING, MISDIRECTED, DESIGN, DOCS, CPU, MEMORY]));
    assert_eq!(ended.interventions(), set(&[]));
}

/// The file is there because a note lay in the inbox, and for no other reason.
#[test]
fn with_the_inbox_write_suppressed_backend_never_creates_the_file() {
    let _alone = alone();
    let ended = short(&["--suppress-inbox"]);
    assert_eq!((ended.code, &ended.report["ok"]), (Some(1), &Value::Bool(false)), "{}", ended.stderr);
    assert!(ended.interventions().contains("directive backend/talents-api ineffective"), "{:#}", ended.report);
    assert!(ended.stderr.contains("did not happen: app/api/talents/route.ts answers HTTP"), "{}", ended.stderr);
}

#[test]
fn two_demos_run_side_by_side() {
    let _alone = alone();
    let places = [Place::new(), Place::new()];
    let args = ["--windows", "short", "--output", "json", "--without", "runaway"];
    let demos: Vec<_> = places
        .iter()
        .map(|place| {
            let mut command = place.command(&args);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("the demo starts")
        })
        .collect();
    for demo in demos {
        let output = demo.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}\n{}", String::from_utf8_lossy(&output.stdout));
    }
    for place in &places {
        place.nothing_is_left();
        assert!(place.files().is_empty(), "{:?}", place.files());
    }
}

/// A demo that has come so far that agents work and a throttle could be in effect.
fn under_way(place: &Place) -> Running {
    let mut demo = Running::spawn("pitwall demo", place.command(&["--windows", "short"]));
    demo.line("a found misdirection", |line| {
        line.contains("FOUND").then_some(()).filter(|()| line.contains("misdirected"))
    });
    assert!(place.processes().len() > 10, "{:#?}", place.processes());
    // The names that are looked for at the end are those that sidecars use.
    let names = place.cgroups.lock().expect("nobody panics with it").clone();
    for (pid, line) in place.processes() {
        let of = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_pid())).unwrap_or_default();
        let ours = of.lines().filter_map(|path| path.rsplit('/').next()).filter(|name| name.starts_with("pitwall-"));
        ours.for_each(|name| assert!(names.contains(name), "{line}: {name} is not among {names:?}"));
    }
    demo
}

#[test]
fn a_killed_demo_leaves_nothing_running() {
    let _alone = alone();
    let place = Place::new();
    under_way(&place).kill();
    place.nothing_is_left();
    // What it could not clean up, the next one does.
    assert_eq!(place.demo_folders().len(), 1);
    let mut next = Running::spawn("pitwall demo", place.command(&["--windows", "short"]));
    next.line("a start", |line| line.contains("sidecars").then_some(()));
    assert_eq!(place.demo_folders().len(), 1, "the next demo sweeps");
    next.signal(Signal::INT);
    assert_eq!(next.ended(2 * ENDS_WITHIN).code(), Some(130));
}

/// One that is killed cannot end its agent; the demo says so, fails, and ends everything all the same.
#[test]
fn a_sidecar_that_is_killed_ends_the_demo_with_an_error_and_nothing_is_left() {
    let _alone = alone();
    let place = Place::new();
    let mut demo = under_way(&place);
    let processes = place.processes();
    let (sidecar, _) = processes.iter().find(|(_, line)| line.contains("--agent backend")).expect("backend's sidecar");
    kill_process(*sidecar, Signal::KILL).expect("it is there");
    assert_eq!(demo.ended(2 * ENDS_WITHIN).code(), Some(70), "{:#?}", demo.stderr());
    assert!(demo.stderr().join("\n").contains("sidecar-backend ended with signal: 9"), "{:#?}", demo.stderr());
    place.nothing_is_left();
}

/// As a person does it: on a terminal, which shows a live table, by the key.
#[test]
fn ctrl_c_on_a_terminal_ends_everything_gives_it_back_and_leaves_no_file() {
    let name = "ctrl_c_on_a_terminal_ends_everything_gives_it_back_and_leaves_no_file";
    let there = Command::new("script").arg("--version").output().map_err(|_| "no `script` (util-linux)".to_owned());
    if !surroundings::have(name, "terminal", there.map(|_| ())) {
        return;
    }
    let _alone = alone();
    let place = Place::new();
    let demo = format!("{} demo --windows short", binaries::path("pitwall").display());
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &demo, "/dev/null"]).env("TMPDIR", place.folder.path());
    terminal.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut terminal = terminal.spawn().expect("a terminal");
    let (mut keys, screen) = (terminal.stdin.take().expect("piped"), terminal.stdout.take().expect("piped"));
    let shown = Arc::new(Mutex::new(Vec::new()));
    let reader = follow(screen, shown.clone());
    let text = || String::from_utf8_lossy(&shown.lock().expect("nobody panics with it")).into_owned();
    wait::until_sync("the table shows a finding", Duration::from_secs(10), || {
        text().contains("FINDINGS\x1b").then_some(())
    });
    keys.write_all(b"\x03").expect("the terminal takes keys");
    let status = wait::until_sync("the end", 2 * ENDS_WITHIN, || terminal.try_wait().expect("it is ours"));
    reader.join().expect("the reader ends with the terminal");
    let text = text();
    assert_eq!(status.code(), Some(130), "{text}");
    let (own, back) = (text.find("\x1b[?1049h"), text.rfind("\x1b[?1049l"));
    assert!(own < back && own.is_some(), "the terminal's own screen comes back: {text}");
    assert_eq!(text.matches("\x1b[?1049l").count(), 1, "{text}");
    place.nothing_is_left();
    assert!(place.files().is_empty(), "{:?}", place.files());
}

fn follow(mut from: impl Read + Send + 'static, into: Arc<Mutex<Vec<u8>>>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut chunk) {
            into.lock().expect("nobody panics with it").extend_from_slice(&chunk[..n]);
        }
    })
}

/// Once, in full: at most 90 s, as a person sees it.
#[test]
fn the_full_night_takes_at_most_90_seconds() {
    let _alone = alone();
    let place = Place::new();
    let begin = std::time::Instant::now();
    let output = place.command(&[]).stdin(Stdio::null()).output().expect("the demo runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}\n{stdout}");
    assert!(begin.elapsed() < Duration::from_secs(90), "{:?}", begin.elapsed());
    assert!(stdout.contains("all findings and effects really happened"), "{stdout}");
    assert!(!stdout.contains('\x1b'), "plain lines in a pipe: {stdout}");
    place.nothing_is_left();
    assert!(place.files().is_empty(), "{:?}", place.files());
    eprintln!("{stdout}");
}
