//! Where cgroups are (v1, v2, both at once), and who is in them. Reads only; see `counters` for what they count, and
//! `act::places` for the rest.
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::procfs::{PIDS_MAX, ProcFs};

/// Cgroups below one another are followed this deep, and this many in all.
const DEPTH_MAX: usize = 16;
const DIRECTORIES_MAX: usize = 1_024;

/// The directories that one set of processes has in the mounted hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The unified one. On a hybrid host it has no controllers, but CPU use and pressure.
    pub v2: Option<PathBuf>,
    /// Of v1's controllers; two may be the same directory.
    pub cpu: Option<PathBuf>,
    pub cpuacct: Option<PathBuf>,
    pub memory: Option<PathBuf>,
    pub pids: Option<PathBuf>,
    pub blkio: Option<PathBuf>,
    pub freezer: Option<PathBuf>,
}

impl Places {
    /// Each directory once.
    pub fn directories(&self) -> Vec<&Path> {
        let mut all: Vec<&Path> = Vec::new();
        let Self { v2, cpu, cpuacct, memory, pids, blkio, freezer } = self;
        for place in [v2, cpu, cpuacct, memory, pids, blkio, freezer].into_iter().flatten() {
            if !all.contains(&place.as_path()) {
                all.push(place);
            }
        }
        all
    }

    pub fn each_mut(&mut self) -> [&mut Option<PathBuf>; 7] {
        let Self { v2, cpu, cpuacct, memory, pids, blkio, freezer } = self;
        [v2, cpu, cpuacct, memory, pids, blkio, freezer]
    }

    /// Where the processes are listed.
    pub fn members(&self) -> Option<&Path> {
        self.directories().first().copied()
    }

    pub fn is_empty(&self) -> bool {
        self.members().is_none()
    }

    /// For people: which counters tell of the agent.
    pub fn source(&self) -> &'static str {
        let Self { v2, cpu: _, cpuacct, memory, pids, blkio, freezer: _ } = self;
        let v1 = [cpuacct, memory, pids, blkio].into_iter().any(Option::is_some);
        match (v2, v1) {
            (Some(_), true) => "cgroup v1 and v2",
            (Some(_), false) => "cgroup v2",
            (None, true) => "cgroup v1",
            (None, false) => "processes",
        }
    }

    /// What a directory is, from the files in it.
    pub fn of_directory(directory: &Path) -> Self {
        let has = |file: &str| directory.join(file).exists().then(|| directory.to_owned());
        Self {
            v2: has("cgroup.controllers"),
            cpu: has("cpu.cfs_quota_us"),
            cpuacct: has("cpuacct.usage"),
            memory: has("memory.usage_in_bytes"),
            pids: has("pids.current").filter(|_| !directory.join("cgroup.controllers").exists()),
            blkio: has("blkio.throttle.read_bps_device").or_else(|| has("blkio.throttle.io_service_bytes")),
            freezer: has("freezer.state"),
        }
    }

    /// Without those that are gone.
    pub fn existing(self) -> Self {
        let there = |place: Option<PathBuf>| place.filter(|d| d.is_dir());
        Self {
            v2: there(self.v2),
            cpu: there(self.cpu),
            cpuacct: there(self.cpuacct),
            memory: there(self.memory),
            pids: there(self.pids),
            blkio: there(self.blkio),
            freezer: there(self.freezer),
        }
    }
}

/// The mounted cgroup hierarchies.
#[derive(Clone, Debug, Default)]
pub struct Hierarchies {
    mounts: Vec<Mount>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// Which part of the hierarchy is mounted.
    root: String,
    point: PathBuf,
    v2: bool,
    /// Of v1: its controllers.
    controllers: Vec<String>,
}

impl Hierarchies {
    pub fn detect() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    fn parse(mountinfo: &str) -> Self {
        Self { mounts: mountinfo.lines().filter_map(parse_mount).collect() }
    }

    /// The cgroups of a process that is visible here.
    pub fn of_process(&self, pid: i32) -> Places {
        self.resolve(&std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default())
    }

    /// `text` as in `/proc/PID/cgroup`. What is not mounted here, or lies outside of what is, is absent.
    fn resolve(&self, text: &str) -> Places {
        let mut places = Places::default();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
            for mount in &self.mounts {
                let Some(directory) = mount.directory(path) else { continue };
                let named = |name: &str| {
                    !mount.v2
                        && mount.controllers.iter().any(|c| c == name)
                        && controllers.split(',').any(|c| c == name)
                };
                if mount.v2 && controllers.is_empty() {
                    places.v2.get_or_insert_with(|| directory.clone());
                }
                for (name, place) in [
                    ("cpu", &mut places.cpu),
                    ("cpuacct", &mut places.cpuacct),
                    ("memory", &mut places.memory),
                    ("pids", &mut places.pids),
                    ("blkio", &mut places.blkio),
                    ("freezer", &mut places.freezer),
                ] {
                    if named(name) {
                        place.get_or_insert_with(|| directory.clone());
                    }
                }
            }
        }
        places
    }

    /// Where a process is in the hierarchy that limits CPU, mounted here or not: for messages.
    pub fn path_of(&self, pid: i32) -> Option<String> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let line = |fits: fn(&str) -> bool| text.lines().find(|l| l.split(':').nth(1).is_some_and(fits));
        let line = line(|c| c.split(',').any(|c| c == "cpu")).or_else(|| line(str::is_empty))?;
        line.splitn(3, ':').nth(2).map(str::to_owned)
    }

    /// The host has the unified hierarchy alone.
    pub fn is_unified(&self) -> bool {
        self.mounts.iter().any(|m| m.v2 && m.point == Path::new("/sys/fs/cgroup"))
    }

    /// Parts of a hierarchy (`None`: the unified one, else that of a v1 controller) that were mounted here from outside of this process's own cgroups, and
    /// do not hold it: what a sidecar is given to see its agent. Without them: `Err` for what is mounted and must not be.
    pub fn bound_of(&self, controller: Option<&str>) -> Result<Vec<PathBuf>, String> {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        self.bound_beside(controller, &own)
    }

    fn bound_beside(&self, controller: Option<&str>, own: &str) -> Result<Vec<PathBuf>, String> {
        let v2 = controller.is_none();
        let mut bound = Vec::new();
        let mut whole = None;
        for mount in self.mounts.iter().filter(|m| m.v2 == v2) {
            if !v2 && !mount.controllers.iter().any(|c| Some(c.as_str()) == controller) {
                continue;
            }
            let mine = own.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (controllers, path) = (parts.next()?, parts.next()?);
                let fits =
                    if v2 { controllers.is_empty() } else { controllers.split(',').any(|c| Some(c) == controller) };
                fits.then_some(path)
            });
            if mine.is_some_and(|path| mount.covers(path)) {
                // The container's own view of itself is there in every container.
                if !mount.point.starts_with("/sys/fs/cgroup") {
                    whole = Some(mount.point.display().to_string());
                }
            } else {
                bound.push(mount.point.clone());
            }
        }
        match whole {
            Some(point) if bound.is_empty() => {
                Err(format!("{point} holds the sidecar itself: bind the agent's own cgroup, not what is above it"))
            }
            _ => Ok(bound),
        }
    }

    /// The directory at which the hierarchy of `directory` is mounted.
    pub fn top_of(&self, directory: &Path) -> Option<&Path> {
        self.mounts
            .iter()
            .map(|m| m.point.as_path())
            .filter(|p| directory.starts_with(p))
            .max_by_key(|p| p.as_os_str().len())
    }
}

impl Mount {
    fn directory(&self, path: &str) -> Option<PathBuf> {
        let below = if self.root == "/" { path } else { path.strip_prefix(&self.root)? };
        if !below.is_empty() && !below.starts_with('/') {
            return None;
        }
        // "/.." begins what lies outside of this cgroup namespace: to be found only through a mount from out there.
        if below.split('/').any(|part| part == "..") {
            return None;
        }
        let directory = self.point.join(below.trim_start_matches('/'));
        directory.is_dir().then_some(directory)
    }
}

impl Mount {
    /// Whether what is mounted holds the cgroup of this path. A root of `..` alone is above this cgroup namespace.
    fn covers(&self, path: &str) -> bool {
        let above = self.root.split('/').filter(|part| !part.is_empty()).all(|part| part == "..");
        above || path.strip_prefix(&self.root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// `36 35 0:30 / /sys/fs/cgroup/cpu rw … - cgroup cgroup rw,cpu`
fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point) = (unescape(left.next()?), unescape(left.next()?));
    let mut right = right.split(' ');
    let v2 = match right.next()? {
        "cgroup2" => true,
        "cgroup" => false,
        _other_filesystem => return None,
    };
    let options = right.nth(1).unwrap_or_default();
    let controllers = if v2 { Vec::new() } else { options.split(',').map(str::to_owned).collect() };
    Some(Mount { root, point: point.into(), v2, controllers })
}

/// The kernel writes blanks in paths as octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// The pids in a cgroup and in all below it.
pub fn members(proc: &mut ProcFs, directory: &Path, into: &mut Vec<i32>) {
    into.clear();
    let mut seen = 0;
    gather(proc, directory, 0, &mut seen, into);
}

fn gather(proc: &mut ProcFs, directory: &Path, depth: usize, seen: &mut usize, into: &mut Vec<i32>) {
    *seen += 1;
    if depth > DEPTH_MAX || *seen > DIRECTORIES_MAX {
        return;
    }
    if let Some(text) = proc.read(&directory.join("cgroup.procs")) {
        super::parse::pids(text, PIDS_MAX, into);
    }
    gather_below(proc, directory, depth, seen, into);
}

fn gather_below(proc: &mut ProcFs, directory: &Path, depth: usize, seen: &mut usize, into: &mut Vec<i32>) {
    for child in children(directory) {
        gather(proc, &child, depth + 1, seen, into);
    }
}

/// The same, where those of the directory itself are known already.
pub fn members_below(proc: &mut ProcFs, directory: &Path, into: &mut Vec<i32>) {
    gather_below(proc, directory, 0, &mut 1, into);
}

/// The cgroups right below one. A directory without any has two links.
pub fn children(directory: &Path) -> Vec<PathBuf> {
    if std::fs::metadata(directory).is_ok_and(|m| m.nlink() == 2) {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let directories = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    directories.map(|e| e.path()).take(DIRECTORIES_MAX).collect()
}

/// Device and inode: an identity for a directory of any mount.
pub fn directory_identity(directory: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(directory).ok().map(|m| (m.dev(), m.ino()))
}

/// The identities of a directory and of all above it, up to the top of its hierarchy.
pub fn identities_upwards(hierarchies: &Hierarchies, directory: &Path) -> HashSet<(u64, u64)> {
    let top = hierarchies.top_of(directory);
    let upwards = directory.ancestors().take_while(|d| top.is_none_or(|top| d.starts_with(top)));
    upwards.filter_map(directory_identity).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_both_versions_are_found_and_others_passed_over() {
        let text = "\
            25 30 0:23 / /sys rw,nosuid - sysfs sysfs rw\n\
            36 35 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            37 35 0:31 /docker/ab /sys/fs/cgroup/my\\040memory ro - cgroup cgroup rw,memory\n\
            38 35 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\nnonsense\n";
        let mounts = Hierarchies::parse(text).mounts;
        assert_eq!(mounts.len(), 3);
        assert!(mounts[0].controllers.iter().any(|c| c == "cpuacct") && !mounts[0].v2);
        assert_eq!(
            (mounts[1].root.as_str(), mounts[1].point.to_str()),
            ("/docker/ab", Some("/sys/fs/cgroup/my memory"))
        );
        assert!(mounts[2].v2);
    }

    #[test]
    fn a_process_is_placed_in_what_is_mounted_and_nowhere_else() {
        let here = tempfile::tempdir().unwrap();
        let point = |name: &str| here.path().join(name);
        std::fs::create_dir_all(point("cpu/job")).unwrap();
        std::fs::create_dir_all(point("memory/inner")).unwrap();
        std::fs::create_dir_all(point("unified")).unwrap();
        let line = |root: &str, name: &str, kind: &str, options: &str| {
            format!("1 1 0:1 {root} {} rw - {kind} {kind} rw,{options}\n", point(name).display())
        };
        let mounts = line("/", "cpu", "cgroup", "cpu,cpuacct")
            + &line("/docker/ab", "memory", "cgroup", "memory")
            + &line("/", "unified", "cgroup2", "x");
        let hierarchies = Hierarchies::parse(&mounts);
        let places = hierarchies.resolve("5:cpu,cpuacct:/job\n4:memory:/docker/ab/inner\n0::/\n");
        assert_eq!(places.cpu, Some(point("cpu/job")));
        assert_eq!(places.cpuacct, places.cpu);
        assert_eq!(places.memory, Some(point("memory/inner")));
        assert_eq!(places.v2, Some(point("unified/")));
        assert_eq!(places.directories().len(), 3);
        let outside = hierarchies.resolve("5:cpu,cpuacct:/gone\n4:memory:/docker/abc\n0::/../x\nnonsense\n");
        assert_eq!(outside, Places::default());
    }

    #[test]
    fn what_is_bound_from_outside_is_told_from_the_containers_own_view_and_from_what_holds_it() {
        let line = |root: &str, point: &str, kind: &str, options: &str| {
            format!("1 1 0:1 {root} {point} rw - {kind} {kind} rw,{options}\n")
        };
        let v1_own = line("/docker/s", "/sys/fs/cgroup/cpu", "cgroup", "cpu");
        let v1_bind = line("/pitwall/backend", "/cg/cpu", "cgroup", "cpu");
        let v1_memory = line("/pitwall/backend", "/cg/memory", "cgroup", "memory");
        let v1_all = line("/", "/cg/cpu", "cgroup", "cpu");
        let v2_own = line("/", "/sys/fs/cgroup", "cgroup2", "");
        let v2_bind = line("/../pitwall/backend", "/cg", "cgroup2", "");
        let v2_all = line("/..", "/cg", "cgroup2", "");
        let points = |list: &[&str]| Ok(list.iter().map(PathBuf::from).collect::<Vec<_>>());
        for (mounts, v2, own, bound) in [
            (v1_own.clone() + &v1_bind + &v1_memory, false, "4:cpu:/docker/s\n0::/\n", points(&["/cg/cpu"])),
            (v1_own.clone(), false, "4:cpu:/docker/s\n", points(&[])),
            (v1_own + &v1_all, false, "4:cpu:/docker/s\n", Err("/cg/cpu holds the sidecar itself")),
            (v2_own.clone() + &v2_bind, true, "0::/\n", points(&["/cg"])),
            (v2_own.clone(), true, "0::/\n", points(&[])),
            (v2_own + &v2_all, true, "0::/\n", Err("/cg holds the sidecar itself")),
        ] {
            let controller = if v2 { None } else { Some("cpu") };
            match (Hierarchies::parse(&mounts).bound_beside(controller, own), bound) {
                (Err(told), Err(meant)) => assert!(told.starts_with(meant), "{told}"),
                (found, Ok(meant)) => assert_eq!(found, Ok(meant), "{mounts}"),
                (found, meant) => panic!("{found:?} and not {meant:?}"),
            }
        }
    }

    #[test]
    fn a_leaf_outside_of_this_cgroup_namespace_is_found_through_its_bind_alone() {
        let here = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(here.path().join("cg/leaf")).unwrap();
        let mounts = format!(
            "1 1 0:1 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n1 1 0:1 /../pitwall/backend {} rw - cgroup2 cgroup2 rw\n",
            here.path().join("cg").display()
        );
        let hierarchies = Hierarchies::parse(&mounts);
        assert_eq!(hierarchies.resolve("0::/../pitwall/backend/leaf\n").v2, Some(here.path().join("cg/leaf")));
        assert_eq!(hierarchies.resolve("0::/../pitwall/frontend/leaf\n").v2, None);
        assert_eq!(hierarchies.resolve("0::/../pitwall/backend/../x\n").v2, None);
    }

    #[test]
    fn members_are_gathered_from_below_too() {
        let here = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(here.path().join("a/b")).unwrap();
        std::fs::write(here.path().join("cgroup.procs"), "5\n0\n").unwrap();
        std::fs::write(here.path().join("a/b/cgroup.procs"), "7\n8\n").unwrap();
        let mut pids = Vec::new();
        members(&mut ProcFs::default(), here.path(), &mut pids);
        assert_eq!(pids, [5, 7, 8]);
    }
}
