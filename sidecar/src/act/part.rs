//! Limits of one process alone, in a cgroup of its own below the agent's: made, limited, and only then entered. Of version
//! 1 the kernel lets no part have more CPU than the whole: parts are lowered with it, and raised again.
use std::path::Path;

use pitwall_sidecar_core::io::{Hold, HoldState, Slot};

use super::agent::lock;
use super::child::{self, Child};
use super::files::{Files, What};
use super::limit::{inode, shown};
use super::value::Version;
use super::{Actor, places};

impl Actor {
    pub(super) fn examine_child(&self, slot: &Slot, child: Child, files: Files, amount: f64) -> Result<Hold, String> {
        if self.config.only_looks {
            return Err("this process only looks".into());
        }
        if !child.is_there() {
            Child::probe(&child.leaf, files)?;
        }
        let inode = inode(&child.leaf).ok_or_else(|| format!("{} is gone", child.leaf.display()))?;
        let like = files.like(&child.leaf, &self.config.workspace)?;
        let old = files.fresh(&like);
        // Of version 1 a part may not be given more than the whole.
        let most = match (files.what, files.version) {
            (What::Cpu, Version::V1) => files.read(&child.leaf, "").map_or(f64::INFINITY, |v| files.strictness(&v)),
            _ => f64::INFINITY,
        };
        let measured = if child.is_there() { &child.directory } else { &child.leaf };
        let new = match files.what {
            // What one process uses is not counted before it is in its own cgroup.
            What::Memory if !child.is_there() => files.stricter_than(&old, amount)?,
            _ => files.limited(measured, &old, amount.min(most))?,
        };
        Ok(Hold {
            slot: slot.clone(),
            rung: files.rung().into(),
            place: child.directory.to_string_lossy().into_owned(),
            inode,
            boot_id: self.boot_id.clone(),
            old,
            new,
            amount,
        })
    }

    /// Made, limited, and only then entered: no moment without the limit, and cut short at any step it is seen what is left.
    pub(super) async fn hold_child(&self, hold: &Hold, files: Files, child: &Child) -> Result<String, String> {
        if hold.boot_id != self.boot_id || inode(&child.leaf) != Some(hold.inode) {
            return Err(format!("{} is gone", child.leaf.display()));
        }
        places::guard(&self.hierarchies, &child.leaf)?;
        if let Some(process) = &hold.slot.process {
            self.is_of_the_agent(process)?;
        }
        child.make()?;
        let now = files.read(&child.directory, &hold.new).map_err(|e| format!("{}: {e}", hold.place))?;
        if now != hold.old && now != hold.new && !self.is_held(hold, files, &now) {
            return Err(format!("somebody else changed {} to {}; it was left alone", hold.place, shown(&now)));
        }
        let done = match self.write(hold, files, &child.directory, &now).await {
            Ok(detail) => child.join().map(|()| detail),
            Err(why) => Err(why),
        };
        match done {
            Ok(detail) => {
                let settled = self.settled(files, &child.directory).await;
                Ok(format!("{detail}, for pid {} alone{settled}", hold.slot.process.as_ref().map_or(0, |p| p.pid)))
            }
            Err(why) => {
                let _ = files.write(&child.directory, &hold.old);
                self.unguard_freeze(&hold.place).await;
                match child.vacate().await {
                    Ok(()) => Err(why),
                    Err(left) => Err(format!("{why}; {left}")),
                }
            }
        }
    }

    pub(super) async fn whole_child(&self, files: Files, hold: &Hold, child: &Child) -> Result<HoldState, String> {
        let state = self.state_of(files, hold).map_err(|e| format!("{}: {e}", hold.place))?;
        match state {
            HoldState::Ours if child.is_process_alive() && !child.holds_it(&self.hierarchies) => {
                if self.is_held(hold, files, &hold.new) {
                    // It was in it when this life looked last.
                    return Ok(HoldState::Foreign(format!("moved to {}", child.where_it_is(&self.hierarchies))));
                }
                self.hold_child(hold, files, child).await.map(|_| HoldState::Ours)
            }
            HoldState::Ours => self.whole(files, hold).await,
            HoldState::Gone => {
                self.put_back_child(files, hold, child).await?;
                Ok(HoldState::Gone)
            }
            foreign => Ok(foreign),
        }
    }

    pub(super) async fn release_child(&self, hold: &Hold, files: Files, child: &Child) -> Result<HoldState, String> {
        let state = self.state_of(files, hold).map_err(|e| format!("{}: {e}", hold.place))?;
        match &state {
            HoldState::Gone => self.put_back_child(files, hold, child).await?,
            HoldState::Ours | HoldState::Foreign(_) => {
                let state = self.release_files_of(hold, files).await?;
                child.vacate().await?;
                return Ok(state);
            }
        }
        Ok(state)
    }

    async fn release_files_of(&self, hold: &Hold, files: Files) -> Result<HoldState, String> {
        if !Path::new(&hold.place).is_dir() {
            // Never made: nothing stands there, as before.
            return Ok(HoldState::Foreign(hold.old.clone()));
        }
        self.release_files(hold, files).await
    }

    /// Of a process that has ended; its leaf may be another one by now.
    async fn put_back_child(&self, files: Files, hold: &Hold, child: &Child) -> Result<(), String> {
        if hold.boot_id == self.boot_id && inode(&child.leaf) == Some(hold.inode) && child.is_there() {
            if files.read(&child.directory, &hold.new).is_ok_and(|now| now == hold.new) {
                let _ = files.write(&child.directory, &hold.old);
            }
            child.vacate().await?;
        }
        self.unguard_freeze(&hold.place).await;
        Ok(())
    }

    /// For a whole that is given less than them. Whether any was lowered.
    pub(super) fn lower_parts(&self, files: Files, whole: &Path, new: &str) -> bool {
        if !is_strict(files) {
            return false;
        }
        let mut lowered = false;
        for part in child::all_below(whole) {
            let cores = files.read(&part, "").map_or(f64::INFINITY, |value| files.strictness(&value));
            if cores.is_finite() && cores > files.strictness(new) {
                lowered |= files.write(&part, new).is_ok();
            }
        }
        lowered
    }

    /// The whole stood at `was`: parts that were lowered to that get back what is theirs, as far as the whole allows.
    pub(super) fn raise_parts(&self, files: Files, whole: &Path, was: &str) {
        if !is_strict(files) {
            return;
        }
        let Ok(now) = files.read(whole, "") else { return };
        let parts = lock(&self.held).clone();
        for part in
            parts.iter().filter(|h| h.slot.process.is_some() && Files::of(h.slot.resource, &h.rung) == Some(files))
        {
            let place = Path::new(&part.place);
            let is_lowered = || files.read(place, "").is_ok_and(|value| value == was && value != part.new);
            if place.parent() == Some(whole) && is_lowered() {
                let allowed = files.strictness(&now) < files.strictness(&part.new);
                // Refused at worst: then it stays stricter than it was meant, until it is looked at again.
                let _ = files.write(place, if allowed { &now } else { &part.new });
            }
        }
    }

    /// A part that stands lower than it was written, as its whole does.
    pub(super) fn is_under_the_whole(&self, files: Files, hold: &Hold, now: &str) -> bool {
        let whole = Path::new(&hold.place).parent().filter(|_| hold.slot.process.is_some() && is_strict(files));
        let stands = whole.and_then(|whole| files.read(whole, "").ok());
        stands.as_deref() == Some(now) && files.strictness(now) < files.strictness(&hold.new)
    }
}

fn is_strict(files: Files) -> bool {
    (files.what, files.version) == (What::Cpu, Version::V1)
}
