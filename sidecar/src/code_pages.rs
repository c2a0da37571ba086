//! Gives memory back that only the start needed: the resident pages of this program's own code. They are the file's,
//! unchanged, and those that run again come back from the page cache at the first touch. A debugger's breakpoints in this
//! process are lost with them.
use std::{
    fs, io,
    time::{Duration, Instant},
};

use rustix::mm::{Advice, madvise};

/// By then a session stands, and a measurement of each kind was made.
const FIRST: Duration = Duration::from_secs(20);
/// A reconnect or a new plan runs other code once.
const AGAIN: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub struct CodePages {
    due: Instant,
}

impl CodePages {
    pub fn new(now: Instant) -> Self {
        Self { due: now + FIRST }
    }

    /// Where it is time. That it cannot be done costs memory, and nothing else.
    pub fn look(&mut self, now: Instant) {
        if now >= self.due {
            self.due = now + AGAIN;
            let _ = release();
        }
    }
}

/// So many bytes of code there are in all.
fn release() -> io::Result<usize> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let (begin, end) = code_at(&maps, release as *const () as usize).ok_or(io::ErrorKind::NotFound)?;
    advise(begin, end - begin)
}

#[allow(unsafe_code, reason = "advice about a mapping is given by its address")]
fn advise(begin: usize, length: usize) -> io::Result<usize> {
    let place = std::ptr::with_exposed_provenance_mut(begin);
    // SAFETY: it is a private mapping of a file that may not be written to: what is dropped comes back as it was.
    unsafe { madvise(place, length, Advice::LinuxDontNeed) }?;
    Ok(length)
}

/// The mapping around an address, where it is a file's code: readable, executable, private, not writable.
fn code_at(maps: &str, address: usize) -> Option<(usize, usize)> {
    maps.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (begin, end) = words.next()?.split_once('-')?;
        let (begin, end) = (usize::from_str_radix(begin, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        let (mode, inode) = (words.next()?, words.nth(2)?);
        ((begin..end).contains(&address) && mode == "r-xp" && inode != "0").then_some((begin, end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_a_file_is_released() {
        let maps = "\
            1000-2000 r--p 00000000 fe:00 12 /bin/x\n\
            2000-5000 r-xp 00001000 fe:00 12 /bin/x\n\
            5000-6000 rw-p 00004000 fe:00 12 /bin/x\n\
            6000-7000 r-xp 00000000 00:00 0 \n\
            7000-8000 r-xs 00000000 fe:00 12 /bin/x\nnonsense\n";
        for (address, found) in [
            (0x1fff, None),
            (0x2000, Some((0x2000, 0x5000))),
            (0x4fff, Some((0x2000, 0x5000))),
            (0x5000, None),
            (0x6000, None),
            (0x7000, None),
            (0x9000, None),
        ] {
            assert_eq!(code_at(maps, address), found, "{address:x}");
        }
    }

    #[test]
    fn this_program_runs_on_with_fewer_pages_of_its_code() {
        let resident = || {
            let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
            let (begin, _) = code_at(&smaps, release as *const () as usize).unwrap();
            let this = smaps.split_once(&format!("{begin:x}-")).unwrap().1;
            let line = this.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
        };
        let before = resident();
        let all = release().unwrap();
        let after = resident();
        assert!(after < before && before <= all / 1024, "{before} kB, then {after} kB, of {all} bytes");
    }
}
