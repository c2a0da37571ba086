//! The processes that are looked at, remembered from one tick to the next. Each costs one call for its CPU clock; its
//! `stat` is read, on a kept descriptor, where the clock moved, and for all at a slower pace.
//!
//! A pid that was given to another process is never taken for the one before. A kept `stat` fails once its process is
//! gone; and what did not move by a nanosecond is still the same, as even the end of a process takes time of its clock.
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use super::cgroup;
use super::clocks;
use super::kept::{open, read_piece, read_whole};
use super::members::Look;
use super::parse;
use super::procfs::{Io, Name, PIDS_MAX, ProcFs, Stat, parse_stat};

/// Every so many ticks each `stat` is read: memory and threads of those that did not move.
const FULL_EVERY: u64 = 10;
/// Descriptors that are kept for processes; more processes than this are read by opening their files.
const KEPT_MAX: usize = 2_048;

pub struct Table {
    pub proc: ProcFs,
    /// By pid.
    entries: Vec<Entry>,
    buffer: Vec<u8>,
    clocks: bool,
    ns_per_tick: u64,
    keep_max: usize,
    kept: usize,
    tick: u64,
    full: bool,
    listing: Option<(PathBuf, OwnedFd)>,
}

#[derive(Debug)]
pub struct Entry {
    pub stat: Stat,
    file: Option<OwnedFd>,
    waits: Option<OwnedFd>,
    by_clock: bool,
    pub cpu_ns: u64,
    /// One tick ago.
    pub cpu_before: Option<u64>,
    /// It used CPU since the last tick.
    pub moved: bool,
    /// Nanoseconds on a run queue, and those when they were read before.
    pub waited: Option<u64>,
    pub waited_before: Option<u64>,
    cgroups: Option<Box<str>>,
    pub slow: Slow,
    tick: u64,
}

/// What is read at a slower pace.
#[derive(Debug, Default)]
pub struct Slow {
    pub io: Option<Io>,
    pub rates: Option<(f64, f64)>,
    pub descriptors: Option<u32>,
    pub command: String,
    /// The name that the process had when that was read: another one is another program.
    pub command_of: Name,
    /// It used CPU since the last slow look.
    pub moved: bool,
}

impl Table {
    pub fn new(proc: ProcFs) -> Self {
        let real = proc.is_real();
        let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let half = usize::try_from(allowed / 2).unwrap_or(KEPT_MAX);
        Self {
            clocks: real && clocks::usable().is_ok(),
            ns_per_tick: 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1),
            // A file of a test stays readable when it was removed.
            keep_max: if real { half.min(KEPT_MAX) } else { 0 },
            kept: 0,
            proc,
            entries: Vec::new(),
            buffer: Vec::with_capacity(4096),
            tick: 0,
            full: true,
            listing: None,
        }
    }

    pub fn has_clocks(&self) -> bool {
        self.clocks
    }

    #[cfg(test)]
    pub fn without_clocks(&mut self) {
        self.clocks = false;
    }

    /// From here on processes are looked at anew.
    pub fn begin(&mut self) {
        self.tick += 1;
        self.full = self.tick % FULL_EVERY == 1;
    }

    /// Whoever was not asked for since [`Table::begin`] is forgotten.
    pub fn end(&mut self) {
        let tick = self.tick;
        self.entries.retain(|entry| entry.tick == tick);
        self.kept = self.entries.iter().map(|e| usize::from(e.file.is_some()) + usize::from(e.waits.is_some())).sum();
    }

    pub fn entry(&mut self, pid: i32) -> Option<&mut Entry> {
        let at = self.entries.binary_search_by_key(&pid, |entry| entry.stat.pid).ok()?;
        self.entries.get_mut(at)
    }

    fn look(&mut self, pid: i32) -> Option<usize> {
        match self.entries.binary_search_by_key(&pid, |entry| entry.stat.pid) {
            Ok(at) if self.entries[at].tick == self.tick || self.again(at) => Some(at),
            Ok(at) => match self.fresh(pid) {
                Some(fresh) => {
                    self.entries[at] = fresh;
                    Some(at)
                }
                None => {
                    self.entries.remove(at);
                    None
                }
            },
            Err(at) => {
                let fresh = self.fresh(pid)?;
                self.entries.insert(at, fresh);
                Some(at)
            }
        }
    }

    /// False: it is gone, or another one has its pid.
    fn again(&mut self, at: usize) -> bool {
        let entry = &mut self.entries[at];
        let clock = match entry.by_clock.then(|| clocks::cpu_ns(entry.stat.pid)) {
            Some(Ok(ns)) => Some(ns),
            Some(Err(_gone)) => return false,
            None => None,
        };
        if self.full || clock != Some(entry.cpu_ns) {
            let stat = match &entry.file {
                Some(file) if read_piece(file, &mut self.buffer).is_ok() => parse_stat(&self.buffer),
                Some(_ended) => None,
                None => self.proc.stat(entry.stat.pid),
            };
            // Read after its clock: whoever is there now was there then.
            let Some(stat) = stat.filter(|s| s.pid == entry.stat.pid && s.start_ticks == entry.stat.start_ticks) else {
                return false;
            };
            entry.stat = stat;
        }
        let now = clock.unwrap_or_else(|| entry.stat.cpu_ticks.saturating_mul(self.ns_per_tick));
        entry.moved = now != entry.cpu_ns;
        // Without a clock a little use goes unseen.
        entry.slow.moved |= entry.moved || !entry.by_clock;
        entry.cpu_before = Some(entry.cpu_ns);
        entry.cpu_ns = now;
        entry.tick = self.tick;
        true
    }

    fn fresh(&mut self, pid: i32) -> Option<Entry> {
        let file = self.proc.open_stat(pid)?;
        // Between the opening and the reading of its file: what is read then was alive at both.
        let clock = if self.clocks { clocks::cpu_ns(pid).ok() } else { None };
        read_piece(&file, &mut self.buffer).ok()?;
        let stat = parse_stat(&self.buffer).filter(|stat| stat.pid == pid)?;
        let keeps = self.kept < self.keep_max;
        self.kept += usize::from(keeps);
        Some(Entry {
            file: keeps.then_some(file),
            waits: None,
            by_clock: clock.is_some(),
            cpu_ns: clock.unwrap_or_else(|| stat.cpu_ticks.saturating_mul(self.ns_per_tick)),
            stat,
            cpu_before: None,
            moved: true,
            waited: None,
            waited_before: None,
            cgroups: None,
            slow: Slow { moved: true, ..Slow::default() },
            tick: self.tick,
        })
    }

    /// How long a process waited on run queues. The kernel adds a wait up when it ends, by running: where the clock stood
    /// still nothing was added.
    pub fn look_at_waits(&mut self, pid: i32) {
        let Ok(at) = self.entries.binary_search_by_key(&pid, |entry| entry.stat.pid) else { return };
        let entry = &mut self.entries[at];
        entry.waited_before = entry.waited;
        if entry.by_clock && !entry.moved && entry.waited.is_some() {
            return;
        }
        if entry.waits.is_none() && self.kept < self.keep_max {
            entry.waits = open(&self.proc.path_of(pid, "schedstat")).ok();
            self.kept += usize::from(entry.waits.is_some());
        }
        let second = |text: &[u8]| parse::number(text.split(|b| *b == b' ').nth(1)?);
        entry.waited = match &entry.waits {
            Some(file) => read_piece(file, &mut self.buffer).ok().and_then(|()| second(&self.buffer)),
            None => self.proc.run_queue_wait(pid),
        };
    }
}

impl Look for Table {
    fn pids(&mut self, into: &mut Vec<i32>) {
        self.proc.pids(into);
    }

    fn stat(&mut self, pid: i32) -> Option<Stat> {
        self.look(pid).map(|at| self.entries[at].stat)
    }

    fn is_in(&mut self, pid: i32, cgroups: [&str; 2]) -> Option<bool> {
        let at = self.look(pid)?;
        let entry = &mut self.entries[at];
        if self.full || entry.cgroups.is_none() {
            entry.cgroups = self.proc.cgroup_of(pid).map(String::into_boxed_str);
        }
        entry.cgroups.as_deref().map(|own| cgroups.contains(&own))
    }

    fn listed(&mut self, directory: &Path, into: &mut Vec<i32>) {
        into.clear();
        let kept = self.listing.take().filter(|(of, _)| of == directory).map(|(_, file)| file);
        // v1 gives an opened file the same list for as long as somebody reads it: there it is opened each time.
        let is_v2 = || self.proc.is_real() && directory.join("cgroup.controllers").exists();
        let mut read = |file: OwnedFd| read_whole(&file, &mut self.buffer).is_ok().then_some(file);
        let kept = kept.and_then(&mut read);
        let file =
            kept.or_else(|| if is_v2() { open(&directory.join("cgroup.procs")).ok().and_then(read) } else { None });
        let Some(file) = file else { return cgroup::members(&mut self.proc, directory, into) };
        parse::pids(&self.buffer, PIDS_MAX, into);
        self.listing = Some((directory.to_owned(), file));
        cgroup::members_below(&mut self.proc, directory, into);
    }

    fn proc(&self) -> &ProcFs {
        &self.proc
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_rests_is_not_read_and_one_that_ended_is_gone() {
        let mut table = Table::new(ProcFs::default());
        assert!(table.has_clocks());
        let child = sleeper();
        let pid = child.id() as i32;
        let me = std::process::id() as i32;
        table.begin();
        assert!(table.stat(pid).is_some() && table.stat(me).is_some());
        table.end();
        // It goes to sleep meanwhile.
        let mut rests = false;
        for _ in 0..200 {
            table.begin();
            table.stat(pid).unwrap();
            table.stat(me).unwrap();
            table.end();
            rests |= !table.entry(pid).unwrap().moved;
            assert!(table.entry(me).unwrap().moved, "looking takes time");
        }
        assert!(rests);
        end(child);
        table.begin();
        assert_eq!(table.stat(pid), None);
        table.end();
        assert!(table.entry(pid).is_none());
    }

    #[test]
    fn clocks_and_stat_tell_the_same_within_a_tick() {
        let busy = |table: &mut Table| {
            let me = std::process::id() as i32;
            table.begin();
            table.stat(me).unwrap();
            table.entry(me).unwrap().cpu_ns
        };
        let (mut exact, mut coarse) = (Table::new(ProcFs::default()), Table::new(ProcFs::default()));
        coarse.without_clocks();
        let (a, b) = (busy(&mut exact), busy(&mut coarse));
        assert!(a.abs_diff(b) < 100_000_000, "{a} and {b}");
    }

    #[test]
    fn whoever_has_the_pid_of_another_has_no_rate() {
        let proc = tempfile::tempdir().unwrap();
        let write = |start: u64, ticks: u64| {
            let directory = proc.path().join("10");
            fs::create_dir_all(&directory).unwrap();
            let stat = format!("10 (a) R 1 10 10 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 3 0 {start} 0 7 0");
            fs::write(directory.join("stat"), stat).unwrap();
        };
        let mut table = Table::new(ProcFs::at(proc.path()));
        let mut rate = || {
            table.begin();
            let seen = table.stat(10).is_some();
            table.end();
            seen.then(|| table.entry(10).map(|e| e.cpu_before.map(|before| e.cpu_ns.wrapping_sub(before)))).flatten()
        };
        write(500, 100);
        assert_eq!(rate(), Some(None));
        write(500, 150);
        assert_eq!(rate(), Some(Some(500_000_000)));
        write(900, 9_000);
        assert_eq!(rate(), Some(None));
        fs::remove_dir_all(proc.path().join("10")).unwrap();
        assert_eq!(rate(), None);
    }

    #[test]
    fn descriptors_run_out_and_nothing_else_changes() {
        let mut table = Table::new(ProcFs::default());
        table.keep_max = 1;
        let children = [sleeper(), sleeper(), sleeper()];
        for _ in 0..12 {
            table.begin();
            for child in &children {
                assert!(table.stat(child.id() as i32).is_some());
            }
            table.end();
            assert_eq!((table.entries.len(), table.kept), (3, 1));
        }
        children.into_iter().for_each(end);
    }
}
