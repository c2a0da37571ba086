//! The rungs that are files of a cgroup, one for each resource and version: what stands there, what would hold the agent
//! and is never looser than that, and whether a write was cut short. `limit` decides when, `child` makes a cgroup for one
//! process, `devices` and `value` know the two limits that are more than one number.
use std::io;
use std::path::{Path, PathBuf};

use pitwall_proto::v1::Resource;
use rustix::fs::Access;

use super::devices;
use super::value::Version;
use crate::sample::cgroup::Places;

/// What an agent may still need beyond what it uses when its memory is limited: else it is killed at once.
pub const MEMORY_MARGIN: u64 = 16 << 20;
/// The weight of everybody who asked for nothing, and what v1 calls it.
const WEIGHT_USUAL: f64 = 100.0;
const SHARES_USUAL: f64 = 1024.0;
const WEIGHTS: (f64, f64) = (1.0, 10_000.0);
const SHARES: (f64, f64) = (2.0, 262_144.0);
/// v1 says "no limit" by a number that no machine has.
const UNLIMITED: u64 = 1 << 60;
const V1_NO_MEMORY_LIMIT: &str = "9223372036854771712";

/// What the files of a cgroup can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Cpu,
    Weight,
    Memory,
    Pids,
    Io,
    Freeze,
}

impl What {
    pub const ALL: [Self; 6] = [Self::Cpu, Self::Weight, Self::Memory, Self::Pids, Self::Io, Self::Freeze];

    pub fn of(resource: Resource) -> Option<Self> {
        Self::ALL.into_iter().find(|what| what.resource() == resource)
    }

    pub fn resource(self) -> Resource {
        match self {
            Self::Cpu => Resource::Cpu,
            Self::Weight => Resource::CpuWeight,
            Self::Memory => Resource::Memory,
            Self::Pids => Resource::Pids,
            Self::Io => Resource::Io,
            Self::Freeze => Resource::Freeze,
        }
    }
}

/// One rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    pub what: What,
    pub version: Version,
}

impl Files {
    pub fn of(resource: Resource, rung: &str) -> Option<Self> {
        Some(Self { what: What::of(resource)?, version: Version::of_rung(rung)? })
    }

    pub fn rung(self) -> &'static str {
        self.version.rung()
    }

    /// The file that is written; without it there is no such controller.
    pub fn file(self) -> &'static str {
        match (self.what, self.version) {
            (What::Cpu, version) => version.file(),
            (What::Weight, Version::V2) => "cpu.weight",
            (What::Weight, Version::V1) => "cpu.shares",
            (What::Memory, Version::V2) => "memory.max",
            (What::Memory, Version::V1) => "memory.limit_in_bytes",
            (What::Pids, _) => "pids.max",
            (What::Io, Version::V2) => devices::V2,
            (What::Io, Version::V1) => devices::V1_READ,
            (What::Freeze, Version::V2) => "cgroup.freeze",
            (What::Freeze, Version::V1) => "freezer.state",
        }
    }

    /// Of which controller, for messages.
    pub fn controller(self) -> &'static str {
        match (self.what, self.version) {
            (What::Cpu | What::Weight, _) => "cpu",
            (What::Memory, _) => "memory",
            (What::Pids, _) => "pids",
            (What::Io, Version::V2) => "io",
            (What::Io, Version::V1) => "blkio",
            (What::Freeze, _) => "freezer",
        }
    }

    pub fn place(self, places: &Places) -> Option<&PathBuf> {
        match (self.version, self.what) {
            (Version::V2, _) => places.v2.as_ref(),
            (Version::V1, What::Cpu | What::Weight) => places.cpu.as_ref(),
            (Version::V1, What::Memory) => places.memory.as_ref(),
            (Version::V1, What::Pids) => places.pids.as_ref(),
            (Version::V1, What::Io) => places.blkio.as_ref(),
            (Version::V1, What::Freeze) => places.freezer.as_ref(),
        }
    }

    /// Whether there is such a controller in this cgroup.
    pub fn is_there(self, directory: &Path) -> bool {
        directory.join(self.file()).exists()
    }

    /// What stands there; for I/O of the devices that `like` names, as every value of it does.
    pub fn read(self, directory: &Path, like: &str) -> io::Result<String> {
        let line = || Ok(std::fs::read_to_string(directory.join(self.file()))?.trim().to_owned());
        match (self.what, self.version) {
            (What::Cpu, version) => version.read(directory),
            (What::Io, version) => devices::read(version, directory, like),
            // What it is by itself, and not by a cgroup above it.
            (What::Freeze, Version::V1) => {
                Ok(std::fs::read_to_string(directory.join("freezer.self_freezing"))?.trim().to_owned())
            }
            (What::Weight | What::Memory | What::Pids, _) | (What::Freeze, Version::V2) => line(),
        }
    }

    pub fn write(self, directory: &Path, value: &str) -> io::Result<()> {
        match (self.what, self.version) {
            (What::Cpu, version) => version.write(directory, value),
            (What::Io, version) => devices::write(version, directory, value),
            (What::Freeze, Version::V1) => {
                let word = if value == "1" { "FROZEN" } else { "THAWED" };
                std::fs::write(directory.join(self.file()), word)
            }
            (What::Weight | What::Memory | What::Pids, _) | (What::Freeze, Version::V2) => {
                std::fs::write(directory.join(self.file()), value)
            }
        }
    }

    /// What a limit there names beside numbers: for I/O the devices, one line each.
    pub fn like(self, directory: &Path, workspace: &Path) -> Result<String, String> {
        match self.what {
            What::Io => devices::of_agent(self.version, directory, workspace),
            _ => Ok(String::new()),
        }
    }

    /// What holds the agent to `amount`, given what stands there: never looser than that. Or why it cannot be.
    pub fn limited(self, directory: &Path, now: &str, amount: f64) -> Result<String, String> {
        let value = self.stricter_than(now, amount)?;
        if value != now {
            self.fits(directory, &value)?;
        }
        Ok(value)
    }

    /// The same, where nothing of what is used is counted yet.
    pub fn stricter_than(self, now: &str, amount: f64) -> Result<String, String> {
        if !amount.is_finite() || amount < 0.0 {
            return Err(format!("{amount} is no amount that can be held"));
        }
        let lower = |asked: f64| match number(now) {
            Some(stands) if (stands as f64) <= asked => now.to_owned(),
            _ => format!("{}", asked as u64),
        };
        Ok(match (self.what, self.version) {
            (What::Cpu, version) => version.limited(now, amount),
            (What::Weight, Version::V2) => lower(amount.round().clamp(WEIGHTS.0, WEIGHTS.1)),
            (What::Weight, Version::V1) => {
                lower((amount * SHARES_USUAL / WEIGHT_USUAL).round().clamp(SHARES.0, SHARES.1))
            }
            (What::Memory, _) => {
                let page = rustix::param::page_size().max(1) as u64;
                lower((amount as u64 / page * page) as f64)
            }
            (What::Pids, _) => lower(amount.floor().max(1.0)),
            (What::Io, _) => devices::limited(now, amount),
            (What::Freeze, _) => "1".into(),
        })
    }

    /// A limit that would be below what is used now is refused: the kernel would kill for it.
    pub fn fits(self, directory: &Path, value: &str) -> Result<(), String> {
        let (What::Memory, Some(limit)) = (self.what, number(value).filter(|bytes| *bytes < UNLIMITED)) else {
            return Ok(());
        };
        let file = match self.version {
            Version::V2 => "memory.current",
            Version::V1 => "memory.usage_in_bytes",
        };
        let used = std::fs::read_to_string(directory.join(file)).ok().and_then(|text| number(&text));
        let used = used.ok_or_else(|| format!("{}: what is used cannot be read", directory.join(file).display()))?;
        let least = used.saturating_add(MEMORY_MARGIN);
        if limit < least {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            return Err(format!(
                "{:.1} MiB is below what is used: {:.1} MiB with its file cache; at least {:.1} MiB can be held now",
                mib(limit),
                mib(used),
                mib(least)
            ));
        }
        Ok(())
    }

    /// Whether `now` is what a write that was cut short between `old` and `new` leaves.
    pub fn is_half_written(self, now: &str, old: &str, new: &str) -> bool {
        match self.what {
            What::Cpu => self.version.is_half_written(now, old, new),
            What::Io => devices::is_half_written(now, old, new),
            // One write each.
            What::Weight | What::Memory | What::Pids | What::Freeze => false,
        }
    }

    /// What a new cgroup has.
    pub fn fresh(self, like: &str) -> String {
        match (self.what, self.version) {
            (What::Cpu, Version::V2) => "max 100000".into(),
            (What::Cpu, Version::V1) => "-1\n100000".into(),
            (What::Weight, Version::V2) => "100".into(),
            (What::Weight, Version::V1) => "1024".into(),
            (What::Memory, Version::V1) => V1_NO_MEMORY_LIMIT.into(),
            (What::Memory, Version::V2) | (What::Pids, _) => "max".into(),
            (What::Io, _) => devices::unlimited(like),
            (What::Freeze, _) => "0".into(),
        }
    }

    /// Whether nothing of this kind is asked for there. A period without a quota is none.
    pub fn is_fresh(self, directory: &Path) -> bool {
        if self.what == What::Io {
            return devices::none_there(self.version, directory);
        }
        let Ok(now) = self.read(directory, "") else { return true };
        match self.what {
            What::Cpu => self.version.cores(&now).is_none(),
            _ => now == self.fresh(""),
        }
    }

    /// To be compared: the less, the stricter.
    pub fn strictness(self, value: &str) -> f64 {
        match self.what {
            What::Cpu => self.version.cores(value).unwrap_or(f64::INFINITY),
            What::Io => devices::least(value),
            What::Freeze if value == "1" => 0.0,
            What::Weight | What::Memory | What::Pids | What::Freeze => {
                number(value).map_or(f64::INFINITY, |n| n as f64)
            }
        }
    }

    /// A harmless try: the same value again.
    pub fn probe(self, directory: &Path, workspace: &Path) -> Result<(), String> {
        let file = directory.join(self.file());
        let at = |e: io::Error| format!("{} cannot be written: {e}", file.display());
        if !self.is_there(directory) {
            return Err(self.absent(directory));
        }
        match (self.what, self.version) {
            // Not by way of "no quota": a probe must not lift a limit for an instant.
            (What::Cpu, Version::V1) => Version::V1.probe(directory).map_err(at),
            (What::Io, _) => match self.like(directory, workspace) {
                Ok(like) => {
                    let now = self.read(directory, &like).map_err(at)?;
                    self.write(directory, &now).map_err(at)
                }
                // It can be written; of what, is known when the agent has read or written something.
                Err(_no_device_yet) => rustix::fs::access(&file, Access::WRITE_OK).map_err(|e| at(e.into())),
            },
            _ => {
                let now = self.read(directory, "").map_err(at)?;
                self.write(directory, &now).map_err(at)
            }
        }
    }

    /// Asked for, and not tried.
    pub fn writable(self, directory: &Path) -> Result<(), String> {
        let file = directory.join(self.file());
        if !file.exists() {
            return Err(self.absent(directory));
        }
        rustix::fs::access(&file, Access::WRITE_OK).map_err(|e| format!("{} cannot be written: {e}", file.display()))
    }

    fn absent(self, directory: &Path) -> String {
        format!("{} has no {} controller of {}", directory.display(), self.controller(), self.rung())
    }

    /// Once written: whether it is in effect, for what takes its time. `true`: there is nothing to wait for.
    pub fn has_settled(self, directory: &Path) -> bool {
        let text = |file: &str| std::fs::read_to_string(directory.join(file)).unwrap_or_default();
        match (self.what, self.version) {
            (What::Freeze, Version::V2) => text("cgroup.events").lines().any(|line| line == "frozen 1"),
            (What::Freeze, Version::V1) => text(self.file()).trim() == "FROZEN",
            _ => true,
        }
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: Version = Version::V1;
    const V2: Version = Version::V2;

    #[test]
    fn what_is_written_is_what_was_asked_and_never_looser_than_what_stands_there() {
        let here = tempfile::tempdir().unwrap();
        std::fs::write(here.path().join("memory.current"), "104857600\n").unwrap();
        std::fs::write(here.path().join("memory.usage_in_bytes"), "104857600\n").unwrap();
        for (what, version, now, amount, then) in [
            (What::Weight, V2, "100", 20.0, "20"),
            (What::Weight, V2, "100", 400.0, "100"),
            (What::Weight, V2, "10000", 20_000.0, "10000"),
            (What::Weight, V1, "1024", 50.0, "512"),
            (What::Weight, V1, "256", 50.0, "256"),
            (What::Weight, V1, "1024", 0.0, "2"),
            (What::Pids, V2, "max", 200.7, "200"),
            (What::Pids, V1, "50", 200.0, "50"),
            (What::Pids, V1, "max", 0.0, "1"),
            (What::Memory, V2, "max", 1_073_741_900.0, "1073741824"),
            (What::Memory, V2, "536870912", 1_073_741_824.0, "536870912"),
            (What::Memory, V1, V1_NO_MEMORY_LIMIT, 1_073_741_824.0, "1073741824"),
            (What::Freeze, V2, "0", 1.0, "1"),
            (What::Freeze, V1, "1", 1.0, "1"),
            (What::Cpu, V2, "max 100000", 0.2, "4000 20000"),
        ] {
            let files = Files { what, version };
            assert_eq!(files.limited(here.path(), now, amount).as_deref(), Ok(then), "{files:?} {now} {amount}");
            assert!(files.strictness(then) <= files.strictness(now), "{files:?} {now} {amount}");
            assert!(files.limited(here.path(), now, f64::NAN).is_err());
        }
    }

    #[test]
    fn memory_is_never_limited_below_what_is_used_and_the_refusal_has_the_figures() {
        let here = tempfile::tempdir().unwrap();
        let v2 = Files { what: What::Memory, version: V2 };
        assert!(v2.limited(here.path(), "max", 1e9).unwrap_err().contains("cannot be read"));
        std::fs::write(here.path().join("memory.current"), "104857600\n").unwrap();
        let why = v2.limited(here.path(), "max", 110e6).unwrap_err();
        assert!(why.contains("100.0 MiB") && why.contains("116.0 MiB"), "{why}");
        assert!(v2.limited(here.path(), "max", (104_857_600 + MEMORY_MARGIN) as f64).is_ok());
    }

    #[test]
    fn a_new_cgroup_is_known_for_one() {
        let here = tempfile::tempdir().unwrap();
        for what in What::ALL {
            assert_eq!(What::of(what.resource()), Some(what));
            for version in [V1, V2] {
                let files = Files { what, version };
                assert_eq!(Files::of(what.resource(), files.rung()), Some(files));
                assert!(files.is_fresh(here.path()), "{files:?}: no such file");
                assert!(files.probe(here.path(), here.path()).unwrap_err().contains("has no"), "{files:?}");
            }
        }
        let weight = Files { what: What::Weight, version: V2 };
        for (text, fresh) in [("100\n", true), ("20\n", false)] {
            std::fs::write(here.path().join("cpu.weight"), text).unwrap();
            assert_eq!(weight.is_fresh(here.path()), fresh);
        }
    }
}
