//! `next-server`: a development server that behaves, then burns CPU, then memory. It writes down when it crossed each
//! limit by its own reckoning, so that the report can say since when anybody could have known.
use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

use super::{
    Since,
    part::{Part, Runaway},
};

/// One slice of burning and resting.
const SLICE: Duration = Duration::from_millis(100);
/// What it burns while it behaves, in cores.
const MODEST: f64 = 0.02;
const CHUNK: usize = 16 * 1024 * 1024;

pub fn run(_part: &Part, work: &Runaway) -> io::Result<()> {
    // Its agent's end is its own, also where that one is killed.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let mut log = OpenOptions::new().create(true).append(true).open(&work.log)?;
    let since = Since::now();
    let mut memory: Vec<Vec<u8>> = Vec::new();
    let (mut cpu_crossed, mut memory_crossed) = (false, false);
    let mut seed = 1_u64;
    loop {
        let now = since.ms();
        let wild = work.cpu_ms.is_some_and(|at| now >= at);
        let hungry = work.cpu_ms.is_some_and(|at| now >= at + work.memory_after_ms);
        let grown = u64::try_from(memory.len() * CHUNK).unwrap_or(u64::MAX);
        if hungry && grown < work.grow_bytes {
            memory.push(vec![1_u8; CHUNK]);
        }
        let began = unix_ms();
        let burned = slice(if wild { work.burn } else { MODEST }, &mut seed);
        if !cpu_crossed && burned > work.cpu_limit {
            cpu_crossed = true;
            note(&mut log, "cpu", began)?;
        }
        if !memory_crossed && resident(Path::new("/proc/self/status")).is_some_and(|b| b > work.memory_limit_bytes) {
            memory_crossed = true;
            note(&mut log, "memory", unix_ms())?;
        }
    }
}

/// Burns that share of a slice and rests for what is left. Returns what it really used, in cores.
fn slice(share: f64, seed: &mut u64) -> f64 {
    let (began, cpu_began) = (Instant::now(), cpu_time());
    let want = SLICE.mul_f64(share.clamp(0.0, 1.0));
    while cpu_time().saturating_sub(cpu_began) < want && began.elapsed() < SLICE {
        for _ in 0..2_000 {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        }
    }
    thread::sleep(SLICE.saturating_sub(began.elapsed()));
    cpu_time().saturating_sub(cpu_began).as_secs_f64() / began.elapsed().as_secs_f64().max(0.001)
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_millis()).ok()).unwrap_or(0)
}

fn note(log: &mut File, what: &str, at: i64) -> io::Result<()> {
    log.write_all(format!("{what} {at}\n").as_bytes())
}

/// Bytes in memory, from a `status` file.
fn resident(status: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other tests of this process count as its CPU time, so only the sign is certain: it burns when told.
    #[test]
    fn a_slice_burns_what_it_was_told() {
        assert!(slice(0.9, &mut 1) > 0.1);
    }

    #[test]
    fn it_knows_its_own_memory() {
        assert!(resident(Path::new("/proc/self/status")).expect("linux") > 1024 * 1024);
    }
}
