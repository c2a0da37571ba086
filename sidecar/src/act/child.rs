//! A cgroup for one process alone, below its agent's leaf: `pw-PID-START`, made when it is limited and removed when its
//! last limit ends; what the process starts meanwhile is born in it. On version 2 it is a *threaded* one: of a cgroup that
//! holds processes itself the kernel divides nothing else, so memory and I/O of one process cannot be limited there.
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pitwall_proto::v1;
use pitwall_sidecar_core::io::Hold;

use super::files::{Files, What};
use super::process;
use super::value::Version;
use crate::sample::cgroup::{Hierarchies, children, directory_identity};
use crate::sample::procfs::{identity_of, is_alive};

const PREFIX: &str = "pw-";
/// What forks fast is moved in several rounds; then the kernel needs a moment until a cgroup that was left is empty.
const VACATE_WITHIN: Duration = Duration::from_secs(2);
const VACATE_EVERY: Duration = Duration::from_millis(5);
/// Of version 2, those that can be given to a part of a cgroup that holds processes itself.
const THREADED: [&str; 2] = ["cpu", "pids"];

/// The agent's own cgroup, where `directory` is that of one process.
pub fn leaf_of(directory: PathBuf) -> PathBuf {
    match directory.parent() {
        Some(leaf) if is_child(&directory) => leaf.to_owned(),
        Some(_) | None => directory,
    }
}

fn is_child(directory: &Path) -> bool {
    let name = directory.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let numbers = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    numbers.is_some_and(|(pid, start)| digits(pid) && digits(start))
}

/// One process's cgroup in one hierarchy; it need not be there yet.
pub struct Child {
    files: Files,
    process: v1::ProcessIdentity,
    pub leaf: PathBuf,
    pub directory: PathBuf,
}

impl Child {
    pub fn below(leaf: &Path, files: Files, process: &v1::ProcessIdentity) -> Self {
        let directory = leaf.join(format!("{PREFIX}{}-{}", process.pid, process.start_ticks));
        Self { files, process: process.clone(), leaf: leaf.to_owned(), directory }
    }

    /// `None`: the hold is of the whole agent. `Err`: it names a place that is not its process's.
    pub fn of(hold: &Hold, files: Files) -> Option<Result<Self, String>> {
        let process = hold.slot.process.as_ref()?;
        let child = Path::new(&hold.place).parent().map(|leaf| Self::below(leaf, files, process));
        let fits = child.filter(|child| child.directory == Path::new(&hold.place));
        Some(fits.ok_or_else(|| format!("{} is no cgroup of pid {}", hold.place, process.pid)))
    }

    /// Whether the kernel can limit a part of this leaf so; tried, and removed again.
    pub fn probe(leaf: &Path, files: Files) -> Result<(), String> {
        // Pid 0 with a start that no process has: nobody's.
        let nobody = v1::ProcessIdentity { pid: 0, start_ticks: u64::MAX, name: String::new() };
        let child = Self::below(leaf, files, &nobody);
        let made = child.make().and_then(|()| child.files.probe(&child.directory, Path::new("/")));
        child.remove().map_err(|e| format!("{}: {e}", child.directory.display())).and(made)
    }

    /// What can be limited of one process, by version.
    pub fn can(files: Files) -> Result<(), String> {
        match (files.version, files.what) {
            (Version::V2, What::Memory | What::Io) => Err(format!(
                "the {} controller of cgroup2 cannot be given to one process of a cgroup that holds others: limit the \
                 whole agent",
                files.controller()
            )),
            _ => Ok(()),
        }
    }

    pub fn is_there(&self) -> bool {
        self.directory.is_dir()
    }

    pub fn make(&self) -> Result<(), String> {
        Self::can(self.files)?;
        let shown = self.directory.display();
        match std::fs::create_dir(&self.directory) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(format!("{shown} cannot be made: {e}")),
        }
        let made = self.divide();
        if made.is_err() && self.is_empty() {
            let _ = self.remove();
        }
        made
    }

    fn divide(&self) -> Result<(), String> {
        if self.files.version == Version::V1 {
            return Ok(());
        }
        let kind = self.directory.join("cgroup.type");
        if std::fs::read_to_string(&kind).is_ok_and(|kind| kind.trim() != "threaded") {
            std::fs::write(&kind, "threaded").map_err(|e| {
                format!("{} cannot be divided, it has cgroups of its own with processes: {e}", self.leaf.display())
            })?;
        }
        let controller = self.files.controller();
        if THREADED.contains(&controller) && !self.files.is_there(&self.directory) {
            let control = self.leaf.join("cgroup.subtree_control");
            std::fs::write(&control, format!("+{controller}"))
                .map_err(|e| format!("{}: +{controller}: {e}", control.display()))?;
        }
        Ok(())
    }

    /// Moves the process there, with all its threads, and nobody else.
    pub fn join(&self) -> Result<(), String> {
        let shown = process::told(&self.process);
        let _held = process::open(&self.process).map_err(|missed| format!("{shown} cannot be held: {missed:?}"))?;
        std::fs::write(self.directory.join("cgroup.procs"), self.process.pid.to_string())
            .map_err(|e| format!("{shown} cannot be moved to {}: {e}", self.directory.display()))?;
        match identity_of(self.process.pid) {
            // It ended meanwhile, and the move was of whoever has its pid now.
            Some(other) if other.start_ticks != self.process.start_ticks => {
                let _ = std::fs::write(self.leaf.join("cgroup.procs"), other.pid.to_string());
                Err(format!("{shown} ended meanwhile, and its pid is {}'s", other.name))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether its process is in it.
    pub fn holds_it(&self, hierarchies: &Hierarchies) -> bool {
        let places = hierarchies.of_process(self.process.pid);
        let theirs = self.files.place(&places).and_then(|d| directory_identity(d));
        theirs.is_some() && theirs == directory_identity(&self.directory)
    }

    /// Where the process was moved by somebody else, for messages.
    pub fn where_it_is(&self, hierarchies: &Hierarchies) -> String {
        let places = hierarchies.of_process(self.process.pid);
        self.files.place(&places).map_or_else(|| "another cgroup".into(), |d| d.display().to_string())
    }

    /// The process, or what it started, is there to be limited.
    pub fn is_wanted(&self) -> bool {
        is_alive(&self.process) || !self.is_empty()
    }

    pub fn is_process_alive(&self) -> bool {
        is_alive(&self.process)
    }

    fn threads(&self) -> Vec<String> {
        // Of a threaded one only the threads can be read.
        let of = |file: &str| std::fs::read_to_string(self.directory.join(file));
        let text = of("cgroup.threads").or_else(|_| of("tasks")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn is_empty(&self) -> bool {
        self.threads().is_empty()
    }

    /// Whether no limit at all stands there.
    fn is_spare(&self) -> bool {
        let version = self.files.version;
        What::ALL.into_iter().all(|what| Files { what, version }.is_fresh(&self.directory))
    }

    /// Gives back whoever is in it and removes it, unless another limit needs it.
    pub async fn vacate(&self) -> Result<(), String> {
        let until = Instant::now() + VACATE_WITHIN;
        while self.is_there() && self.is_spare() {
            for thread in self.threads() {
                // By any of its threads the whole process is moved; one that has ended needs none.
                let _ = std::fs::write(self.leaf.join("cgroup.procs"), thread);
            }
            match self.remove() {
                Ok(()) => return Ok(()),
                Err(e) if Instant::now() >= until => {
                    return Err(format!("{} cannot be removed: {e}", self.directory.display()));
                }
                Err(_busy) => tokio::time::sleep(VACATE_EVERY).await,
            }
        }
        Ok(())
    }

    fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir(&self.directory) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        // What was given to the last part of it is taken back: then it is as before.
        if self.files.version == Version::V2 && children(&self.leaf).is_empty() {
            let control = self.leaf.join("cgroup.subtree_control");
            let given = std::fs::read_to_string(&control).unwrap_or_default();
            for controller in given.split_whitespace().filter(|c| THREADED.contains(c)) {
                let _ = std::fs::write(&control, format!("-{controller}"));
            }
        }
        Ok(())
    }
}

/// The cgroups of single processes right below a leaf.
pub fn all_below(leaf: &Path) -> Vec<PathBuf> {
    children(leaf).into_iter().filter(|d| is_child(d)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitwall_sidecar_core::io::Slot;

    #[test]
    fn a_processs_cgroup_is_known_by_its_name_and_its_leaf_is_above_it() {
        for (given, leaf) in [
            ("/cg/leaf/pw-12-345", "/cg/leaf"),
            ("/cg/leaf", "/cg/leaf"),
            ("/cg/pw-12", "/cg/pw-12"),
            ("/cg/pw-12-x", "/cg/pw-12-x"),
            ("/cg/pw--1", "/cg/pw--1"),
        ] {
            assert_eq!(leaf_of(given.into()), PathBuf::from(leaf), "{given}");
        }
    }

    #[test]
    fn a_hold_of_a_process_names_its_own_cgroup_and_no_other() {
        let process = v1::ProcessIdentity { pid: 12, start_ticks: 345, name: String::new() };
        let files = Files { what: What::Cpu, version: Version::V1 };
        let hold = |place: &str, process: Option<v1::ProcessIdentity>| Hold {
            slot: Slot { resource: v1::Resource::Cpu, process, via: String::new() },
            rung: files.rung().into(),
            place: place.into(),
            inode: 1,
            boot_id: String::new(),
            old: String::new(),
            new: String::new(),
            amount: 1.0,
        };
        assert!(Child::of(&hold("/cg/leaf", None), files).is_none());
        let child = Child::of(&hold("/cg/leaf/pw-12-345", Some(process.clone())), files).unwrap().unwrap();
        assert_eq!(child.leaf, PathBuf::from("/cg/leaf"));
        for place in ["/cg/leaf", "/cg/leaf/pw-12-346", "/cg/leaf/pw-1-345"] {
            assert!(Child::of(&hold(place, Some(process.clone())), files).unwrap().is_err(), "{place}");
        }
    }
}
