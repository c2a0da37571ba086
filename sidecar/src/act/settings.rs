//! The rungs that are no files of a cgroup: a duty cycle, settings of threads, settings of GPUs. Each as `limit` asks it:
//! examined, held, looked at, released.
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;

use pitwall_proto::v1;
use pitwall_sidecar_core::io::{Hold, HoldState, Slot};

use super::agent::AgentView;
use super::gpu::{self, Found, Setting};
use super::kill::living;
use super::threads::{self, Knob, Old, Standing, Thread};
use super::value::FLOOR_CORES;
use super::{Actor, duty};
use crate::sample::procfs::is_alive;

impl Actor {
    pub(super) fn examine_duty(&self, slot: &Slot, view: &AgentView, amount: f64) -> Result<Hold, String> {
        if slot.process.is_some() {
            return Err("the whole agent alone is stopped and continued".into());
        }
        let root = duty::usable(view)?;
        if !is_alive(root) {
            return Err("no process of the agent is alive".into());
        }
        Ok(Hold {
            slot: slot.clone(),
            rung: duty::RUNG.into(),
            place: root.pid.to_string(),
            inode: root.start_ticks,
            boot_id: self.boot_id.clone(),
            old: String::new(),
            new: amount.max(FLOOR_CORES).to_string(),
            amount,
        })
    }

    /// Whose threads are meant: one process, or all of the agent, known by its root.
    fn target(slot: &Slot, view: &AgentView) -> Result<v1::ProcessIdentity, String> {
        let target = slot.process.as_ref().or(view.root.as_ref()).filter(|p| is_alive(p));
        target.cloned().ok_or_else(|| "no process of the agent is alive".into())
    }

    fn threads_of(&self, hold: &Hold) -> Vec<Thread> {
        let pids: Vec<i32> = match &hold.slot.process {
            Some(process) => Some(process).filter(|p| is_alive(p)).map(|p| p.pid).into_iter().collect(),
            None => living(&self.agent).iter().map(|s| s.pid).collect(),
        };
        threads::of_processes(&pids)
    }

    /// The agent was restarted, the process has ended, or the host.
    fn has_target(&self, hold: &Hold) -> bool {
        let is_it = |p: &v1::ProcessIdentity| p.pid.to_string() == hold.place && p.start_ticks == hold.inode;
        hold.boot_id == self.boot_id
            && match &hold.slot.process {
                Some(process) => is_it(process) && is_alive(process),
                None => self.agent.view().root.as_ref().is_some_and(is_it) && !living(&self.agent).is_empty(),
            }
    }

    pub(super) fn examine_threads(
        &self,
        slot: &Slot,
        knob: Knob,
        view: &AgentView,
        amount: f64,
    ) -> Result<Hold, String> {
        let target = Self::target(slot, view)?;
        if knob == Knob::Affinity && slot.via.is_empty() && amount.fract() != 0.0 {
            return Err("it holds to whole cores alone; --via affinity takes the next whole number".into());
        }
        self.may_set(knob, target.pid)?;
        // Each would take the other's value for what was there before.
        let overlaps = |h: &&Hold| {
            let one = |p: &v1::ProcessIdentity| (p.pid, p.start_ticks);
            let apart = h.slot.process.as_ref().zip(slot.process.as_ref()).is_some_and(|(a, b)| one(a) != one(b));
            h.rung == knob.rung() && h.slot != *slot && !apart && self.has_target(h)
        };
        let others = super::agent::lock(&self.held).clone();
        if let Some(other) = others.iter().find(overlaps) {
            let whose = if other.slot.process.is_some() { "a process of the agent" } else { "the whole agent" };
            return Err(format!("{} of {whose} is set already: end that throttle first", knob.rung()));
        }
        let mut hold = Hold {
            slot: slot.clone(),
            rung: knob.rung().into(),
            place: target.pid.to_string(),
            inode: target.start_ticks,
            boot_id: self.boot_id.clone(),
            old: String::new(),
            new: String::new(),
            amount,
        };
        let all = self.threads_of(&hold);
        let beneath = super::agent::lock(&self.held)
            .iter()
            .find(|h| (&h.slot, &h.rung, &h.place, h.inode) == (slot, &hold.rung, &hold.place, hold.inode))
            .map(|h| Old::parse(&h.old));
        let (old, new) = knob.limited(target.pid, &all, amount, beneath)?;
        (hold.old, hold.new) = (old.text(), new);
        Ok(hold)
    }

    /// Tried by the same setting again; and what is set must be undone again.
    pub(super) fn may_set(&self, knob: Knob, pid: i32) -> Result<(), String> {
        if knob == Knob::Nice && !super::capability::has_capability(super::capability::CAP_SYS_NICE) {
            return Err("the sidecar lacks the capability SYS_NICE: what it set could not be undone".into());
        }
        if !self.config.only_looks {
            return knob.probe(pid);
        }
        // Asked for by what the kernel asks for.
        let theirs = std::fs::metadata(format!("/proc/{pid}")).ok().map(|m| m.uid());
        let mine = rustix::process::geteuid().as_raw();
        match theirs == Some(mine) || super::capability::has_capability(super::capability::CAP_SYS_NICE) {
            true => Ok(()),
            false => Err("the sidecar lacks the capability SYS_NICE for processes of another user".into()),
        }
    }

    pub(super) fn hold_threads(&self, hold: &Hold, knob: Knob) -> Result<String, String> {
        if !self.has_target(hold) {
            return Err(format!("pid {} is not the agent any more", hold.place));
        }
        let old = Old::parse(&hold.old);
        let ours = self.ours_there(hold);
        match knob.standing(&self.threads_of(hold), &old, &hold.new) {
            Standing::Foreign(what) if ours.is_none() => {
                return Err(format!("somebody else set {what} meanwhile; it was left alone"));
            }
            _ => {}
        }
        let set = knob.hold(|| self.threads_of(hold), &old, ours.as_deref(), &hold.new).inspect_err(|_| {
            // Nothing half done is left.
            let _ = knob.release(|| self.threads_of(hold), &old, &hold.new);
        })?;
        Ok(format!("pid {}: {} of {set} threads set to {}", hold.place, hold.rung, hold.new))
    }

    /// One of our own gives way to another.
    fn ours_there(&self, hold: &Hold) -> Option<String> {
        let held = super::agent::lock(&self.held);
        let same = |h: &&Hold| (&h.rung, &h.place, h.inode) == (&hold.rung, &hold.place, hold.inode);
        held.iter().find(same).map(|h| h.new.clone())
    }

    pub(super) fn look_at_threads(&self, hold: &Hold, knob: Knob) -> Result<HoldState, String> {
        if !self.has_target(hold) {
            return Ok(HoldState::Gone);
        }
        let old = Old::parse(&hold.old);
        let standing = knob.standing(&self.threads_of(hold), &old, &hold.new);
        Ok(match standing {
            Standing::Held => HoldState::Ours,
            Standing::Partly => {
                knob.hold(|| self.threads_of(hold), &old, None, &hold.new)?;
                HoldState::Ours
            }
            Standing::Before => HoldState::Foreign(hold.old.clone()),
            Standing::Foreign(what) => HoldState::Foreign(what),
        })
    }

    pub(super) fn release_threads(&self, hold: &Hold, knob: Knob) -> Result<HoldState, String> {
        if !self.has_target(hold) {
            return Ok(HoldState::Gone);
        }
        let old = Old::parse(&hold.old);
        let newer = super::agent::lock(&self.held)
            .iter()
            .any(|h| *h != *hold && (&h.rung, &h.place, h.inode) == (&hold.rung, &hold.place, hold.inode));
        if newer {
            return Ok(HoldState::Ours);
        }
        let standing = knob.standing(&self.threads_of(hold), &old, &hold.new);
        knob.release(|| self.threads_of(hold), &old, &hold.new)?;
        Ok(match standing {
            Standing::Held | Standing::Partly => HoldState::Ours,
            Standing::Before => HoldState::Foreign(hold.old.clone()),
            Standing::Foreign(what) => HoldState::Foreign(what),
        })
    }

    pub(super) async fn examine_gpu(&self, slot: &Slot, setting: Setting, amount: f64) -> Result<Hold, String> {
        if slot.process.is_some() {
            return Err("a GPU is limited for all who use it, not for one process".into());
        }
        let agents: HashSet<u32> = living(&self.agent).iter().filter_map(|s| u32::try_from(s.pid).ok()).collect();
        let library = self.gpu_library.clone();
        let look = move || gpu::examine(library.as_deref(), setting, amount, &agents);
        let found = blocking(look).await?;
        let held = super::agent::lock(&self.held)
            .iter()
            .find(|h| h.slot == *slot && h.rung == gpu::RUNG && h.place == found.place && h.new == found.old)
            .map(|h| h.old.clone());
        Ok(Hold {
            slot: slot.clone(),
            rung: gpu::RUNG.into(),
            place: found.place,
            inode: 0,
            boot_id: self.boot_id.clone(),
            old: held.unwrap_or(found.old),
            new: found.new,
            amount,
        })
    }

    pub(super) async fn hold_gpu(&self, hold: &Hold, setting: Setting) -> Result<String, String> {
        let library = self.gpu_library.clone();
        let mut found = found(hold);
        // One of our own gives way to another.
        let ours = super::agent::lock(&self.held)
            .iter()
            .find(|h| h.slot == hold.slot && h.place == hold.place && h.new != hold.new)
            .map(|h| h.new.clone());
        let old = found.old.clone();
        if let Some(ours) = ours {
            found.old = ours;
        }
        blocking(move || {
            gpu::hold(library.as_deref(), setting, &found).inspect_err(|_| {
                let _ = gpu::release(library.as_deref(), setting, &found);
            })
        })
        .await?;
        Ok(format!("{}: {} -> {}", hold.place, old.replace('\n', " "), hold.new.replace('\n', " ")))
    }

    pub(super) async fn look_at_gpu(&self, hold: &Hold, setting: Setting) -> Result<HoldState, String> {
        if hold.boot_id != self.boot_id {
            return Ok(HoldState::Gone);
        }
        let (library, found) = (self.gpu_library.clone(), found(hold));
        blocking(move || match gpu::state(library.as_deref(), setting, &found)? {
            HoldState::Ours => gpu::hold(library.as_deref(), setting, &found).map(|()| HoldState::Ours),
            other => Ok(other),
        })
        .await
    }

    pub(super) async fn release_gpu(&self, hold: &Hold, setting: Setting) -> Result<HoldState, String> {
        if hold.boot_id != self.boot_id {
            return Ok(HoldState::Gone);
        }
        let newer =
            super::agent::lock(&self.held).iter().any(|h| h.slot == hold.slot && h.place == hold.place && h != hold);
        if newer {
            return Ok(HoldState::Ours);
        }
        let (library, found) = (self.gpu_library.clone(), found(hold));
        blocking(move || {
            let state = gpu::state(library.as_deref(), setting, &found)?;
            gpu::release(library.as_deref(), setting, &found).map(|()| state)
        })
        .await
    }
}

fn found(hold: &Hold) -> Found {
    Found { place: hold.place.clone(), old: hold.old.clone(), new: hold.new.clone() }
}

/// A driver may take its time.
async fn blocking<T: Send + 'static>(what: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(what).await.map_err(|e| format!("the driver cannot be asked: {e}"))?
}
