//! Whose process a driver means by a pid. It counts in the host's pid namespace, and the sidecar may live in another one:
//! a number that fits by accident would blame, or later hit, the wrong process. What cannot be told for sure is nobody's.
//!
//! A process is known by its pid namespace and its number in there (`NSpid`), which both views of it agree on.
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use pitwall_proto::v1;

/// Names a `/proc` of the host, for a sidecar in a pid namespace of its own.
pub const HOST_PROC_VARIABLE: &str = "PITWALL_HOST_PROC";
/// The kernel's number for the namespace in which it was started.
const INITIAL_NAMESPACE: &str = "pid:[4026531836]";

pub struct Owners {
    /// The sidecar's own.
    proc: PathBuf,
    /// In which the driver counts; `None`: not to be seen from here.
    host: Option<PathBuf>,
}

impl Default for Owners {
    fn default() -> Self {
        Self::new("/proc".into(), std::env::var_os(HOST_PROC_VARIABLE))
    }
}

impl Owners {
    pub fn new(proc: PathBuf, host: Option<OsString>) -> Self {
        let is_hosts = namespace(&proc.join("self")).is_some_and(|own| own == INITIAL_NAMESPACE);
        let host = if is_hosts { Some(proc.clone()) } else { host.map(PathBuf::from) };
        Self { proc, host }
    }

    pub fn of(&self, driver_pid: u32, agent: &[v1::ProcessIdentity]) -> Option<v1::ProcessIdentity> {
        let found = match &self.host {
            Some(host) => {
                let meant = identity(&host.join(driver_pid.to_string()))?;
                agent.iter().find(|one| identity(&self.proc.join(one.pid.to_string())).is_some_and(|own| own == meant))
            }
            // A newer driver counts in the caller's namespace: then that process has the device open.
            None => {
                let same = agent.iter().find(|one| u32::try_from(one.pid).is_ok_and(|pid| pid == driver_pid));
                same.filter(|one| has_device_open(&self.proc.join(one.pid.to_string())))
            }
        };
        found.cloned()
    }
}

fn namespace(process: &Path) -> Option<String> {
    Some(std::fs::read_link(process.join("ns/pid")).ok()?.to_string_lossy().into_owned())
}

/// Its namespace, and its number in there.
fn identity(process: &Path) -> Option<(String, u32)> {
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    Some((namespace(process)?, numbers.split_whitespace().next_back()?.parse().ok()?))
}

fn has_device_open(process: &Path) -> bool {
    let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else { return false };
    let target = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
    descriptors.flatten().filter_map(target).any(|at| at.to_string_lossy().starts_with("/dev/nvidia"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A tree like `/proc` with these processes: number, namespace, `NSpid`, a file it has open.
    fn tree(at: &Path, own: &str, processes: &[(&str, &str, &str, &str)]) -> PathBuf {
        let make = |pid: &str, namespace: &str, numbers: &str, open: &str| {
            let process = at.join(pid);
            std::fs::create_dir_all(process.join("ns")).unwrap();
            std::fs::create_dir_all(process.join("fd")).unwrap();
            symlink(namespace, process.join("ns/pid")).unwrap();
            std::fs::write(process.join("status"), format!("Name:\tx\nNSpid:\t{numbers}\nThreads:\t1\n")).unwrap();
            symlink(open, process.join("fd/7")).unwrap();
        };
        make("self", own, "1", "/dev/null");
        processes.iter().for_each(|(pid, namespace, numbers, open)| make(pid, namespace, numbers, open));
        at.to_owned()
    }

    fn agent(pids: &[i32]) -> Vec<v1::ProcessIdentity> {
        pids.iter().map(|pid| v1::ProcessIdentity { pid: *pid, start_ticks: 1, name: "a".into() }).collect()
    }

    #[test]
    fn on_the_host_a_containers_process_is_known_by_its_pid_there() {
        let here = tempfile::tempdir().unwrap();
        let proc = tree(
            here.path(),
            INITIAL_NAMESPACE,
            &[("4711", "pid:[4026532001]", "4711\t57", "/dev/null"), ("57", INITIAL_NAMESPACE, "57", "/dev/null")],
        );
        let owners = Owners::new(proc, None);
        assert_eq!(owners.of(4711, &agent(&[4711])).map(|p| p.pid), Some(4711));
        assert_eq!(owners.of(57, &agent(&[4711])), None, "its number in the container is another process here");
        assert_eq!(owners.of(4712, &agent(&[4711])), None, "gone");
    }

    #[test]
    fn in_a_namespace_of_its_own_the_hosts_proc_tells_who_is_meant() {
        let (inner, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let proc = tree(inner.path(), "pid:[4026532001]", &[("57", "pid:[4026532001]", "57", "/dev/null")]);
        tree(
            host.path(),
            INITIAL_NAMESPACE,
            &[
                ("4711", "pid:[4026532001]", "4711\t57", "/dev/null"),
                // The same number in another container.
                ("4800", "pid:[4026532002]", "4800\t57", "/dev/null"),
            ],
        );
        let owners = Owners::new(proc, Some(host.path().into()));
        assert_eq!(owners.of(4711, &agent(&[57])).map(|p| p.pid), Some(57));
        assert_eq!(owners.of(4800, &agent(&[57])), None);
        assert_eq!(owners.of(57, &agent(&[57])), None, "on the host that is another process");
    }

    #[test]
    fn without_a_view_of_the_host_only_an_open_device_tells() {
        let inner = tempfile::tempdir().unwrap();
        let own = "pid:[4026532001]";
        let proc = tree(inner.path(), own, &[("57", own, "57", "/dev/nvidia0"), ("58", own, "58", "/dev/null")]);
        let owners = Owners::new(proc, None);
        assert_eq!(owners.of(57, &agent(&[57, 58])).map(|p| p.pid), Some(57));
        assert_eq!(owners.of(58, &agent(&[57, 58])), None, "the same number by accident");
        assert_eq!(owners.of(57, &agent(&[58])), None, "not the agent's");
    }
}
