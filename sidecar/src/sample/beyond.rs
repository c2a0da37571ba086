//! The agent's cgroups as the agent sees them: `/proc/PID/root/sys/fs/cgroup`, where nothing of them is mounted for the
//! sidecar. To count by, never to act on; and only what holds the agent's processes and nobody else's.
use std::path::{Path, PathBuf};

use super::cgroup::{self, Places};
use super::procfs::{ProcFs, Stat};

#[derive(Debug, Default)]
pub struct Beyond {
    of: Option<(i32, u64)>,
    pub places: Places,
}

impl Beyond {
    /// Looks again for another process, and as long as nothing was found.
    pub fn look(&mut self, proc: &mut ProcFs, stats: &[Stat]) {
        let Some(oldest) = stats.iter().min_by_key(|s| (s.start_ticks, s.pid)) else {
            *self = Self::default();
            return;
        };
        let process = Some((oldest.pid, oldest.start_ticks));
        if self.of == process && !self.places.is_empty() {
            return;
        }
        self.of = process;
        self.places = Places::default();
        let top = proc.path_of(oldest.pid, "root/sys/fs/cgroup");
        // The sidecar's own view of cgroups was looked through already.
        let mounts = |pid: i32| std::fs::read_link(proc.path_of(pid, "ns/mnt")).ok();
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        if mounts(oldest.pid).is_none_or(|its| mounts(me) == Some(its)) {
            return;
        }
        self.places = places_below(&top);
        for place in self.places.each_mut() {
            place.take_if(|directory| !holds_only(proc, directory, stats));
        }
    }
}

fn places_below(top: &Path) -> Places {
    let has = |directory: PathBuf, file: &str| directory.join(file).exists().then_some(directory);
    let of = |names: &[&str], file: &str| names.iter().find_map(|name| has(top.join(name), file));
    Places {
        v2: has(top.to_owned(), "cgroup.controllers").or_else(|| has(top.join("unified"), "cgroup.controllers")),
        cpu: of(&["cpu", "cpu,cpuacct"], "cpu.cfs_quota_us"),
        cpuacct: of(&["cpuacct", "cpu,cpuacct"], "cpuacct.usage"),
        memory: of(&["memory"], "memory.usage_in_bytes"),
        pids: of(&["pids"], "pids.current"),
        blkio: of(&["blkio"], "blkio.throttle.io_service_bytes"),
        freezer: None,
    }
}

/// Of whom it is not known who they are, they are others.
fn holds_only(proc: &mut ProcFs, directory: &Path, stats: &[Stat]) -> bool {
    let mut pids = Vec::new();
    cgroup::members(proc, directory, &mut pids);
    let invisible = proc.read(&directory.join("cgroup.procs")).is_none_or(|t| t.starts_with(b"0\n"));
    !invisible && !pids.is_empty() && pids.iter().all(|pid| stats.iter().any(|s| s.pid == *pid))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_a_cgroup_of_the_agent_alone_counts_for_it() {
        let tree = tempfile::tempdir().unwrap();
        let cgroup = tree.path().join("10/root/sys/fs/cgroup");
        for (pid, namespace) in [(10, "mnt:[2]"), (std::process::id(), "mnt:[1]")] {
            let directory = tree.path().join(pid.to_string()).join("ns");
            std::fs::create_dir_all(&directory).unwrap();
            symlink(namespace, directory.join("mnt")).unwrap();
        }
        std::fs::create_dir_all(&cgroup).unwrap();
        std::fs::write(cgroup.join("cgroup.controllers"), "cpu\n").unwrap();
        let stats = [10, 11].map(|pid| Stat { pid, start_ticks: pid as u64, ..Stat::default() });
        let mut proc = ProcFs::at(tree.path());
        let mut found = |procs: &str| {
            std::fs::write(cgroup.join("cgroup.procs"), procs).unwrap();
            let mut beyond = Beyond::default();
            beyond.look(&mut proc, &stats);
            beyond.places.v2.is_some()
        };
        assert!(found("10\n11\n"));
        assert!(!found("10\n11\n12\n"), "somebody else's is in it");
        assert!(!found("0\n10\n"), "somebody is in it who is not visible");
        assert!(!found(""));
    }
}
