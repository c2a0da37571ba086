//! What a process takes of the machine's memory, as the kernel has it.
use std::fs;

fn field(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells it");
    let kilobytes: u64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().expect("a number");
    kilobytes * 1_024
}

/// Bytes that are resident now.
pub fn resident(pid: u32) -> u64 {
    field(pid, "VmRSS")
}

/// The most that ever were.
pub fn peak(pid: u32) -> u64 {
    field(pid, "VmHWM")
}

/// While it lives, the most that a process takes must not grow by more than this.
pub struct Bound {
    pid: u32,
    what: &'static str,
    before: u64,
    more: u64,
}

impl Bound {
    pub fn of(pid: u32, what: &'static str, more: u64) -> Self {
        Self { pid, what, before: peak(pid), more }
    }

    pub fn holds(&self) {
        let (now, peak) = (resident(self.pid), peak(self.pid));
        let mib = |bytes: u64| bytes / (1024 * 1024);
        println!(
            "{}: {} MiB before, {} MiB at most, {} MiB now; may take {} MiB more",
            self.what,
            mib(self.before),
            mib(peak),
            mib(now),
            mib(self.more)
        );
        assert!(peak <= self.before + self.more, "{}: it took {} MiB more", self.what, mib(peak - self.before));
    }
}
