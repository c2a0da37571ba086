//! What is dear or seldom changes, looked at every [`SLOW_EVERY`] samples: I/O, descriptors and command lines of the
//! largest processes, and the file system of the workspace. Until the next look it stands as it was, with what it covers.
use std::path::Path;

use pitwall_proto::v1;

use super::{INTERVAL_MIN_S, SLOW_EVERY, Sampler, command, procfs, rates};

/// Processes that are looked at that closely. As many as a reading names.
const CLOSELY: usize = 20;
/// So many slow looks apart a command line that is known is read again: programs seldom change it.
const COMMAND_EVERY: u64 = 6;

/// The last look at what is dear.
#[derive(Default)]
pub struct SlowLook {
    pub at_ns: Option<u64>,
    pub seconds: Option<f64>,
    /// Read and written by all processes, bytes per second.
    pub io: Option<(f64, f64)>,
}

impl Sampler {
    /// I/O, descriptors and command line of the largest; I/O of all that ran, where no cgroup counts it.
    pub(super) fn look_closely(&mut self, processes: &mut [v1::ProcessUsage], boot_ns: u64) {
        let last_ns = self.slow.at_ns.replace(boot_ns);
        let all_commands = (self.tick / SLOW_EVERY).is_multiple_of(COMMAND_EVERY);
        let seconds = last_ns.map(|at| boot_ns.saturating_sub(at) as f64 / 1e9).filter(|s| *s >= INTERVAL_MIN_S);
        self.slow.seconds = seconds;
        let add_up = self.counters.devices.is_none();
        let mut sum: Option<(f64, f64)> = None;
        for (n, usage) in processes.iter_mut().enumerate() {
            let Some(pid) = usage.identity.as_ref().map(|i| i.pid) else { continue };
            let Self { table, .. } = self;
            let moved = table.entry(pid).is_some_and(|e| std::mem::take(&mut e.slow.moved) || e.slow.io.is_none());
            let close = n < CLOSELY;
            let known = table.entry(pid).is_some_and(|e| e.slow.command_of == e.stat.name);
            // One that comes among the largest by resting was not looked at closely yet.
            let new_here = table.entry(pid).is_some_and(|e| e.slow.descriptors.is_none()) || !known;
            if moved && (close || add_up) || close && new_here {
                let io = table.proc.io(pid);
                let descriptors = if close { table.proc.descriptors(pid) } else { None };
                let command = (close && (all_commands || !known))
                    .then(|| table.proc.raw_command_line(pid).and_then(command::shown).unwrap_or_default());
                let Some(entry) = table.entry(pid) else { continue };
                // What was born since the last look has moved nothing before.
                let born_at_ns = entry.stat.start_ticks as f64 / self.ticks_per_second * 1e9;
                let newborn = last_ns.is_some_and(|at| born_at_ns >= at as f64).then(procfs::Io::default);
                let before = entry.slow.io.or(newborn);
                entry.slow.rates = seconds.zip(io.zip(before)).and_then(|(seconds, (now, then))| {
                    let rate = |then, now| Some(rates::grown(Some(then), Some(now))? as f64 / seconds);
                    rate(then.read, now.read).zip(rate(then.written, now.written))
                });
                entry.slow.io = io;
                entry.slow.descriptors = descriptors;
                if let Some(command) = command {
                    (entry.slow.command, entry.slow.command_of) = (command, entry.stat.name);
                }
            } else if let Some(entry) = table.entry(pid) {
                if close || add_up {
                    // It rested: it moved nothing, opened nothing, and is the same program.
                    entry.slow.rates = seconds.zip(entry.slow.io).map(|_| (0.0, 0.0));
                } else {
                    // A cgroup counts for it, and its own share is not looked at.
                    (entry.slow.rates, entry.slow.io, entry.slow.descriptors) = (None, None, None);
                }
            }
            let Some(entry) = table.entry(pid) else { continue };
            usage.read_bytes_per_s = entry.slow.rates.map(|r| r.0);
            usage.write_bytes_per_s = entry.slow.rates.map(|r| r.1);
            usage.descriptors = entry.slow.descriptors;
            usage.command.clone_from(&entry.slow.command);
            if let Some((read, written)) = entry.slow.rates {
                let (r, w) = sum.unwrap_or_default();
                sum = Some((r + read, w + written));
            }
        }
        self.slow.io = sum;
        self.filesystem = self.workspace.as_ref().and_then(|at| filesystem(at));
    }
}

fn filesystem(at: &Path) -> Option<v1::Filesystem> {
    let found = rustix::fs::statvfs(at).ok()?;
    // Some file systems have no inodes to run out of.
    let inodes = (found.f_files > 0).then_some(());
    Some(v1::Filesystem {
        free_bytes: found.f_bavail.checked_mul(found.f_frsize),
        total_bytes: found.f_blocks.checked_mul(found.f_frsize),
        free_inodes: inodes.map(|()| found.f_favail),
        total_inodes: inodes.map(|()| found.f_files),
    })
}
