//! Gives memory back that only the start needed: the resident pages of this program's code and constants. They are the
//! file's, unchanged, and those that are needed again come back from the page cache at the first touch. Where anything was
//! written into them (the breakpoints of a debugger) they are left alone.
use std::{
    fs,
    io::{self, Read as _},
    time::{Duration, Instant},
};

use rustix::mm::{Advice, madvise};

/// By then a session stands, and a measurement of each kind was made.
const FIRST: Duration = Duration::from_secs(20);
/// A reconnect or a new plan runs other code once.
const AGAIN: Duration = Duration::from_secs(600);

const SMAPS_BYTES: usize = 512 * 1024;

#[derive(Debug)]
pub struct Resident {
    due: Instant,
}

impl Resident {
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

/// Of so many bytes.
fn release() -> io::Result<usize> {
    // So large that the allocator gives it back whole.
    let mut smaps = String::with_capacity(SMAPS_BYTES);
    if fs::File::open("/proc/self/smaps")?.take(SMAPS_BYTES as u64).read_to_string(&mut smaps)? == SMAPS_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut all = 0;
    for mapping in of_program(&mappings(&smaps), release as *const () as usize) {
        all += advise(mapping.begin, mapping.end - mapping.begin)?;
    }
    Ok(all)
}

#[allow(unsafe_code, reason = "advice about a mapping is given by its address")]
fn advise(begin: usize, length: usize) -> io::Result<usize> {
    let place = std::ptr::with_exposed_provenance_mut(begin);
    // SAFETY: a private mapping of a file that nothing was written into: what is dropped comes back as it was.
    unsafe { madvise(place, length, Advice::LinuxDontNeed) }?;
    Ok(length)
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Mapping<'a> {
    begin: usize,
    end: usize,
    mode: &'a str,
    /// Device and inode.
    file: (&'a str, &'a str),
    /// Something of it is not the file's.
    written: bool,
    resident_kb: usize,
}

fn mappings(smaps: &str) -> Vec<Mapping<'_>> {
    let mut all: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some(key) = first.strip_suffix(':') {
            let kb = words.next().and_then(|word| word.parse::<usize>().ok());
            match (key, all.last_mut(), kb) {
                ("Anonymous", Some(last), kb) => last.written = kb != Some(0),
                // What was written and is swapped out counts there alone, and comes later.
                ("Swap", Some(last), kb) => last.written |= kb != Some(0),
                ("Rss", Some(last), Some(kb)) => last.resident_kb = kb,
                _ => {}
            }
        } else if let Some(mapping) = mapping(first, words) {
            all.push(mapping);
        }
    }
    all
}

fn mapping<'a>(range: &'a str, mut words: impl Iterator<Item = &'a str>) -> Option<Mapping<'a>> {
    let (begin, end) = range.split_once('-')?;
    let (begin, end) = (usize::from_str_radix(begin, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    // Until it is said that nothing was written into it.
    let (mode, file) = (words.next()?, (words.nth(1)?, words.next()?));
    Some(Mapping { begin, end, mode, file, written: true, resident_kb: 0 })
}

/// What the file with the code at this address has of code and constants, where they are as the file has them.
fn of_program<'a>(all: &'a [Mapping<'a>], address: usize) -> impl Iterator<Item = &'a Mapping<'a>> {
    let code = all.iter().find(|m| (m.begin..m.end).contains(&address));
    let file = code.map(|m| m.file).filter(|(_, inode)| *inode != "0");
    let of_file = move |m: &&Mapping| Some(m.file) == file && matches!(m.mode, "r-xp" | "r--p");
    all.iter().filter(of_file).filter(|m| !m.written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_the_file_has_it_is_released() {
        let smaps = "\
            1000-2000 r--p 00000000 fe:00 12  /bin/x\nRss: 4 kB\nAnonymous:  0 kB\n\
            2000-5000 r-xp 00001000 fe:00 12  /bin/x\nAnonymous:  0 kB\nVmFlags: rd ex\n\
            5000-5800 r--p 00004000 fe:00 12  /bin/x\nAnonymous:  4 kB\nSwap:  0 kB\n\
            5800-6000 r--p 00004800 fe:00 12  /bin/x\nAnonymous:  0 kB\nSwap:  4 kB\n\
            6000-7000 rw-p 00005000 fe:00 12  /bin/x\nAnonymous:  0 kB\n\
            7000-8000 r-xs 00000000 fe:00 12  /bin/x\nAnonymous:  0 kB\n\
            8000-9000 r-xp 00000000 fe:00 13  /lib/y\nAnonymous:  0 kB\n\
            9000-a000 r-xp 00000000 00:00 0\nAnonymous:  0 kB\nnonsense\n\
            a000-b000 r--p 00000000 fe:00 12  /bin/x\n\
            b000-c000 r-xp 00000000 fe:01 12  /bin/z\nAnonymous:  0 kB\n";
        let all = mappings(smaps);
        assert_eq!((all.len(), all[0].resident_kb), (10, 4));
        for (address, begins) in [(0x2000, &[0x1000, 0x2000][..]), (0x8fff, &[0x8000]), (0x9000, &[]), (0xffff, &[])] {
            let found: Vec<usize> = of_program(&all, address).map(|m| m.begin).collect();
            assert_eq!(found, begins, "{address:x}");
        }
    }

    #[test]
    fn this_program_runs_on_with_fewer_pages_of_its_code() {
        let resident = || {
            let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
            let all = mappings(&smaps);
            of_program(&all, release as *const () as usize).map(|m| m.resident_kb).sum::<usize>()
        };
        let before = resident();
        let all = release().unwrap();
        let after = resident();
        assert!(after < before && before <= all / 1024, "{before} kB, then {after} kB, of {all} bytes");
    }
}
