//! Starts the agent's command, adopts one that an earlier life started, tells its end, and cleans up after it.
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pitwall_proto::v1;
use pitwall_sidecar_core::io::EffectOutcome;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc;

use super::kill::living;
use super::process::{self, Ending, told};
use super::record::Record;
use super::{Actor, AgentTarget, Exited, Started, places, shim};
use crate::sample::procfs::{Stat, identity_of};

/// Beside `agent.json`: what the agent writes to its standard output and error.
pub const LOG: &str = "agent.log";
const LOG_BEFORE: &str = "agent.log.1";
/// Then its end is kept beside it, and it begins anew.
const LOG_MAX: u64 = 64 << 20;
const LOG_LOOK_EVERY: Duration = Duration::from_secs(30);
/// A file system that hangs must not hang the sidecar.
const EXEC_WITHIN: Duration = Duration::from_secs(10);
const REASON_MAX: u64 = 4 * 1024;

impl Actor {
    /// Adopts the agent that an earlier life started, else launches it, unless it is held.
    pub(super) async fn start_command(&self) -> Result<Started, String> {
        if let Some(root) = self.adopt()? {
            return Ok(Started::Adopted(root));
        }
        if self.config.held {
            return Ok(Started::Held);
        }
        self.launch().await.map(Started::Launched)
    }

    fn adopt(&self) -> Result<Option<v1::ProcessIdentity>, String> {
        let before = self.agent.view();
        let Some((root, left)) = self.find_started()? else { return Ok(None) };
        // The state directory was moved: what was just made by its new name is not needed.
        for unused in
            before.places.directories().into_iter().filter(|d| !self.agent.view().places.directories().contains(d))
        {
            let _ = std::fs::remove_dir(unused);
        }
        // A guardian that died with the earlier life may have left them stopped.
        process::continue_all(&left);
        if let Ok(ending) = process::open(&root).map_err(|_| ()).and_then(|fd| Ending::of(fd).map_err(|_| ())) {
            self.watch(root.clone(), ending, None);
        }
        Ok(Some(root))
    }

    /// The agent that an earlier life of this sidecar started, or the one that runs, with what lives of it.
    pub(crate) fn find_started(&self) -> Result<Option<(v1::ProcessIdentity, Vec<Stat>)>, String> {
        let Some(record) = Record::load(&self.config.state_dir)? else { return Ok(None) };
        // Pids and start times of another boot mean nothing.
        if record.boot_id != self.boot_id {
            return Ok(None);
        }
        let root = record.root();
        let before = self.agent.view();
        self.agent.change(|view| {
            view.root = Some(root.clone());
            view.launched = true;
            let recorded = record.places().existing();
            if !recorded.is_empty() {
                view.places = recorded;
            }
        });
        let left = living(&self.agent);
        if left.is_empty() {
            self.agent.change(|view| *view = before.as_ref().clone());
            return Ok(None);
        }
        Ok(Some((root, left)))
    }

    pub(super) async fn launch(&self) -> Result<v1::ProcessIdentity, String> {
        let _one_at_a_time = self.launching.lock().await;
        if self.config.target != AgentTarget::Command {
            return Err("the agent is started by somebody else: this sidecar was given its pid or cgroup".into());
        }
        let Some(command) = self.config.launch.as_deref().filter(|c| !c.is_empty()) else {
            return Err("no launch command is configured: start the sidecar with `-- COMMAND …`".into());
        };
        if let Some(alive) = living(&self.agent).first() {
            let root = self.agent.view().root.clone().unwrap_or_else(|| alive.identity());
            return Err(format!("the agent is running already: {}", told(&root)));
        }
        let workspace = &self.config.workspace;
        if !workspace.is_dir() {
            return Err(format!(
                "the workspace {} does not exist: create it, the agent starts in it",
                workspace.display()
            ));
        }
        self.renew_places();
        // Whoever enters a frozen cgroup does not even see a signal: nothing is begun in one.
        self.thaw_for_an_end();
        if let Some(frozen) = self.agent.view().places.directories().into_iter().find(|d| places::is_frozen(d)) {
            return Err(format!("{} is frozen by somebody else: thaw it, the agent starts in it", frozen.display()));
        }
        let (root, child) = self.spawn(command).await?;
        let ending = process::open(&root).ok().and_then(|fd| Ending::of(fd).ok());
        self.agent.change(|view| {
            view.root = Some(root.clone());
            view.launched = true;
        });
        match ending {
            Some(ending) => self.watch(root.clone(), ending, Some(child)),
            // It has ended already.
            None => self.tell_end(root.clone(), child),
        }
        Ok(root)
    }

    /// After a clean-up the cgroups are made anew.
    fn renew_places(&self) {
        let view = self.agent.view();
        if view.places.directories().iter().all(|d| d.is_dir()) {
            return;
        }
        let name = places::name(&self.config.agent, &self.config.state_dir);
        let (made, _) = places::make(&self.hierarchies, &name, &self.config.self_exe);
        self.agent.change(|view| view.places = made);
    }

    /// The process waits at a gate until its identity is durable: a sidecar that dies in between leaves none behind.
    async fn spawn(&self, command: &[OsString]) -> Result<(v1::ProcessIdentity, Child), String> {
        let state = &self.config.state_dir;
        let _ = std::fs::rename(state.join(LOG), state.join(LOG_BEFORE));
        let view = self.agent.view();
        let args = shim::exec_in_args(places::arguments(&view.places), &state.join(LOG), command);
        let mut shim = Command::new(&self.config.self_exe);
        shim.args(args).current_dir(&self.config.workspace);
        for variable in &self.config.own_variables {
            shim.env_remove(variable);
        }
        shim.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child =
            shim.spawn().map_err(|e| format!("{} cannot be started: {e}", self.config.self_exe.display()))?;
        match self.pass_gate(command, &view.places, &mut child).await {
            Ok(root) => Ok((root, child)),
            Err(why) => {
                let _ = child.kill();
                let _ = child.wait();
                let _ = Record::remove(state);
                Err(why)
            }
        }
    }

    async fn pass_gate(
        &self,
        command: &[OsString],
        places: &crate::sample::cgroup::Places,
        child: &mut Child,
    ) -> Result<v1::ProcessIdentity, String> {
        let (Some(mut gate), Some(reasons)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipes to the new process".into());
        };
        let mut root = identity_of(child.id() as i32).ok_or("the new process ended at once")?;
        root.name = short_name(&command[0]);
        let record = Record::new(self.boot_id.clone(), &root, places);
        let state = self.config.state_dir.display();
        record.save(&self.config.state_dir).map_err(|e| format!("the agent cannot be recorded in {state}: {e}"))?;
        // Where it has ended, it says why through the other pipe.
        let _ = gate.write_all(&[shim::GO]);
        drop(gate);
        let said = tokio::task::spawn_blocking(move || read_reason(reasons)).await;
        let reason = said.map_err(|e| format!("the start cannot be followed: {e}"))?;
        match reason {
            Ok(reason) if reason.is_empty() => Ok(root),
            Ok(reason) => Err(reason),
            Err(why) => Err(why),
        }
    }

    fn watch(&self, root: v1::ProcessIdentity, ending: Ending, child: Option<Child>) {
        let exits = self.exits.clone();
        let state_dir = self.config.state_dir.clone();
        tokio::spawn(async move {
            loop {
                if ending.within(LOG_LOOK_EVERY).await {
                    break;
                }
                let state_dir = state_dir.clone();
                let _ = tokio::task::spawn_blocking(move || bound_log(&state_dir)).await;
            }
            tell(exits, root, child).await;
        });
    }

    fn tell_end(&self, root: v1::ProcessIdentity, child: Child) {
        tokio::spawn(tell(self.exits.clone(), root, Some(child)));
    }

    /// Ends what is left and removes what was made. At the stop of the sidecar only.
    pub(super) async fn clean_up(&self) -> EffectOutcome {
        self.stop_duty_cycle().await;
        let view = self.agent.view();
        let may_end = view.launched || view.root.is_none();
        if !matches!(self.config.target, AgentTarget::Command) || !may_end {
            return EffectOutcome::Ok { detail: "nothing was made here".into() };
        }
        let killed = match self.kill_rest(&view.places).await {
            Ok(killed) => killed,
            Err(why) => return EffectOutcome::Failed { why },
        };
        let removed = match places::remove(&view.places).await {
            Ok(removed) => removed,
            Err(why) => return EffectOutcome::Failed { why: format!("a cgroup is left: {why}") },
        };
        if let Err(e) = Record::remove(&self.config.state_dir) {
            return EffectOutcome::Failed { why: format!("the record of the agent cannot be removed: {e}") };
        }
        self.agent.change(|view| view.root = None);
        EffectOutcome::Ok { detail: format!("{killed} processes ended, {removed} cgroups removed") }
    }
}

/// The end is known: `wait` does not block.
async fn tell(exits: mpsc::Sender<Exited>, root: v1::ProcessIdentity, child: Option<Child>) {
    use std::os::unix::process::ExitStatusExt;
    let status = match child {
        Some(mut child) => tokio::task::spawn_blocking(move || child.wait().ok()).await.ok().flatten(),
        None => None,
    };
    let (code, signal) = status.map_or((None, None), |s| (s.code(), s.signal()));
    // Nobody listens while the sidecar ends.
    let _ = exits.send(Exited { root, code, signal }).await;
}

/// As the kernel will call it: the file's name, cut to 15 bytes.
fn short_name(command: &OsString) -> String {
    let name = Path::new(command).file_name().map_or_else(Vec::new, |n| n.as_encoded_bytes().to_vec());
    String::from_utf8_lossy(&name[..name.len().min(15)]).into_owned()
}

/// The pipe ends without a word when the command has begun.
fn read_reason(mut pipe: std::process::ChildStdout) -> Result<String, String> {
    let timeout = Timespec { tv_sec: EXEC_WITHIN.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [PollFd::new(&pipe, PollFlags::IN)];
    if poll(&mut fds, Some(&timeout)) == Ok(0) {
        return Err(format!("the command did not begin within {} s", EXEC_WITHIN.as_secs()));
    }
    let mut reason = Vec::new();
    pipe.by_ref()
        .take(REASON_MAX)
        .read_to_end(&mut reason)
        .map_err(|e| format!("the start cannot be followed: {e}"))?;
    Ok(String::from_utf8_lossy(&reason).into_owned())
}

/// The agent appends: the file can be emptied under it. A line in between may be lost.
fn bound_log(state_dir: &Path) {
    let log = state_dir.join(LOG);
    if std::fs::metadata(&log).is_ok_and(|m| m.len() > LOG_MAX)
        && std::fs::copy(&log, state_dir.join(LOG_BEFORE)).is_ok()
    {
        let _ = std::fs::OpenOptions::new().write(true).truncate(true).open(&log);
    }
}
