//! Cgroups of the agent's own: made beneath the sidecar's, so that the agent never leaves the limits it came with;
//! guarded, and removed at the end. Where none can be made there is a reason, never an error.
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::Access;

use super::child::leaf_of;
use super::shim;
use crate::sample::cgroup::{Hierarchies, Places, children, directory_identity, identities_upwards, members};
use crate::sample::procfs::ProcFs;

/// The kernel needs a moment until a cgroup that was left is empty.
const REMOVE_WITHIN: Duration = Duration::from_secs(2);

/// The name is the same in every life of a sidecar, so that nothing is left behind by a killed one.
pub fn name(agent: &str, state_dir: &Path) -> String {
    let plain = agent.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' });
    let plain: String = plain.take(48).collect();
    let state_dir = state_dir.canonicalize().unwrap_or_else(|_| state_dir.to_owned());
    let digest = blake3::hash(state_dir.as_os_str().as_encoded_bytes()).to_hex();
    format!("pitwall-{plain}-{}", &digest[..8])
}

/// Makes what can be made here, and tries that a process can move there.
pub fn make(hierarchies: &Hierarchies, name: &str, self_exe: &Path) -> (Places, Vec<String>) {
    let own = hierarchies.of_process(std::process::id() as i32);
    let mut refusals = Vec::new();
    let mut places = Places::default();
    if let Some(own) = &own.v2 {
        note(make_v2(hierarchies, own, name), &mut places.v2, &mut refusals);
    }
    for (own, place) in [
        (&own.cpu, &mut places.cpu),
        (&own.cpuacct, &mut places.cpuacct),
        (&own.memory, &mut places.memory),
        (&own.pids, &mut places.pids),
        (&own.blkio, &mut places.blkio),
        (&own.freezer, &mut places.freezer),
    ] {
        if let Some(own) = own {
            note(make_directory(own, name), place, &mut refusals);
        }
    }
    if own.is_empty() {
        refusals.push("no cgroup hierarchy is mounted here".into());
    }
    let refused = match try_to_join(&places, self_exe) {
        Ok(refused) => refused,
        Err(why) => {
            refusals.push(why);
            places.directories().into_iter().map(Path::to_owned).collect()
        }
    };
    for directory in refused {
        refusals.push(format!("a process may not be moved to {}", directory.display()));
        let _ = std::fs::remove_dir(&directory);
        for place in places.each_mut() {
            if place.as_ref() == Some(&directory) {
                *place = None;
            }
        }
    }
    (places, refusals)
}

fn note(made: Result<PathBuf, String>, place: &mut Option<PathBuf>, refusals: &mut Vec<String>) {
    match made {
        Ok(directory) => *place = Some(directory),
        Err(why) => refusals.push(why),
    }
}

fn make_directory(parent: &Path, name: &str) -> Result<PathBuf, String> {
    let directory = parent.join(name);
    match std::fs::create_dir(&directory) {
        Ok(()) => Ok(directory),
        // An earlier life's.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(directory),
        Err(e) => Err(format!("{} cannot be made: {e}", directory.display())),
    }
}

/// Beneath the sidecar's own cgroup, or beside it where that is as good: the kernel gives controllers only to children
/// of cgroups without processes. Never out of a limit.
fn make_v2(hierarchies: &Hierarchies, own: &Path, name: &str) -> Result<PathBuf, String> {
    let top = hierarchies.top_of(own).unwrap_or(own);
    let mut without_cpu: Option<PathBuf> = None;
    let mut why = String::new();
    for parent in own.ancestors().take_while(|d| d.starts_with(top)) {
        match make_child(parent, name) {
            Ok((made, true)) => {
                if let Some(lesser) = without_cpu {
                    let _ = std::fs::remove_dir(lesser);
                }
                return Ok(made);
            }
            Ok((made, false)) if without_cpu.is_none() => without_cpu = Some(made),
            Ok((made, false)) => drop(std::fs::remove_dir(made)),
            Err(refusal) if why.is_empty() => why = refusal,
            Err(_further) => {}
        }
        if is_limited(parent) {
            break;
        }
    }
    without_cpu.ok_or(why)
}

/// A cgroup that processes can be moved to, and whether it has the CPU controller.
fn make_child(parent: &Path, name: &str) -> Result<(PathBuf, bool), String> {
    let writable = |path: &Path| rustix::fs::access(path, Access::WRITE_OK).is_ok();
    if !writable(parent) || !writable(&parent.join("cgroup.procs")) {
        return Err(format!("{} is not this user's to divide", parent.display()));
    }
    if may_hold_controllers(parent) {
        enable_controllers(parent);
    }
    let made = make_directory(parent, name)?;
    // Below a cgroup that has both processes and controllers the kernel makes such as hold no process.
    // One that an earlier life left with a part for one process says so, and holds processes all the same.
    let kind = std::fs::read_to_string(made.join("cgroup.type")).unwrap_or_default();
    if !["domain", "domain threaded"].contains(&kind.trim()) {
        let _ = std::fs::remove_dir(&made);
        return Err(format!("{} holds processes itself", parent.display()));
    }
    let controllers = std::fs::read_to_string(made.join("cgroup.controllers")).unwrap_or_default();
    let has_cpu = controllers.split_whitespace().any(|c| c == "cpu");
    Ok((made, has_cpu))
}

/// The top cgroup, which alone has no type, or one without processes of its own. In others a controller makes the
/// children useless.
fn may_hold_controllers(parent: &Path) -> bool {
    let empty = std::fs::read_to_string(parent.join("cgroup.procs")).is_ok_and(|text| text.trim().is_empty());
    empty || !parent.join("cgroup.type").exists()
}

fn enable_controllers(parent: &Path) {
    let there = std::fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    for controller in there.split_whitespace().filter(|c| ["cpu", "memory", "pids", "io"].contains(c)) {
        // Refused where it is not possible: then the child lacks it, and the probe says so.
        let _ = std::fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

fn is_limited(directory: &Path) -> bool {
    ["cpu.max", "memory.max", "memory.high", "pids.max"].iter().any(|file| {
        let limit = std::fs::read_to_string(directory.join(file));
        limit.is_ok_and(|text| !text.starts_with("max"))
    })
}

/// Whoever enters it does nothing more.
pub(super) fn is_frozen(directory: &Path) -> bool {
    let text = |file: &str| std::fs::read_to_string(directory.join(file)).unwrap_or_default();
    let v2 = text("cgroup.freeze").trim() == "1" || text("cgroup.events").lines().any(|line| line == "frozen 1");
    v2 || !matches!(text("freezer.state").trim(), "" | "THAWED")
}

/// A short-lived process of this program moves itself to each place. Gives back those that refused it.
fn try_to_join(places: &Places, self_exe: &Path) -> Result<Vec<PathBuf>, String> {
    let mut refused = Vec::new();
    for directory in places.directories() {
        // An earlier life's, with its agent frozen: whoever enters it stands still, and this would wait for ever.
        if is_frozen(directory) {
            continue;
        }
        let mut command = Command::new(self_exe);
        command.args(shim::join_only(directory)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().map_err(|e| format!("{} cannot be started: {e}", self_exe.display()))?;
        if !status.success() {
            refused.push(directory.to_owned());
        }
    }
    Ok(refused)
}

/// May a limit be written here? Never where it would hold the sidecar itself.
pub fn guard(hierarchies: &Hierarchies, directory: &Path) -> Result<(), String> {
    let identity = directory_identity(directory).ok_or_else(|| format!("{} is gone", directory.display()))?;
    let own = hierarchies.of_process(std::process::id() as i32);
    let above = own.directories().into_iter().any(|own| identities_upwards(hierarchies, own).contains(&identity));
    let mut pids = Vec::new();
    members(&mut ProcFs::default(), directory, &mut pids);
    if above || pids.contains(&(std::process::id() as i32)) {
        return Err(format!("{} holds the sidecar itself: give the agent a cgroup of its own", directory.display()));
    }
    Ok(())
}

/// The cgroups of a process that was started by somebody else, as far as they hold it and its descendants alone.
pub fn own_of(hierarchies: &Hierarchies, pid: i32, agents: &[i32]) -> Result<Places, String> {
    let mut places = hierarchies.of_process(pid);
    let mut why = None;
    let mut proc = ProcFs::default();
    let mut pids = Vec::new();
    for place in places.each_mut() {
        *place = place.take().map(leaf_of);
        let Some(directory) = place else { continue };
        members(&mut proc, directory, &mut pids);
        let refusal = match pids.iter().find(|pid| !agents.contains(pid)) {
            Some(other) => Err(format!("{} also holds pid {other}, which is not the agent's", directory.display())),
            None => guard(hierarchies, directory),
        };
        if let Err(refusal) = refusal {
            // The first is of what limits the CPU.
            why.get_or_insert(refusal);
            *place = None;
        }
    }
    if places.is_empty() { Err(why.unwrap_or_else(|| "no cgroup of it is visible here".into())) } else { Ok(places) }
}

/// Removes the cgroups and those that the agent made below them. To be called when no process is left in them.
pub async fn remove(places: &Places) -> Result<usize, String> {
    let mut removed = 0;
    for directory in places.directories() {
        let deadline = Instant::now() + REMOVE_WITHIN;
        loop {
            match remove_tree(directory, 0) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) if Instant::now() >= deadline => return Err(format!("{}: {e}", directory.display())),
                Err(_busy) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        removed += 1;
    }
    Ok(removed)
}

pub(super) fn remove_tree(directory: &Path, depth: usize) -> io::Result<()> {
    if depth < 16 {
        for child in children(directory) {
            remove_tree(&child, depth + 1)?;
        }
    }
    std::fs::remove_dir(directory)
}

/// As arguments of the hidden subcommands.
pub fn arguments(places: &Places) -> Vec<OsString> {
    places.directories().into_iter().flat_map(|d| [OsString::from("--cgroup"), d.as_os_str().to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroups_name_is_plain_bounded_and_the_same_in_every_life() {
        let here = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let odd = name("../ai ml/ü", here.path());
        assert!(odd.starts_with("pitwall-___ai_ml__-"), "{odd}");
        assert_eq!(odd, name("../ai ml/ü", here.path()));
        assert_ne!(odd, name("../ai ml/ü", other.path()));
        assert!(name(&"x".repeat(300), here.path()).len() < 70);
    }

    #[test]
    fn no_limit_is_written_where_the_sidecar_is_itself_or_above_it() {
        let hierarchies = Hierarchies::detect();
        for own in hierarchies.of_process(std::process::id() as i32).directories() {
            for above in own.ancestors().take_while(|d| hierarchies.top_of(own).is_some_and(|top| d.starts_with(top))) {
                let refusal = guard(&hierarchies, above).unwrap_err();
                assert!(refusal.contains("the sidecar itself"), "{refusal}");
            }
        }
        assert!(guard(&hierarchies, Path::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn a_directory_with_processes_of_others_is_not_the_agents_own() {
        let hierarchies = Hierarchies::detect();
        let me = std::process::id() as i32;
        assert!(own_of(&hierarchies, me, &[]).is_err());
        assert!(own_of(&hierarchies, me, &[me]).is_err());
    }
}
