//! The sidecar's side of a duty cycle: starts the guardian, ends it, and stands in when it is lost.
use std::io::Read;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use pitwall_proto::v1;
use pitwall_sidecar_core::io::{Hold, HoldState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Actor;
use super::agent::AgentView;
use super::guardian::{READY, Task};
use super::kill::living;
use super::process::{self, Ending};
use crate::sample::procfs::{identity_of, is_alive};

pub const RUNG: &str = "duty-cycle";
/// It continues the agent within milliseconds of the end of its pipe.
const END_WITHIN: Duration = Duration::from_secs(2);
const READY_WITHIN: Duration = Duration::from_secs(5);

/// Only where stopping the agent surprises nobody: it was started here, without a terminal.
pub fn usable(view: &AgentView) -> Result<&v1::ProcessIdentity, String> {
    match &view.root {
        Some(root) if view.launched => Ok(root),
        Some(_) => Err("only an agent that the sidecar started itself is stopped and continued".into()),
        None => Err("no process of the agent is alive".into()),
    }
}

/// A guardian at work.
pub struct Duty {
    hold: Hold,
    child: Child,
    /// Its end is the guardian's.
    pipe: Option<ChildStdin>,
}

impl Actor {
    pub(super) async fn begin_duty_cycle(&self, hold: &Hold) -> Result<String, String> {
        self.guard_by(hold).await?;
        Ok(format!("pid {}: stopped and continued to stay below {} of a core", hold.place, hold.new))
    }

    /// In a new life the old guardian has ended with the old one.
    pub(super) async fn take_up_duty_cycle(&self, hold: &Hold) -> Result<HoldState, String> {
        if hold.boot_id != self.boot_id || !is_alive(&root_of(hold)) {
            return Ok(HoldState::Gone);
        }
        self.guard_by(hold).await.map(|()| HoldState::Ours)
    }

    pub(super) async fn end_duty_cycle(&self, hold: &Hold) -> HoldState {
        let alive = hold.boot_id == self.boot_id && is_alive(&root_of(hold));
        let is_it = self.duty.lock().await.as_ref().is_some_and(|d| d.hold == *hold);
        if is_it {
            self.stop_duty_cycle().await;
        }
        if alive { HoldState::Ours } else { HoldState::Gone }
    }

    pub(super) async fn stop_duty_cycle(&self) {
        let mut duty = self.duty.lock().await;
        if let Some(duty) = duty.take() {
            end(duty).await;
            process::continue_all(&living(&self.agent));
        }
    }

    async fn guard_by(&self, hold: &Hold) -> Result<(), String> {
        let view = self.agent.view();
        let root = usable(&view)?;
        let wanted = root_of(hold);
        if (root.pid, root.start_ticks) != (wanted.pid, wanted.start_ticks) || !is_alive(root) {
            return Err(format!("pid {} is not the agent any more", hold.place));
        }
        let cores: f64 = hold.new.parse().map_err(|_| format!("{:?} is no number of cores", hold.new))?;
        let mut duty = self.duty.lock().await;
        if let Some(at_work) = duty.as_mut() {
            let lives = at_work.child.try_wait().is_ok_and(|status| status.is_none());
            if lives && at_work.hold == *hold {
                return Ok(());
            }
        }
        if let Some(older) = duty.take() {
            end(older).await;
        }
        let cgroup = view.places.members().map(std::path::Path::to_owned);
        let task = Task { root: root.clone(), cores, cgroup };
        let mut command = Command::new(&self.config.self_exe);
        command.args(task.args()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("the guardian cannot be started: {e}"))?;
        let (pipe, ready) = (child.stdin.take(), child.stdout.take());
        self.stand_in_for(&child);
        let started = Duty { hold: hold.clone(), child, pipe };
        if !is_ready(ready).await {
            end(started).await;
            return Err(format!("the guardian did not begin its work within {} s", READY_WITHIN.as_secs()));
        }
        *duty = Some(started);
        Ok(())
    }

    /// A guardian that somebody kills must not leave the agent stopped.
    fn stand_in_for(&self, guardian: &Child) {
        let Some(identity) = identity_of(guardian.id() as i32) else { return };
        let Ok(ending) = process::open(&identity).map_err(|_| ()).and_then(|fd| Ending::of(fd).map_err(|_| ())) else {
            return;
        };
        let agent = self.agent.clone();
        tokio::spawn(async move {
            ending.wait().await;
            process::continue_all(&living(&agent));
        });
    }
}

pub(super) async fn is_ready(pipe: Option<ChildStdout>) -> bool {
    let Some(mut pipe) = pipe else { return false };
    let look = move || {
        let timeout = Timespec { tv_sec: READY_WITHIN.as_secs() as i64, tv_nsec: 0 };
        let mut said = [0];
        let comes = poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&timeout)).is_ok_and(|n| n > 0);
        comes && pipe.read(&mut said).is_ok_and(|n| n == 1) && said[0] == READY
    };
    tokio::task::spawn_blocking(look).await.unwrap_or(false)
}

fn root_of(hold: &Hold) -> v1::ProcessIdentity {
    v1::ProcessIdentity { pid: hold.place.parse().unwrap_or(0), start_ticks: hold.inode, name: String::new() }
}

async fn end(duty: Duty) {
    end_guardian(duty.child, duty.pipe).await;
}

/// By the end of its pipe.
pub(super) async fn end_guardian(mut child: Child, pipe: Option<ChildStdin>) {
    drop(pipe);
    let began = std::time::Instant::now();
    while began.elapsed() < END_WITHIN {
        match child.try_wait() {
            Ok(None) => tokio::time::sleep(Duration::from_millis(5)).await,
            Ok(Some(_)) | Err(_) => return,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}
