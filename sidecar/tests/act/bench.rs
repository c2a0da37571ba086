//! A state directory, a workspace, and what the tests ask of an actor.
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pitwall_proto::v1;
use pitwall_sidecar::act::{Actor, AgentTarget, Config, Exited, RestartedBy, Started};
use pitwall_sidecar::sample::cgroup::Places;
use pitwall_sidecar::sample::procfs::{ProcFs, Stat};
use pitwall_sidecar_core::io::{Effect, EffectOutcome, Hold, HoldState, Slot};
use tokio::sync::mpsc;

pub const SIDECAR: &str = env!("CARGO_BIN_EXE_pitwall-sidecar");
/// What a loaded machine may need.
pub const SLACK: Duration = Duration::from_secs(10);

/// A state directory, a workspace, and the actor of one life after another.
pub struct Bench {
    pub home: tempfile::TempDir,
    pub command: Vec<OsString>,
}

impl Bench {
    pub fn new(command: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        for directory in ["work", "state", "inbox"] {
            std::fs::create_dir(home.path().join(directory)).unwrap();
        }
        Self { home, command: command.iter().map(OsString::from).collect() }
    }

    pub fn shell(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn config(&self, target: AgentTarget) -> Config {
        Config {
            agent: "test".into(),
            target,
            launch: Some(self.command.clone()),
            held: false,
            restarted_by: RestartedBy::Nobody,
            workspace: self.path("work"),
            inbox: self.path("inbox"),
            state_dir: self.path("state"),
            self_exe: SIDECAR.into(),
            own_variables: Vec::new(),
            only_looks: false,
        }
    }

    pub fn life(&self) -> (Actor, mpsc::Receiver<Exited>) {
        let (told, exits) = mpsc::channel(8);
        (Actor::new(self.config(AgentTarget::Command), told).unwrap(), exits)
    }

    /// As where no cgroup can be made.
    pub fn life_without_cgroup(&self) -> (Actor, mpsc::Receiver<Exited>) {
        let (actor, exits) = self.life();
        let places = actor.agent().view().places.clone();
        for directory in places.directories() {
            std::fs::remove_dir(directory).unwrap();
        }
        actor.agent().change(|view| view.places = Places::default());
        (actor, exits)
    }
}

/// Even a failed test leaves no process and no cgroup behind.
pub struct Swept<'a>(pub &'a Actor);

impl Drop for Swept<'_> {
    fn drop(&mut self) {
        let agent = self.0.agent();
        let until = Instant::now() + SLACK;
        while let left = living(self.0)
            && !left.is_empty()
            && Instant::now() < until
        {
            for stat in left {
                let pid = rustix::process::Pid::from_raw(stat.pid).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        for directory in agent.view().places.directories() {
            for below in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(below.path());
            }
            while std::fs::remove_dir(directory).is_err_and(|e| e.kind() != std::io::ErrorKind::NotFound)
                && Instant::now() < until
            {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

pub fn living(actor: &Actor) -> Vec<Stat> {
    let mut stats = Vec::new();
    actor.agent().processes(&mut ProcFs::default(), &mut stats);
    stats
}

pub async fn launched(actor: &Actor) -> v1::ProcessIdentity {
    match actor.start().await.unwrap() {
        Started::Launched(root) => root,
        other => panic!("{other:?}"),
    }
}

pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SLACK;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn ok(outcome: EffectOutcome) -> String {
    match outcome {
        EffectOutcome::Ok { detail } => detail,
        other => panic!("{other:?}"),
    }
}

pub fn why(outcome: EffectOutcome) -> String {
    match outcome {
        EffectOutcome::Failed { why } => why,
        other => panic!("{other:?}"),
    }
}

pub fn whole_cpu() -> Slot {
    Slot { resource: v1::Resource::Cpu, process: None, via: String::new() }
}

pub async fn examine(actor: &Actor, cpu_cores: f64) -> Hold {
    match actor.carry_out(Effect::Examine { slot: whole_cpu(), amount: cpu_cores }).await {
        EffectOutcome::Examined(hold) => hold,
        other => panic!("{other:?}"),
    }
}

pub fn slot(resource: v1::Resource, process: Option<&v1::ProcessIdentity>, via: &str) -> Slot {
    Slot { resource, process: process.cloned(), via: via.into() }
}

pub async fn examine_slot(actor: &Actor, slot: Slot, amount: f64) -> Result<Hold, String> {
    match actor.carry_out(Effect::Examine { slot, amount }).await {
        EffectOutcome::Examined(hold) => Ok(hold),
        EffectOutcome::Failed { why } => Err(why),
        other => panic!("{other:?}"),
    }
}

pub async fn hold(actor: &Actor, hold: &Hold) -> String {
    ok(actor.carry_out(Effect::Hold(hold.clone())).await)
}

pub async fn verify(actor: &Actor, hold: &Hold) -> HoldState {
    match actor.carry_out(Effect::Verify(hold.clone())).await {
        EffectOutcome::Verified(state) => state,
        other => panic!("{other:?}"),
    }
}

pub async fn release(actor: &Actor, hold: &Hold) -> HoldState {
    match actor.carry_out(Effect::Release(hold.clone())).await {
        EffectOutcome::Released(state) => state,
        other => panic!("{other:?}"),
    }
}

/// The next life of the sidecar, beside the same agent.
pub async fn next_life(bench: &Bench) -> Actor {
    let (next, _) = bench.life();
    assert!(matches!(next.start().await.unwrap(), Started::Adopted(_)));
    next
}

pub fn capability(actor: &Actor, name: &str) -> Result<(), String> {
    let found = actor.capabilities().into_iter().find(|c| c.name == name);
    match found {
        Some(c) if c.available => Ok(()),
        Some(c) => Err(c.reason),
        None => Err(format!("no capability {name} is told")),
    }
}

/// What a file of a cgroup says, as it is there.
pub fn raw(place: &str, file: &str) -> String {
    let path = std::path::Path::new(place).join(file);
    let text = std::fs::read_to_string(&path);
    text.unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

pub async fn clean_up(actor: &Actor) {
    let places = actor.agent().view().places.clone();
    ok(actor.carry_out(Effect::CleanUp).await);
    assert!(living(actor).is_empty());
    for directory in places.directories() {
        assert!(!directory.exists(), "{} is left", directory.display());
    }
}

/// Says aloud that a test lacks its surroundings.
pub fn skip(test: &str, reason: &str) {
    let required = std::env::var("PITWALL_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|r| r == "cgroup"), "{test}: {reason}");
    without(test, reason);
}

/// The same for a rung of the other version: a host has one of them.
pub fn without(test: &str, reason: &str) {
    if let Some(file) = std::env::var_os("PITWALL_SKIPS") {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        writeln!(file, "{test}: {reason}").unwrap();
    }
}

pub fn no_cgroup(actor: &Actor) -> String {
    let absent = actor.capabilities().into_iter().filter(|c| c.name.starts_with("throttle.cpu.cgroup"));
    absent.map(|c| c.reason).collect::<Vec<_>>().join("; ")
}

pub fn cgroup_rung(actor: &Actor) -> Option<String> {
    let capabilities = actor.capabilities();
    let rungs = capabilities.iter().filter(|c| c.available && c.name.starts_with("throttle.cpu.cgroup"));
    rungs.map(|c| c.name.clone()).next()
}
