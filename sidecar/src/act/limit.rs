//! The throttle ladder: the agent's cgroup of either version, else a duty cycle. Old and new value are in the state
//! file before anything is written; a value that is not ours any more is left alone.
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pitwall_proto::v1;
use pitwall_sidecar_core::io::{EffectOutcome, Hold, HoldState, Slot};

use super::agent::{AgentView, lock};
use super::places;
use super::value::{FLOOR_CORES, Version};
use super::{Actor, duty};
use crate::sample::procfs::is_alive;

fn failed(why: impl Into<String>) -> EffectOutcome {
    EffectOutcome::Failed { why: why.into() }
}

fn inode(directory: &Path) -> Option<u64> {
    std::fs::metadata(directory).ok().filter(|m| m.is_dir()).map(|m| m.ino())
}

impl Actor {
    pub(super) fn examine(&self, slot: &Slot, amount: f64) -> EffectOutcome {
        if slot.resource != v1::Resource::Cpu || slot.process.is_some() {
            return failed("this sidecar limits the CPU of the whole agent only");
        }
        let view = self.agent.view();
        let mut refusals = Vec::new();
        for version in [Version::V2, Version::V1] {
            match self.usable(&view, version) {
                Ok(directory) => return self.examine_cgroup(slot, version, &directory, amount),
                Err(why) => refusals.push(format!("{}: {why}", version.rung())),
            }
        }
        match duty::usable(&view) {
            Ok(root) if is_alive(root) => EffectOutcome::Examined(Hold {
                slot: slot.clone(),
                rung: duty::RUNG.into(),
                place: root.pid.to_string(),
                inode: root.start_ticks,
                boot_id: self.boot_id.clone(),
                old: String::new(),
                new: amount.max(FLOOR_CORES).to_string(),
                amount,
            }),
            Ok(_) => failed("no process of the agent is alive"),
            Err(why) => {
                refusals.push(format!("{}: {why}", duty::RUNG));
                failed(format!("the CPU cannot be limited here; {}", refusals.join("; ")))
            }
        }
    }

    /// Where a rung would write, tried by a harmless write. Harmless only for whoever alone writes there: anybody else
    /// could bring back what the sidecar has just replaced.
    pub(super) fn usable(&self, view: &AgentView, version: Version) -> Result<PathBuf, String> {
        let place = match version {
            Version::V2 => &view.places.v2,
            Version::V1 => &view.places.cpu,
        };
        let place = place.as_ref().ok_or_else(|| self.why_without_place(view))?;
        places::guard(&self.hierarchies, place)?;
        if self.config.only_looks {
            super::beside::writable(place, version)?;
        } else {
            version.probe(place)?;
        }
        Ok(place.clone())
    }

    fn examine_cgroup(&self, slot: &Slot, version: Version, directory: &Path, amount: f64) -> EffectOutcome {
        let (now, inode) = match (version.read(directory), inode(directory)) {
            (Ok(now), Some(inode)) => (now, inode),
            (Err(e), _) => return failed(format!("{}: {e}", directory.display())),
            (Ok(_), None) => return failed(format!("{} is gone", directory.display())),
        };
        let place = directory.to_string_lossy().into_owned();
        // Where a hold of ours stands, the value beneath it is what its end brings back.
        let beneath = lock(&self.held).iter().find(|h| h.place == place && h.inode == inode && h.new == now).cloned();
        let old = beneath.map_or(now, |h| h.old);
        EffectOutcome::Examined(Hold {
            slot: slot.clone(),
            rung: version.rung().into(),
            place,
            inode,
            boot_id: self.boot_id.clone(),
            new: version.limited(&old, amount),
            old,
            // As asked: by this the core knows its answer.
            amount,
        })
    }

    pub(super) async fn hold(&self, hold: Hold) -> EffectOutcome {
        let Some(version) = Version::of_rung(&hold.rung) else {
            return match duty::is_rung(&hold.rung) {
                true => self.begin_duty_cycle(&hold).await,
                false => failed(format!("this sidecar knows no limit {:?}", hold.rung)),
            };
        };
        let directory = Path::new(&hold.place);
        let now = match self.stands(version, &hold) {
            Ok(Some(now)) => now,
            Ok(None) => return failed(format!("{} is gone", hold.place)),
            Err(e) => return failed(format!("{}: {e}", hold.place)),
        };
        let ours = now == hold.old || now == hold.new || self.is_held(&hold, &now);
        if !ours {
            return failed(format!(
                "somebody else changed {} to {} meanwhile; it was left alone",
                hold.place,
                now.replace('\n', " ")
            ));
        }
        if let Err(why) = places::guard(&self.hierarchies, directory) {
            return failed(why);
        }
        match version.write(directory, &hold.new).and_then(|()| version.read(directory)) {
            Ok(after) if after == hold.new => {
                self.remember(&hold);
                let shown = |value: &str| value.replace('\n', " ");
                EffectOutcome::Ok { detail: format!("{}: {} -> {}", hold.place, shown(&now), shown(&hold.new)) }
            }
            Ok(after) => failed(format!("{} took {} for {}", hold.place, after.replace('\n', " "), hold.new)),
            Err(e) => {
                // v1 is written in steps: nothing half done is left.
                let back = version.write(directory, &now);
                let back =
                    back.map_or_else(|e| format!("; what stood there cannot be put back: {e}"), |()| String::new());
                failed(format!("{} cannot be written: {e}{back}", hold.place))
            }
        }
    }

    pub(super) async fn verify(&self, hold: Hold) -> EffectOutcome {
        let state = match Version::of_rung(&hold.rung) {
            Some(version) => self.whole(version, &hold),
            None => self.take_up_duty_cycle(&hold).await,
        };
        match state {
            Ok(state) => {
                if state == HoldState::Ours {
                    self.remember(&hold);
                }
                EffectOutcome::Verified(state)
            }
            Err(why) => failed(why),
        }
    }

    pub(super) async fn release(&self, hold: Hold) -> EffectOutcome {
        let Some(version) = Version::of_rung(&hold.rung) else {
            return EffectOutcome::Released(self.end_duty_cycle(&hold).await);
        };
        let state = match self.state_of(version, &hold) {
            Ok(state) => state,
            Err(e) => return failed(format!("{}: {e}", hold.place)),
        };
        self.forget(&hold);
        let state = match state {
            // A newer hold of ours took its place: nothing to undo, its own end brings back what was beneath.
            HoldState::Foreign(now) if self.is_held(&hold, &now) => HoldState::Ours,
            HoldState::Ours if self.is_held(&hold, &hold.new) => HoldState::Ours,
            HoldState::Ours => match version.write(Path::new(&hold.place), &hold.old) {
                Ok(()) => HoldState::Ours,
                Err(e) if e.kind() == io::ErrorKind::NotFound => HoldState::Gone,
                Err(e) => {
                    self.remember(&hold);
                    return failed(format!("{} cannot be written back: {e}", hold.place));
                }
            },
            other => other,
        };
        EffectOutcome::Released(state)
    }

    /// What is ours is in effect: a write that an earlier life's end cut short is brought to its end.
    fn whole(&self, version: Version, hold: &Hold) -> Result<HoldState, String> {
        let at = |e: io::Error| format!("{}: {e}", hold.place);
        let state = self.state_of(version, hold).map_err(at)?;
        let directory = Path::new(&hold.place);
        if state == HoldState::Ours && version.read(directory).map_err(at)? != hold.new {
            places::guard(&self.hierarchies, directory)?;
            version.write(directory, &hold.new).map_err(at)?;
        }
        Ok(state)
    }

    fn state_of(&self, version: Version, hold: &Hold) -> io::Result<HoldState> {
        Ok(match self.stands(version, hold)? {
            None => HoldState::Gone,
            Some(now) if now == hold.new || version.is_half_written(&now, &hold.old, &hold.new) => HoldState::Ours,
            Some(now) => HoldState::Foreign(now),
        })
    }

    /// The value at a hold's place; `None` where that very place is not there any more.
    fn stands(&self, version: Version, hold: &Hold) -> io::Result<Option<String>> {
        let directory = Path::new(&hold.place);
        if hold.boot_id != self.boot_id || inode(directory) != Some(hold.inode) {
            return Ok(None);
        }
        match version.read(directory) {
            Ok(now) => Ok(Some(now)),
            // Removed between the two looks.
            Err(e)
                if e.kind() == io::ErrorKind::NotFound
                    || e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn is_held(&self, hold: &Hold, value: &str) -> bool {
        lock(&self.held).iter().any(|h| h.place == hold.place && h.inode == hold.inode && h.new == value)
    }

    fn remember(&self, hold: &Hold) {
        let mut held = lock(&self.held);
        // One value stands at a place: what was remembered of it before says nothing any more.
        held.retain(|h| (&h.place, h.inode) != (&hold.place, hold.inode));
        held.push(hold.clone());
        // What was never released belongs to cgroups that are gone.
        if held.len() > 64 {
            held.remove(0);
        }
    }

    fn forget(&self, hold: &Hold) {
        lock(&self.held).retain(|h| h != hold);
    }
}
