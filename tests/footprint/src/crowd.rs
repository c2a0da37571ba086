//! What is measured: a crowd of real processes of which a fifth is active, and loads of a known size that write down what
//! the kernel charged them. Each is this program again, started by a sidecar as its agent.
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use rustix::time::{ClockId, clock_gettime};

use crate::meter;

/// How much an active process of the crowd works in each second.
const ACTIVE_MS: u64 = 3;
/// A load works for its share of this, then sleeps: short, so that it hardly matters where in it a reading ends.
const SLICE: Duration = Duration::from_millis(10);
/// A load writes down what it used so often.
const NOTE_EVERY: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, Subcommand)]
pub enum Part {
    /// The root of so many processes, of which so many are active
    Crowd { processes: u32, active: u32 },
    /// One of them
    Member { busy_ms: u64, delay_ms: u64 },
    /// Works so many percent of a core, and notes what it used
    Cpu { percent: u64, notes: PathBuf },
    /// Holds so many MiB
    Memory { mib: usize, notes: PathBuf },
    /// Starts so many processes a second that end at once
    Forks { per_second: u32, notes: PathBuf },
    /// Ends at once, after some work
    Ends,
}

/// As the command of an agent.
pub fn command(part: &[&str]) -> Vec<String> {
    let own = std::env::current_exe().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let words = ["--".into(), own, "part".into()].into_iter();
    words.chain(part.iter().map(|word| (*word).to_owned())).collect()
}

pub fn play(part: &Part) -> Result<()> {
    match part {
        Part::Crowd { processes, active } => crowd(*processes, *active),
        Part::Member { busy_ms, delay_ms } => member(*busy_ms, *delay_ms),
        Part::Cpu { percent, notes } => cpu(*percent, notes),
        Part::Memory { mib, notes } => memory(*mib, notes),
        Part::Forks { per_second, notes } => forks(*per_second, notes),
        Part::Ends => {
            spin(Duration::from_millis(2));
            Ok(())
        }
    }
}

fn again(args: &[String]) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("part").args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("this program cannot be started again")
}

fn crowd(processes: u32, active: u32) -> Result<()> {
    let mut children = Vec::new();
    // The root is one of them, and does nothing.
    for n in 1..processes {
        let busy = if n <= active { ACTIVE_MS } else { 0 };
        let delay = u64::from(n) * 1_000 / u64::from(processes);
        children.push(again(&["member".into(), busy.to_string(), delay.to_string()])?);
    }
    loop {
        std::thread::park();
    }
}

fn member(busy_ms: u64, delay_ms: u64) -> Result<()> {
    if busy_ms == 0 {
        loop {
            std::thread::park();
        }
    }
    let mut next = Instant::now() + Duration::from_millis(delay_ms);
    loop {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        spin(Duration::from_millis(busy_ms));
        next += Duration::from_secs(1);
    }
}

/// Of CPU time, not of wall time: what else runs here does not make it less.
fn spin(of_cpu: Duration) {
    let until = thread_cpu_ns() + u64::try_from(of_cpu.as_nanos()).unwrap_or(u64::MAX);
    while thread_cpu_ns() < until {
        for n in 0..500_u64 {
            std::hint::black_box(n);
        }
    }
}

fn thread_cpu_ns() -> u64 {
    nanoseconds(ClockId::ThreadCPUTime)
}

pub fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

fn cpu(percent: u64, notes: &Path) -> Result<()> {
    let mut rest = percent;
    while rest > 100 {
        rest -= 100;
        std::thread::spawn(|| work(100));
    }
    std::thread::spawn(move || work(rest));
    write_notes(notes)
}

fn work(percent: u64) {
    let share = SLICE * u32::try_from(percent.min(100)).unwrap_or(100) / 100;
    let mut next = Instant::now();
    loop {
        spin(share);
        next = (next + SLICE).max(Instant::now() - SLICE);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn memory(mib: usize, notes: &Path) -> Result<()> {
    let mut held = vec![0_u8; mib << 20];
    // Each page is written, else the kernel has none.
    held.iter_mut().step_by(1 << 12).for_each(|byte| *byte = 1);
    std::hint::black_box(&held);
    write_notes(notes)
}

fn forks(per_second: u32, notes: &Path) -> Result<()> {
    let notes = notes.to_owned();
    std::thread::spawn(move || write_notes(&notes));
    let every = Duration::from_secs(1) / per_second.max(1);
    let mut next = Instant::now();
    loop {
        again(&["ends".into()])?.wait()?;
        next = (next + every).max(Instant::now() - every);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// One line for each moment: boot-time clock, CPU of this process and of its children that were waited for.
fn write_notes(path: &Path) -> Result<()> {
    let mut file = fs::File::create(path).with_context(|| format!("{} cannot be made", path.display()))?;
    loop {
        // As one write, so that no reader sees half a line.
        let line = format!("{} {}\n", nanoseconds(ClockId::Boottime), meter::own_cpu_ns());
        file.write_all(line.as_bytes())?;
        std::thread::sleep(NOTE_EVERY);
    }
}

/// What a load wrote down: moments and CPU, both in nanoseconds.
pub struct Notes(Vec<(u64, u64)>);

impl Notes {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        // The last line may be half there.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let pair = |line: &str| {
            let (moment, cpu) = line.split_once(' ')?;
            Some((moment.parse().ok()?, cpu.parse().ok()?))
        };
        Self(whole.lines().filter_map(pair).collect())
    }

    /// CPU used up to this moment, between the two notes around it. `None`: it was not noted then.
    pub fn cpu_at(&self, moment: u64) -> Option<f64> {
        let after = self.0.partition_point(|(noted, _)| *noted < moment);
        let ((t1, c1), (t0, c0)) = (self.0.get(after)?, self.0.get(after.checked_sub(1)?)?);
        let share = (moment - t0) as f64 / (t1 - t0) as f64;
        Some(*c0 as f64 + share * (*c1 - *c0) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_read_between_two_notes_and_never_beyond_them() {
        let notes = Notes::parse("1000 0\n2000 500\n4000 500\n500");
        assert_eq!(notes.cpu_at(1_500), Some(250.0));
        assert_eq!(notes.cpu_at(3_000), Some(500.0));
        assert_eq!((notes.cpu_at(900), notes.cpu_at(4_001)), (None, None));
        assert_eq!(Notes::parse("").cpu_at(1), None);
    }
}
