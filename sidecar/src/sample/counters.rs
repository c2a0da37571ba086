//! What the kernel has counted for the agent's cgroups, read through kept descriptors. The directories are compared by
//! inode: another cgroup under the same name begins anew, whatever its counters say. Absent is "not counted here".
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::cgroup::{Places, directory_identity};
use super::kept::Kept;
use super::parse::{self, Device, Limit};

/// Limits of cgroups above hold too: so many of them are asked.
const ABOVE_MAX: usize = 16;
/// What the kernel may drop of the memory is asked for again when the use moved by so much.
const MEMORY_MOVED: u64 = 1 << 20;
/// So many slow looks apart it is seen whether a file is there that was not: a controller may be switched on later.
const RETRY_EVERY: u32 = 12;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    pub cpu_usec: Option<u64>,
    pub throttled_usec: Option<u64>,
    pub periods: Option<u64>,
    pub throttled_periods: Option<u64>,
    /// The strictest, in cores.
    pub cpu_limit: Option<Limit<f64>>,
    /// Without what the kernel may drop at once (inactive file pages).
    pub memory_bytes: Option<u64>,
    pub memory_peak: Option<u64>,
    pub memory_limit: Option<Limit<u64>>,
    pub swap_bytes: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    pub tasks_limit: Option<Limit<u64>>,
    pub events: Events,
    /// Time in which some task waited: for CPU, memory, I/O.
    pub stalled_usec: [Option<u64>; 3],
    /// Bytes by device; absent where they are not counted.
    pub devices: Option<Vec<Device>>,
}

/// How often memory ran short, since the cgroup was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    pub oom: Option<u64>,
    pub oom_kill: Option<u64>,
    pub high: Option<u64>,
    pub max: Option<u64>,
}

/// Reads the files of one set of places, until it is given another.
#[derive(Debug, Default)]
pub struct Reader {
    places: Places,
    identities: Vec<Option<(u64, u64)>>,
    v2: Option<Unified>,
    v1: Split,
    buffer: Vec<u8>,
    /// Of the last look that asked: memory in use then, and what of it may be dropped.
    droppable: Option<(u64, u64)>,
    /// Files of limits, here and above.
    limits: HashMap<PathBuf, Kept>,
    slow_looks: u32,
}

#[derive(Debug)]
struct Unified {
    directory: PathBuf,
    cpu_stat: Kept,
    memory_current: Kept,
    memory_stat: Kept,
    memory_peak: Kept,
    memory_events: Kept,
    swap_current: Kept,
    pids_current: Kept,
    io_stat: Kept,
    pressures: [Kept; 3],
}

#[derive(Debug, Default)]
struct Split {
    cpu_stat: Option<Kept>,
    cpuacct_usage: Option<Kept>,
    memory: Option<SplitMemory>,
    pids_current: Option<Kept>,
    blkio: Option<[Kept; 2]>,
}

#[derive(Debug)]
struct SplitMemory {
    usage: Kept,
    stat: Kept,
    peak: Kept,
    oom_control: Kept,
    failcnt: Kept,
}

impl Unified {
    fn new(directory: &Path) -> Self {
        let kept = |file: &str| Kept::new(directory.join(file));
        Self {
            directory: directory.to_owned(),
            cpu_stat: kept("cpu.stat"),
            memory_current: kept("memory.current"),
            memory_stat: kept("memory.stat"),
            memory_peak: kept("memory.peak"),
            memory_events: kept("memory.events"),
            swap_current: kept("memory.swap.current"),
            pids_current: kept("pids.current"),
            io_stat: kept("io.stat"),
            pressures: ["cpu.pressure", "memory.pressure", "io.pressure"].map(kept),
        }
    }

    fn each(&mut self) -> impl Iterator<Item = &mut Kept> {
        let single = [
            &mut self.cpu_stat,
            &mut self.memory_current,
            &mut self.memory_stat,
            &mut self.memory_peak,
            &mut self.memory_events,
            &mut self.swap_current,
            &mut self.pids_current,
            &mut self.io_stat,
        ];
        single.into_iter().chain(&mut self.pressures)
    }
}

impl Split {
    fn new(places: &Places) -> Self {
        let kept = |place: &Option<PathBuf>, file: &str| place.as_ref().map(|d| Kept::new(d.join(file)));
        let memory = |directory: &PathBuf| SplitMemory {
            usage: Kept::new(directory.join("memory.usage_in_bytes")),
            stat: Kept::new(directory.join("memory.stat")),
            peak: Kept::new(directory.join("memory.max_usage_in_bytes")),
            oom_control: Kept::new(directory.join("memory.oom_control")),
            failcnt: Kept::new(directory.join("memory.failcnt")),
        };
        // The first counts children too; older kernels have the second alone.
        let blkio = ["blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"];
        Self {
            cpu_stat: kept(&places.cpu, "cpu.stat"),
            cpuacct_usage: kept(&places.cpuacct, "cpuacct.usage"),
            memory: places.memory.as_ref().map(memory),
            pids_current: kept(&places.pids, "pids.current"),
            blkio: places.blkio.as_ref().map(|d| blkio.map(|file| Kept::new(d.join(file)))),
        }
    }

    fn each(&mut self) -> impl Iterator<Item = &mut Kept> {
        let single = [&mut self.cpu_stat, &mut self.cpuacct_usage, &mut self.pids_current].into_iter().flatten();
        let memory = self
            .memory
            .iter_mut()
            .flat_map(|m| [&mut m.usage, &mut m.stat, &mut m.peak, &mut m.oom_control, &mut m.failcnt]);
        single.chain(memory).chain(self.blkio.iter_mut().flatten())
    }
}

impl Reader {
    /// Into `now`. False: they are not the cgroups of the last call, so nothing has grown since. `slow`: also what seldom
    /// changes, or costs more.
    pub fn read(&mut self, places: &Places, slow: bool, now: &mut Counters) -> bool {
        let Places { v2, cpu, cpuacct, memory, pids, blkio, freezer: _ } = places;
        let all = [v2, cpu, cpuacct, memory, pids, blkio];
        let identities = || all.map(|place| place.as_deref().and_then(directory_identity));
        let are_those = |reader: &Self| reader.places == *places && identities()[..] == reader.identities[..];
        // A cgroup that is gone does not answer any more; by its inode it is asked for only at the slow pace.
        let mut same = if slow { are_those(self) } else { self.places == *places };
        if same {
            self.read_all(slow, now);
            // Where one went away meanwhile, what was read may be its successor's.
            same = !self.each().fold(false, |lost, kept| kept.was_lost() | lost) || are_those(self);
        }
        if !same {
            self.identities.clear();
            self.identities.extend(identities());
            self.places = places.clone();
            self.v2 = places.v2.as_deref().map(Unified::new);
            self.v1 = Split::new(places);
            self.droppable = None;
            self.limits.clear();
            *now = Counters::default();
            self.read_all(true, now);
        }
        same
    }

    fn each(&mut self) -> impl Iterator<Item = &mut Kept> {
        self.v1.each().chain(self.v2.iter_mut().flat_map(Unified::each))
    }

    fn read_all(&mut self, slow: bool, now: &mut Counters) {
        if slow {
            self.slow_looks = self.slow_looks.wrapping_add(1);
            if self.slow_looks.is_multiple_of(RETRY_EVERY) {
                self.each().for_each(Kept::retry);
                self.limits.values_mut().for_each(Kept::retry);
            }
        }
        let mut devices = now.devices.take().unwrap_or_default();
        let counted = self.read_v1(slow, now, &mut devices) | self.read_v2(slow, now, &mut devices);
        now.devices = counted.then_some(devices);
        if slow {
            self.read_limits(now);
        }
    }

    /// True: devices are counted.
    fn read_v1(&mut self, slow: bool, now: &mut Counters, devices: &mut Vec<Device>) -> bool {
        let buffer = &mut self.buffer;
        if let Some(file) = &mut self.v1.cpu_stat {
            let text = file.read(buffer);
            now.periods = text.and_then(|t| parse::keyed(t, "nr_periods"));
            now.throttled_periods = text.and_then(|t| parse::keyed(t, "nr_throttled"));
            now.throttled_usec = text.and_then(|t| parse::keyed(t, "throttled_time")).map(|ns| ns / 1_000);
        }
        if let Some(file) = &mut self.v1.cpuacct_usage {
            now.cpu_usec = file.read(buffer).and_then(parse::number).map(|ns| ns / 1_000);
        }
        if let Some(memory) = &mut self.v1.memory {
            let usage = memory.usage.read(buffer).and_then(parse::number);
            if asks_again(slow, usage, self.droppable) {
                let text = memory.stat.read(buffer);
                let inactive = text.and_then(|t| parse::keyed(t, "total_inactive_file"));
                now.swap_bytes = text.and_then(|t| parse::keyed(t, "total_swap"));
                self.droppable = usage.zip(inactive);
            }
            now.memory_bytes = usage.map(|bytes| bytes.saturating_sub(self.droppable.map_or(0, |(_, d)| d)));
            now.events.oom_kill = memory.oom_control.read(buffer).and_then(|t| parse::keyed(t, "oom_kill"));
            if slow {
                now.memory_peak = memory.peak.read(buffer).and_then(parse::number);
                now.events.max = memory.failcnt.read(buffer).and_then(parse::number);
            }
        }
        if let Some(file) = &mut self.v1.pids_current {
            now.tasks = file.read(buffer).and_then(parse::number);
        }
        if let Some([whole, own]) = &mut self.v1.blkio {
            if let Some(text) = whole.read(buffer) {
                parse::blkio(text, devices);
            } else if let Some(text) = own.read(buffer) {
                parse::blkio(text, devices);
            }
            // Without a policy in force this kernel lists no device, whatever was moved.
            return !devices.is_empty();
        }
        false
    }

    /// On a hybrid host v1 has what the unified hierarchy lacks.
    fn read_v2(&mut self, slow: bool, now: &mut Counters, devices: &mut Vec<Device>) -> bool {
        let (Some(v2), buffer) = (&mut self.v2, &mut self.buffer) else { return false };
        if let Some(text) = v2.cpu_stat.read(buffer) {
            now.cpu_usec = parse::keyed(text, "usage_usec").or(now.cpu_usec);
            now.periods = parse::keyed(text, "nr_periods").or(now.periods);
            now.throttled_periods = parse::keyed(text, "nr_throttled").or(now.throttled_periods);
            now.throttled_usec = parse::keyed(text, "throttled_usec").or(now.throttled_usec);
        } else if self.v1.cpuacct_usage.is_none() {
            now.cpu_usec = None;
        }
        if let Some(usage) = v2.memory_current.read(buffer).and_then(parse::number) {
            if asks_again(slow, Some(usage), self.droppable) {
                let text = v2.memory_stat.read(buffer);
                self.droppable = text.and_then(|t| parse::keyed(t, "inactive_file")).map(|inactive| (usage, inactive));
            }
            now.memory_bytes = Some(usage.saturating_sub(self.droppable.map_or(0, |(_, d)| d)));
            if slow {
                now.memory_peak = v2.memory_peak.read(buffer).and_then(parse::number);
                now.swap_bytes = v2.swap_current.read(buffer).and_then(parse::number);
            }
        } else if self.v1.memory.is_none() {
            (now.memory_bytes, now.memory_peak, now.swap_bytes) = (None, None, None);
        }
        if let Some(text) = v2.memory_events.read(buffer) {
            let of = |key| parse::keyed(text, key);
            now.events = Events { oom: of("oom"), oom_kill: of("oom_kill"), high: of("high"), max: of("max") };
        }
        now.tasks = v2
            .pids_current
            .read(buffer)
            .and_then(parse::number)
            .or_else(|| self.v1.pids_current.as_ref().and(now.tasks));
        for (file, total) in v2.pressures.iter_mut().zip(&mut now.stalled_usec) {
            *total = file.read(buffer).and_then(parse::some_total);
        }
        match v2.io_stat.read(buffer) {
            Some(text) => {
                parse::io_stat(text, devices);
                true
            }
            None => false,
        }
    }

    fn read_limits(&mut self, now: &mut Counters) {
        let Self { limits, buffer, .. } = self;
        let mut kept = |path: PathBuf| {
            let file = limits.entry(path).or_insert_with_key(|path| Kept::new(path.clone()));
            file.read(buffer).map(<[u8]>::to_vec)
        };
        let mut cpu = None;
        let mut memory = None;
        let mut tasks = None;
        if let Some(v2) = self.v2.as_ref().map(|v2| v2.directory.clone()) {
            cpu = strictest(&v2, |d| parse::cpu_max(&kept(d.join("cpu.max"))?));
            memory = strictest(&v2, |d| parse::limit(&kept(d.join("memory.max"))?));
            tasks = strictest(&v2, |d| parse::limit(&kept(d.join("pids.max"))?));
        }
        if let (None, Some(directory)) = (cpu, &self.places.cpu) {
            cpu = strictest(directory, |d| {
                parse::cfs(&kept(d.join("cpu.cfs_quota_us"))?, &kept(d.join("cpu.cfs_period_us"))?)
            });
        }
        if let (None, Some(directory)) = (memory, &self.places.memory) {
            memory = strictest(directory, |d| parse::limit(&kept(d.join("memory.limit_in_bytes"))?));
        }
        if let (None, Some(directory)) = (tasks, &self.places.pids) {
            tasks = strictest(directory, |d| parse::limit(&kept(d.join("pids.max"))?));
        }
        (now.cpu_limit, now.memory_limit, now.tasks_limit) = (cpu, memory, tasks);
    }
}

/// Of the directory and those above it that are visible here. Absent where the directory itself has no such file.
fn strictest<T: PartialOrd + Copy>(
    directory: &Path,
    mut of: impl FnMut(&Path) -> Option<Limit<T>>,
) -> Option<Limit<T>> {
    let mut found = of(directory)?;
    for above in directory.ancestors().skip(1).take(ABOVE_MAX) {
        let Some(limit) = of(above) else { break };
        found = match (found, limit) {
            (Limit::At(a), Limit::At(b)) if b < a => limit,
            (Limit::Unlimited, limit) => limit,
            (found, _) => found,
        };
    }
    Some(found)
}

/// The file that tells what may be dropped costs more than all others.
fn asks_again(slow: bool, usage: Option<u64>, before: Option<(u64, u64)>) -> bool {
    match (usage, before) {
        (Some(now), Some((then, _))) => slow || now.abs_diff(then) >= MEMORY_MOVED,
        (Some(_), None) => true,
        (None, _) => slow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/trees");

    fn read(places: &Places) -> Counters {
        let mut counters = Counters::default();
        assert!(!Reader::default().read(places, true, &mut counters), "nothing was read before");
        counters
    }

    fn tree(name: &str) -> PathBuf {
        Path::new(TREES).join(name)
    }

    fn split(name: &str) -> Places {
        let at = |controller: &str| Some(tree(name).join(controller).join("agent"));
        Places {
            v2: None,
            cpu: at("cpu"),
            cpuacct: at("cpuacct"),
            memory: at("memory"),
            pids: at("pids"),
            blkio: at("blkio"),
            freezer: None,
        }
    }

    #[test]
    fn a_recorded_tree_of_v1() {
        let counters = read(&split("v1-5.10"));
        assert_eq!((counters.cpu_usec, counters.throttled_usec), (Some(1_234_567), Some(987_654)));
        assert_eq!((counters.periods, counters.throttled_periods), (Some(120), Some(44)));
        // The parent is stricter for the CPU; nobody limits the memory above.
        assert_eq!(counters.cpu_limit, Some(Limit::At(1.0)));
        assert_eq!(counters.memory_limit, Some(Limit::At(268_435_456)));
        assert_eq!((counters.memory_bytes, counters.memory_peak), (Some(52_428_800 - 4_096_000), Some(104_857_600)));
        assert_eq!((counters.swap_bytes, counters.tasks), (Some(8192), Some(9)));
        assert_eq!(counters.tasks_limit, Some(Limit::Unlimited));
        let events = Events { oom: None, oom_kill: Some(2), high: None, max: Some(31) };
        assert_eq!((counters.events, counters.stalled_usec), (events, [None; 3]));
        let device = Device { major: 8, minor: 0, read: 90_112, written: 4_096 };
        assert_eq!(counters.devices, Some(vec![device]));
    }

    #[test]
    fn recorded_trees_of_v2_differ_in_the_peak_alone() {
        for (name, peak) in [("v2-5.15", None), ("v2-6.1", Some(104_857_600)), ("v2-6.12", Some(104_857_600))] {
            let counters = read(&Places { v2: Some(tree(name).join("agent")), ..Places::default() });
            assert_eq!((counters.cpu_usec, counters.throttled_usec), (Some(1_234_567), Some(987_654)), "{name}");
            assert_eq!(counters.cpu_limit, Some(Limit::At(0.5)), "{name}");
            assert_eq!(counters.memory_bytes, Some(52_428_800 - 4_096_000), "{name}");
            assert_eq!(counters.memory_peak, peak, "{name}");
            assert_eq!(counters.memory_limit, Some(Limit::At(134_217_728)), "{name}: the one above is stricter");
            assert_eq!((counters.swap_bytes, counters.tasks), (Some(0), Some(12)), "{name}");
            assert_eq!(counters.tasks_limit, Some(Limit::At(512)), "{name}");
            let events = Events { oom: Some(3), oom_kill: Some(2), high: Some(0), max: Some(31) };
            assert_eq!(counters.events, events, "{name}");
            assert_eq!(counters.stalled_usec, [Some(20_352_108), Some(17), Some(4_021)], "{name}");
            let device = Device { major: 254, minor: 0, read: 90_112, written: 4_096 };
            assert_eq!(counters.devices, Some(vec![device]), "{name}");
        }
    }

    #[test]
    fn a_hybrid_tree_has_pressure_from_the_one_and_the_rest_from_the_other() {
        let places = Places { v2: Some(tree("hybrid").join("unified/agent")), ..split("hybrid") };
        let counters = read(&places);
        assert_eq!(counters.cpu_usec, Some(2_000_001), "of the unified one");
        assert_eq!((counters.periods, counters.memory_bytes), (Some(7), Some(1_000_000)));
        assert_eq!(counters.stalled_usec, [Some(55), Some(0), Some(0)]);
        assert_eq!((counters.tasks, counters.cpu_limit), (Some(3), Some(Limit::Unlimited)));
        // This kernel lists no device where nothing limits one: not counted, and not 0.
        assert_eq!(counters.devices, None);
    }

    #[test]
    fn another_cgroup_under_the_same_name_is_told_apart_however_much_it_has_used() {
        let here = tempfile::tempdir().unwrap();
        let directory = here.path().join("cg");
        let fill = |usec: u64| {
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("cpu.stat"), format!("usage_usec {usec}\n")).unwrap();
        };
        fill(100);
        let places = Places { v2: Some(directory.clone()), ..Places::default() };
        let (mut reader, mut counters) = (Reader::default(), Counters::default());
        assert!(!reader.read(&places, false, &mut counters));
        fill(150);
        assert!(reader.read(&places, false, &mut counters));
        assert_eq!(counters.cpu_usec, Some(150));
        // That one moved away, and still counts.
        std::fs::rename(&directory, here.path().join("old")).unwrap();
        fill(9_000);
        assert!(reader.read(&places, false, &mut counters));
        assert_eq!(counters.cpu_usec, Some(150));
        assert!(!reader.read(&places, true, &mut counters));
        assert_eq!(counters.cpu_usec, Some(9_000));
        // It is gone: nothing of it is known, and what was is not told on.
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(!reader.read(&places, true, &mut counters));
        assert_eq!(counters, Counters::default());
    }

    #[test]
    fn what_may_be_dropped_is_asked_for_when_the_use_moved_and_at_the_slow_pace() {
        let table = [
            (false, Some(5), None, true),
            (false, Some(5 << 20), Some((5 << 20, 1)), false),
            (false, Some(7 << 20), Some((5 << 20, 1)), true),
            (true, Some(5), Some((5, 1)), true),
            (false, None, Some((5, 1)), false),
        ];
        for (slow, usage, before, asks) in table {
            assert_eq!(asks_again(slow, usage, before), asks, "{slow} {usage:?} {before:?}");
        }
    }
}
