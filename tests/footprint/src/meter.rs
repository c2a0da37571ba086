//! What processes use, as the kernel has it: CPU clocks in nanoseconds, resident and proportional memory, and what a
//! process knows of itself. Read from outside, so that it costs whoever is measured nothing.
//!
//! The two calls of libc are here alone: rustix has neither.
#![allow(unsafe_code, reason = "clock_gettime of another process's clock and getrusage, each into a struct of its own")]
use std::{collections::BTreeMap, fs};

/// CPU time of a process with all its threads, also those that have ended, in nanoseconds. `None`: it is gone.
pub fn cpu_ns(pid: u32) -> Option<u64> {
    const CPUCLOCK_SCHED: i32 = 2;
    // No kernel has larger ones; their clocks would be others'.
    const PID_MAX: u32 = 1 << 22;
    let clock = (!i32::try_from(pid).ok().filter(|_| pid <= PID_MAX)? << 3) | CPUCLOCK_SCHED;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to `time` alone; a clock that does not exist is an error.
    let refused = unsafe { libc::clock_gettime(clock, &raw mut time) } != 0;
    let (seconds, rest) = (u64::try_from(time.tv_sec).ok()?, u64::try_from(time.tv_nsec).ok()?);
    (!refused).then(|| seconds * 1_000_000_000 + rest)
}

/// CPU time of this process and of its children that have ended and were waited for, in nanoseconds.
pub fn own_cpu_ns() -> u64 {
    [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN].into_iter().map(usage_ns).sum()
}

fn usage_ns(who: i32) -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: a zeroed rusage is one, and the kernel writes no further.
    let usage = unsafe {
        libc::getrusage(who, usage.as_mut_ptr());
        usage.assume_init()
    };
    let of = |time: libc::timeval| {
        u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_usec).unwrap_or(0) * 1_000
    };
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// Bytes resident, and the share of them that is this process's alone. `None`: not to be read.
pub fn memory(pid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1_024)
    };
    Some((field("Rss:")?, field("Pss:")?))
}

/// Bytes that are in memory because this process wrote them: what its cgroup is charged, and not the pages of programs
/// and libraries, which whoever read them first has. `None`: not to be read.
pub fn written_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1_024)
}

/// A process and all that descend from it.
pub fn family(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // Behind the name, which may have any character in it: state, then parent.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        all.extend(children.get(pid).into_iter().flatten().copied());
        next += 1;
    }
    all
}

/// All processes of this machine.
pub fn processes() -> usize {
    let is_pid =
        |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    fs::read_dir("/proc").into_iter().flatten().flatten().filter(is_pid).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processs_own_view_and_the_clock_read_from_outside_agree() {
        let me = std::process::id();
        let spin_until = cpu_ns(me).expect("it lives") + 50_000_000;
        while cpu_ns(me).expect("it lives") < spin_until {}
        // Other threads of this process run meanwhile.
        let (before, own, after) = (cpu_ns(me).expect("it lives"), own_cpu_ns(), cpu_ns(me).expect("it lives"));
        let tick = 10_000_000;
        assert!(before <= own + tick && own <= after + tick, "{before}, {own}, {after}");
        assert_eq!((cpu_ns(1 << 22), cpu_ns(u32::MAX / 2)), (None, None));
    }

    #[test]
    fn memory_and_family_are_those_of_the_kernel() {
        let me = std::process::id();
        let (rss, pss) = memory(me).expect("it lives");
        assert!(0 < pss && pss <= rss, "{pss} of {rss}");
        assert!(written_memory(me).is_some_and(|bytes| 0 < bytes && bytes < rss));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep is there");
        assert!(family(me).contains(&child.id()) && processes() >= 2);
        child.kill().and_then(|()| child.wait()).expect("it is our child");
    }
}
