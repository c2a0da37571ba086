//! Limits brought into effect: examined, written, looked at again, put back, by any rung of the ladder. Old and new value
//! are in the state file before anything is written; a value that is not ours any more is left alone. This file chooses
//! the rung and writes the files of the agent's cgroup; `part` writes those of one process, `settings` has the rungs that
//! are no files.
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pitwall_proto::v1;
use pitwall_sidecar_core::io::{EffectOutcome, Hold, HoldState, Slot};

use super::agent::{AgentView, lock};
use super::child::Child;
use super::files::{Files, What};
use super::kill::living;
use super::ladder::{Rung, noun, word};
use super::{Actor, places};

/// Writes that take their time (a freeze) are waited for so long.
const SETTLE_WITHIN: Duration = Duration::from_millis(500);
const SETTLE_EVERY: Duration = Duration::from_millis(2);
/// Holds that are remembered: what was never released belongs to cgroups that are gone.
const HELD_MAX: usize = 64;

pub(super) fn failed(why: impl Into<String>) -> EffectOutcome {
    EffectOutcome::Failed { why: why.into() }
}

pub(super) fn inode(directory: &Path) -> Option<u64> {
    std::fs::metadata(directory).ok().filter(|m| m.is_dir()).map(|m| m.ino())
}

pub(super) fn shown(value: &str) -> String {
    value.replace('\n', " ")
}

fn is_gone(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

impl Actor {
    pub(super) async fn examine(&self, slot: &Slot, amount: f64) -> EffectOutcome {
        let ladder = Rung::ladder(slot.resource);
        let noun = noun(slot.resource);
        if ladder.is_empty() {
            return failed(format!("this sidecar does not limit {noun}"));
        }
        if let Some(process) = &slot.process
            && let Err(why) = self.is_of_the_agent(process)
        {
            return failed(why);
        }
        let rungs = ladder.iter().filter(|rung| slot.via.is_empty() || rung.name() == slot.via);
        let mut refusals = Vec::new();
        for rung in rungs {
            match self.examine_by(*rung, slot, amount).await {
                Ok(hold) => return EffectOutcome::Examined(hold),
                Err(why) => refusals.push(format!("{}: {why}", rung.name())),
            }
        }
        if refusals.is_empty() {
            let names: Vec<&str> = ladder.iter().map(|rung| rung.name()).collect();
            return failed(format!("{noun} is not limited via {:?}: there is {}", slot.via, names.join(", ")));
        }
        let others = if slot.via.is_empty() { String::new() } else { self.others(slot) };
        failed(format!("{noun} cannot be limited here; {}{others}", refusals.join("; ")))
    }

    /// Which other rungs would do, as found at the start.
    fn others(&self, slot: &Slot) -> String {
        let prefix = format!("throttle.{}.", word(slot.resource).unwrap_or_default());
        let available = self.capabilities.iter().filter(|c| c.available);
        let names: Vec<&str> = available.filter_map(|c| c.name.strip_prefix(&prefix)).collect();
        match names.is_empty() {
            true => "; no other rung is available".into(),
            false => format!("; available: {}", names.join(", ")),
        }
    }

    /// By its identity, through a pidfd.
    pub(super) fn is_of_the_agent(&self, process: &v1::ProcessIdentity) -> Result<(), String> {
        let told = super::process::told(process);
        if process.pid <= 1 || process.pid == std::process::id() as i32 {
            return Err(format!("{told} is not an agent's process"));
        }
        let _held = super::process::open(process).map_err(|missed| match missed {
            super::process::Missed::Ended => format!("{told} has ended already"),
            super::process::Missed::Other(now) => format!("pid {} is another process by now: {}", now.pid, now.name),
            super::process::Missed::Refused(why) => format!("{told} cannot be held: {why}"),
        })?;
        match living(&self.agent).iter().any(|s| s.is(process)) {
            true => Ok(()),
            false => Err(format!("{told} does not belong to the agent")),
        }
    }

    async fn examine_by(&self, rung: Rung, slot: &Slot, amount: f64) -> Result<Hold, String> {
        let view = self.agent.view();
        match rung {
            Rung::Files(files) => match &slot.process {
                None => self.examine_cgroup(slot, files, &self.usable(&view, files)?, amount),
                Some(process) => {
                    Child::can(files)?;
                    self.examine_child(slot, Child::below(&self.usable(&view, files)?, files, process), files, amount)
                }
            },
            Rung::Duty => self.examine_duty(slot, &view, amount),
            Rung::Threads(knob) => self.examine_threads(slot, knob, &view, amount),
            Rung::Gpu(setting) => self.examine_gpu(slot, setting, amount).await,
        }
    }

    /// Where a rung would write, tried by a harmless write. Harmless only for whoever alone writes there: anybody else
    /// could bring back what the sidecar has just replaced.
    pub(super) fn usable(&self, view: &AgentView, files: Files) -> Result<PathBuf, String> {
        let place = files.place(&view.places).ok_or_else(|| self.why_without_place(view, files))?;
        places::guard(&self.hierarchies, place)?;
        if self.config.only_looks {
            files.writable(place)?;
        } else {
            files.probe(place, &self.config.workspace)?;
        }
        Ok(place.clone())
    }

    fn examine_cgroup(&self, slot: &Slot, files: Files, directory: &Path, amount: f64) -> Result<Hold, String> {
        let inode = inode(directory).ok_or_else(|| format!("{} is gone", directory.display()))?;
        let place = directory.to_string_lossy().into_owned();
        // What stands there of ours is about the devices of its own time: another set of them would not be known again.
        let ours = lock(&self.held).iter().find(|h| same_file(h, files, &place, inode)).map(|h| h.new.clone());
        let like = ours.map_or_else(|| files.like(directory, &self.config.workspace), Ok)?;
        let now = files.read(directory, &like).map_err(|e| format!("{}: {e}", directory.display()))?;
        // Where a hold of ours stands, the value beneath it is what its end brings back.
        let beneath = lock(&self.held).iter().find(|h| same_file(h, files, &place, inode) && h.new == now).cloned();
        let old = beneath.map_or(now, |h| h.old);
        let mut new = files.limited(directory, &old, amount)?;
        // Another slot may hold the same file: the strictest holds.
        let others = lock(&self.held)
            .iter()
            .filter(|h| same_file(h, files, &place, inode) && h.slot != *slot)
            .map(|h| h.new.clone())
            .min_by(|a, b| files.strictness(a).total_cmp(&files.strictness(b)));
        if let Some(stricter) = others.filter(|other| files.strictness(other) < files.strictness(&new)) {
            new = stricter;
        }
        Ok(Hold {
            slot: slot.clone(),
            rung: files.rung().into(),
            place,
            inode,
            boot_id: self.boot_id.clone(),
            new,
            old,
            // As asked: by this the core knows its answer.
            amount,
        })
    }

    pub(super) async fn hold(&self, hold: Hold) -> EffectOutcome {
        let done = match Rung::of(hold.slot.resource, &hold.rung) {
            None => Err(unknown(&hold)),
            Some(Rung::Files(files)) => match Child::of(&hold, files) {
                None => self.hold_files(&hold, files).await,
                Some(Ok(child)) => self.hold_child(&hold, files, &child).await,
                Some(Err(why)) => Err(why),
            },
            Some(Rung::Duty) => self.begin_duty_cycle(&hold).await,
            Some(Rung::Threads(knob)) => self.hold_threads(&hold, knob),
            Some(Rung::Gpu(setting)) => self.hold_gpu(&hold, setting).await,
        };
        match done {
            Ok(detail) => {
                self.remember(&hold);
                EffectOutcome::Ok { detail }
            }
            Err(why) => failed(why),
        }
    }

    async fn hold_files(&self, hold: &Hold, files: Files) -> Result<String, String> {
        let directory = Path::new(&hold.place);
        let now = match self.stands(files, hold) {
            Ok(Some(now)) => now,
            Ok(None) => return Err(format!("{} is gone", hold.place)),
            Err(e) => return Err(format!("{}: {e}", hold.place)),
        };
        if now != hold.old && now != hold.new && !self.is_held(hold, files, &now) {
            return Err(format!(
                "somebody else changed {} to {} meanwhile; it was left alone",
                hold.place,
                shown(&now)
            ));
        }
        places::guard(&self.hierarchies, directory)?;
        self.write(hold, files, directory, &now).await
    }

    /// What is there is known to be ours to replace.
    pub(super) async fn write(&self, hold: &Hold, files: Files, directory: &Path, now: &str) -> Result<String, String> {
        // Time went by since it was examined.
        if files.strictness(&hold.new) < files.strictness(now) {
            files.fits(directory, &hold.new)?;
        }
        self.guard_freeze(hold, files).await?;
        let place = directory.display();
        let written =
            files.write(directory, &hold.new).or_else(|e| match self.lower_parts(files, directory, &hold.new) {
                true => files.write(directory, &hold.new),
                false => Err(e),
            });
        match written.and_then(|()| files.read(directory, &hold.new)) {
            Ok(after) if after == hold.new => {
                self.raise_parts(files, directory, now);
                let settled = self.settled(files, directory).await;
                Ok(format!("{place}: {} -> {}{settled}", shown(now), shown(&hold.new)))
            }
            Ok(after) => Err(format!("{place} took {} for {}", shown(&after), shown(&hold.new))),
            Err(e) => {
                // Some are written in steps: nothing half done is left.
                let back = match files.write(directory, now) {
                    Ok(()) => String::new(),
                    Err(e) => format!("; what stood there cannot be put back: {e}"),
                };
                Err(format!("{place} cannot be written: {e}{back}"))
            }
        }
    }

    /// A freeze holds when the last thread has come out of the kernel.
    pub(super) async fn settled(&self, files: Files, directory: &Path) -> String {
        let began = Instant::now();
        while !files.has_settled(directory) {
            if began.elapsed() >= SETTLE_WITHIN {
                return format!("; not in effect for all of it after {} ms", SETTLE_WITHIN.as_millis());
            }
            tokio::time::sleep(SETTLE_EVERY).await;
        }
        String::new()
    }

    pub(super) async fn verify(&self, hold: Hold) -> EffectOutcome {
        let state = match Rung::of(hold.slot.resource, &hold.rung) {
            None => Err(unknown(&hold)),
            Some(Rung::Files(files)) => match Child::of(&hold, files) {
                None => self.whole(files, &hold).await,
                Some(Ok(child)) => self.whole_child(files, &hold, &child).await,
                Some(Err(why)) => Err(why),
            },
            Some(Rung::Duty) => self.take_up_duty_cycle(&hold).await,
            Some(Rung::Threads(knob)) => self.look_at_threads(&hold, knob),
            Some(Rung::Gpu(setting)) => self.look_at_gpu(&hold, setting).await,
        };
        match state {
            // What froze was lifted to end a process: as if its place were another, it is applied again.
            Ok(HoldState::Foreign(now)) if now == hold.old && self.was_lifted(&hold) => {
                EffectOutcome::Verified(HoldState::Gone)
            }
            Ok(state) => {
                if state == HoldState::Ours {
                    self.remember(&hold);
                }
                EffectOutcome::Verified(state)
            }
            Err(why) => failed(why),
        }
    }

    /// What is ours is in effect: a write that an earlier life's end cut short is brought to its end.
    pub(super) async fn whole(&self, files: Files, hold: &Hold) -> Result<HoldState, String> {
        let at = |e: io::Error| format!("{}: {e}", hold.place);
        let state = self.state_of(files, hold).map_err(at)?;
        if let HoldState::Foreign(now) = &state
            && self.strictest(hold, files).as_ref() == Some(now)
        {
            // Another slot's stricter one stands there; at its end this one does again.
            return Ok(HoldState::Ours);
        }
        if state == HoldState::Ours {
            let directory = Path::new(&hold.place);
            self.guard_freeze(hold, files).await?;
            let now = files.read(directory, &hold.new).map_err(at)?;
            if now != hold.new && !self.is_under_the_whole(files, hold, &now) {
                places::guard(&self.hierarchies, directory)?;
                files.write(directory, &hold.new).map_err(at)?;
            }
        }
        Ok(state)
    }

    pub(super) async fn release(&self, hold: Hold) -> EffectOutcome {
        let state = match Rung::of(hold.slot.resource, &hold.rung) {
            None => Err(unknown(&hold)),
            Some(Rung::Files(files)) => match Child::of(&hold, files) {
                None => self.release_files(&hold, files).await,
                Some(Ok(child)) => self.release_child(&hold, files, &child).await,
                Some(Err(why)) => Err(why),
            },
            Some(Rung::Duty) => Ok(self.end_duty_cycle(&hold).await),
            Some(Rung::Threads(knob)) => self.release_threads(&hold, knob),
            Some(Rung::Gpu(setting)) => self.release_gpu(&hold, setting).await,
        };
        match state {
            Ok(state) => {
                self.forget(&hold);
                EffectOutcome::Released(state)
            }
            Err(why) => failed(why),
        }
    }

    pub(super) async fn release_files(&self, hold: &Hold, files: Files) -> Result<HoldState, String> {
        let state = self.state_of(files, hold).map_err(|e| format!("{}: {e}", hold.place))?;
        self.forget(hold);
        let ours = match &state {
            // A newer hold of ours took its place: nothing to undo, its own end brings back what was beneath.
            HoldState::Foreign(now) if self.is_held(hold, files, now) => return Ok(HoldState::Ours),
            HoldState::Ours if self.is_held(hold, files, &hold.new) => return Ok(HoldState::Ours),
            HoldState::Ours => true,
            HoldState::Foreign(_) | HoldState::Gone => false,
        };
        if ours {
            // Another slot may hold the same file, less strictly: its value is what comes back.
            let rest = self.strictest(hold, files);
            let back = rest.as_deref().unwrap_or(&hold.old);
            match files.write(Path::new(&hold.place), back) {
                Ok(()) => self.raise_parts(files, Path::new(&hold.place), &hold.new),
                Err(e) if is_gone(&e) => return Ok(HoldState::Gone),
                Err(e) => {
                    self.remember(hold);
                    return Err(format!("{} cannot be written back: {e}", hold.place));
                }
            }
        }
        if files.what == What::Freeze {
            self.unguard_freeze(&hold.place).await;
        }
        Ok(state)
    }

    pub(super) fn state_of(&self, files: Files, hold: &Hold) -> io::Result<HoldState> {
        Ok(match self.stands(files, hold)? {
            None => HoldState::Gone,
            Some(now) if now == hold.new => HoldState::Ours,
            // Cut short by the end of an earlier life: what this one saw in effect was whole.
            Some(now) if !self.is_held(hold, files, &hold.new) && files.is_half_written(&now, &hold.old, &hold.new) => {
                HoldState::Ours
            }
            Some(now) if self.is_under_the_whole(files, hold, &now) => HoldState::Ours,
            Some(now) => HoldState::Foreign(now),
        })
    }

    /// The value at a hold's place; `None` where that very place is not there any more.
    fn stands(&self, files: Files, hold: &Hold) -> io::Result<Option<String>> {
        let directory = Path::new(&hold.place);
        let child = Child::of(hold, files).and_then(Result::ok);
        let known_by = child.as_ref().map_or(directory, |child| &child.leaf);
        if hold.boot_id != self.boot_id || inode(known_by) != Some(hold.inode) {
            return Ok(None);
        }
        if let Some(child) = &child {
            if !child.is_wanted() {
                return Ok(None);
            }
            if !child.is_there() || !files.is_there(directory) {
                return Ok(Some(hold.old.clone()));
            }
        }
        match files.read(directory, &hold.new) {
            Ok(now) => Ok(Some(now)),
            // Removed between the two looks.
            Err(e) if is_gone(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn is_held(&self, hold: &Hold, files: Files, value: &str) -> bool {
        lock(&self.held).iter().any(|h| same_file(h, files, &hold.place, hold.inode) && h.new == value)
    }

    pub(super) fn strictest(&self, hold: &Hold, files: Files) -> Option<String> {
        let held = lock(&self.held);
        let others = held.iter().filter(|h| same_file(h, files, &hold.place, hold.inode) && h.slot != hold.slot);
        others.min_by(|a, b| files.strictness(&a.new).total_cmp(&files.strictness(&b.new))).map(|h| h.new.clone())
    }

    fn remember(&self, hold: &Hold) {
        lock(&self.lifted).retain(|l| (&l.slot, &l.place) != (&hold.slot, &hold.place));
        let mut held = lock(&self.held);
        // Of one slot one value stands at a place: what was remembered of it before says nothing any more.
        held.retain(|h| (&h.slot, &h.place, h.inode) != (&hold.slot, &hold.place, hold.inode));
        held.push(hold.clone());
        if held.len() > HELD_MAX {
            held.remove(0);
        }
    }

    fn forget(&self, hold: &Hold) {
        lock(&self.held).retain(|h| h != hold);
    }
}

/// One place may have holds of several resources, in a file each.
fn same_file(hold: &Hold, files: Files, place: &str, inode: u64) -> bool {
    hold.place == place && hold.inode == inode && Files::of(hold.slot.resource, &hold.rung) == Some(files)
}

fn unknown(hold: &Hold) -> String {
    format!("this sidecar knows no limit {:?} of {}", hold.rung, noun(hold.slot.resource))
}
