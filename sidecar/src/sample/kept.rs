//! A file of `/proc` or of a cgroup that is read again and again: opened once, then read from its start. Its reads fail
//! once what it tells of is gone (`ENODEV` of a cgroup, `ESRCH` of a process): it is never taken for a successor's.
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Files are read up to here; a longer one is not half read.
pub const FILE_MAX: usize = 1 << 20;
const CHUNK: usize = 4096;

pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// From the start to the end.
pub fn read_whole(file: impl AsFd, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    read_on(&file, buffer)
}

/// Of a file that the kernel writes in one piece: one call, where it fits.
pub fn read_piece(file: impl AsFd, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    if piece(&file, buffer)? < CHUNK { Ok(()) } else { read_on(&file, buffer) }
}

fn read_on(file: &impl AsFd, buffer: &mut Vec<u8>) -> io::Result<()> {
    loop {
        if buffer.len() >= FILE_MAX {
            buffer.clear();
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // These files may give less than was asked for before their end: only 0 is the end.
        if piece(file, buffer)? == 0 {
            return Ok(());
        }
    }
}

fn piece(file: &impl AsFd, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let at = buffer.len();
    buffer.resize(at + CHUNK, 0);
    let read = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut buffer[at..], at as u64));
    buffer.truncate(at + read.unwrap_or(0));
    Ok(read?)
}

/// One that is opened when it is first asked for, and again when it went away.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    file: Option<OwnedFd>,
    /// It could not be opened: not tried again before [`Kept::retry`].
    refused: bool,
    /// What was kept could not be read any more.
    lost: bool,
}

impl Kept {
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, refused: false, lost: false }
    }

    /// It may be there by now.
    pub fn retry(&mut self) {
        self.refused = false;
    }

    /// Whether what it told of went away since the last call: what is read now may be a successor's.
    pub fn was_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    /// Absent where it is not there or may not be read.
    pub fn read<'a>(&mut self, buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        if self.refused {
            return None;
        }
        if let Some(file) = &self.file {
            if read_piece(file, buffer).is_ok() {
                return Some(buffer);
            }
            self.file = None;
            self.lost = true;
        }
        let Ok(file) = open(&self.path) else {
            self.refused = true;
            return None;
        };
        if read_piece(&file, buffer).is_err() {
            self.refused = true;
            return None;
        }
        self.file = Some(file);
        Some(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_anew_each_time_and_whole() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("file");
        let (mut kept, mut buffer) = (Kept::new(path.clone()), Vec::new());
        assert_eq!(kept.read(&mut buffer), None);
        std::fs::write(&path, "1\n").unwrap();
        assert_eq!(kept.read(&mut buffer), None, "asked for again only on retry");
        kept.retry();
        assert_eq!(kept.read(&mut buffer), Some(&b"1\n"[..]));
        let long = "x".repeat(3 * CHUNK + 7);
        std::fs::write(&path, &long).unwrap();
        assert_eq!(kept.read(&mut buffer).map(<[u8]>::len), Some(long.len()));
        std::fs::write(&path, "").unwrap();
        assert_eq!(kept.read(&mut buffer), Some(&b""[..]));
    }

    #[test]
    fn one_that_has_no_end_is_not_half_read() {
        let mut buffer = Vec::new();
        let file = open(Path::new("/dev/zero")).unwrap();
        assert_eq!(read_whole(&file, &mut buffer).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(buffer.is_empty());
    }

    #[test]
    fn the_stat_of_an_ended_process_fails_and_is_nobody_elses() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let mut buffer = Vec::new();
        let file = open(Path::new(&format!("/proc/{}/stat", child.id()))).unwrap();
        assert!(read_piece(&file, &mut buffer).is_ok());
        child.wait().unwrap();
        assert!(read_piece(&file, &mut buffer).is_err());
    }
}
