//! The sidecar's durable memory: one directory, locked by one process, and in it one file that grows by appends and is
//! now and then replaced as a whole. What stands in it is the core's; torn ends are cut where the core says so.
//!
//! Fails with the path and the cause; a failed append leaves the file as it was before, or the next one is refused too.
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

/// Larger than a full spool many times over: such a file is not ours, or something is wrong.
pub const SIZE_MAX: u64 = 64 * 1024 * 1024;
const FILE: &str = "state";
const NEW: &str = "state.new";
const LOCK: &str = "lock";
const MACHINE_IDS: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("state directory {path} cannot be used: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "state directory {path} is in use by another sidecar{}; give each sidecar a --state of its own",
        who.as_ref().map_or(String::new(), |pid| format!(" (pid {pid})"))
    )]
    InUse { path: PathBuf, who: Option<String> },
    #[error(
        "{path} has {size} bytes, more than the {SIZE_MAX} that a sidecar ever writes; move it away to start afresh"
    )]
    TooLarge { path: PathBuf, size: u64 },
    #[error("{what} {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// Holds the state directory for this process.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

/// A sidecar that was killed while it started a process leaves the lock to that one, until it has become its program.
const LOCK_WITHIN: Duration = Duration::from_secs(1);
const LOCK_AGAIN: Duration = Duration::from_millis(20);

fn is_taken(lock: &File) -> bool {
    let until = Instant::now() + LOCK_WITHIN;
    loop {
        if flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(LOCK_AGAIN);
    }
}

impl StateDir {
    pub fn lock(path: &Path) -> Result<Self, StateError> {
        let directory = |source| StateError::Directory { path: path.into(), source };
        // The agent must not read it.
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(directory)?;
        let at = path.join(LOCK);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&at)
            .map_err(directory)?;
        if !is_taken(&lock) {
            let mut pid = String::new();
            let read = (&mut lock).take(20).read_to_string(&mut pid);
            let who = read.ok().map(|_| pid.trim().to_owned()).filter(|pid| !pid.is_empty());
            return Err(StateError::InUse { path: path.into(), who });
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(directory)?;
        Ok(Self { path: path.into(), _lock: lock })
    }

    /// Where it lies, as one word: the machine, and the directory's inode on it. Another one for a directory that was copied,
    /// or moved to another file system or machine. Empty where nobody can say.
    pub fn place(&self) -> String {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(inode) = fs::metadata(&self.path).map(|m| m.ino()) else { return String::new() };
        // The same in containers that were made from one image, and empty in many: then the inode alone has to tell.
        let machine = MACHINE_IDS.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let machine = machine.trim();
        format!("{}/{inode}", machine.get(..8).unwrap_or(machine))
    }

    /// All bytes of the state file; empty where there is none yet.
    pub fn read(&self) -> Result<Vec<u8>, StateError> {
        let path = self.path.join(FILE);
        let failed = |source| StateError::Io { what: "cannot read", path: path.clone(), source };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let size = file.metadata().map_err(failed)?.len();
        if size > SIZE_MAX {
            return Err(StateError::TooLarge { path, size });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    /// Opens it for appending after its first `stays` bytes; the rest is torn and is cut off.
    pub fn open(self, stays: u64) -> Result<StateFile, StateError> {
        let path = self.path.join(FILE);
        let failed = |what| {
            let path = path.clone();
            move |source| StateError::Io { what, path, source }
        };
        let new = self.path.join(NEW);
        if let Err(source) = fs::remove_file(&new)
            && source.kind() != io::ErrorKind::NotFound
        {
            return Err(StateError::Io { what: "cannot remove", path: new, source });
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("cannot open"))?;
        file.set_len(stays).and_then(|()| file.sync_all()).map_err(failed("cannot cut the torn end of"))?;
        sync_directory(&self.path).map_err(failed("cannot make durable"))?;
        Ok(StateFile { directory: self, file, length: stays, broken: false })
    }
}

/// The open state file. All calls block.
#[derive(Debug)]
pub struct StateFile {
    directory: StateDir,
    file: File,
    /// How much of it is durable.
    length: u64,
    /// What lies behind `length` could not be cut off.
    broken: bool,
}

impl StateFile {
    /// Appends, and returns when it is durable. After an error nothing of it is in the file.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.directory.path.join(FILE);
        let size = self.length + bytes.len() as u64;
        if size > SIZE_MAX {
            return Err(StateError::TooLarge { path, size });
        }
        if self.broken {
            self.cut().map_err(|source| StateError::Io { what: "cannot repair", path: path.clone(), source })?;
        }
        let written = self
            .file
            .seek(SeekFrom::Start(self.length))
            .and_then(|_| self.file.write_all(bytes))
            .and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.length = size;
                Ok(())
            }
            Err(source) => {
                // Half a record in the middle would hide all that follows.
                self.broken = self.cut().is_err();
                Err(StateError::Io { what: "cannot write", path, source })
            }
        }
    }

    /// Replaces the whole file, or leaves the old one.
    pub fn rewrite(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.directory.path.join(NEW);
        let failed = |what| {
            let path = path.clone();
            move |source| StateError::Io { what, path, source }
        };
        let size = bytes.len() as u64;
        if size > SIZE_MAX {
            return Err(StateError::TooLarge { path, size });
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("cannot make"))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("cannot write"))?;
        fs::rename(&path, self.directory.path.join(FILE)).map_err(failed("cannot put in place"))?;
        // From here on the new file is the file, even if its name is not durable yet.
        (self.file, self.length, self.broken) = (file, size, false);
        sync_directory(&self.directory.path).map_err(failed("cannot make durable"))
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.sync_all()?;
        self.broken = false;
        Ok(())
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(directory: &Path) -> Vec<u8> {
        StateDir::lock(directory).unwrap().read().unwrap()
    }

    #[test]
    fn a_directory_has_a_place_that_a_copy_of_it_does_not_have() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        let place = StateDir::lock(&first).unwrap().place();
        assert!(!place.is_empty());
        assert_eq!(StateDir::lock(&first).unwrap().place(), place, "it stays");
        fs::create_dir(&second).unwrap();
        fs::copy(first.join(LOCK), second.join(LOCK)).unwrap();
        assert_ne!(StateDir::lock(&second).unwrap().place(), place);
        fs::remove_dir_all(&second).unwrap();
        fs::rename(&first, &second).unwrap();
        assert_eq!(StateDir::lock(&second).unwrap().place(), place, "another name is no other place");
    }

    #[test]
    fn a_lock_that_is_let_go_of_soon_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let earlier = StateDir::lock(dir.path()).unwrap();
        let going = std::thread::spawn(move || {
            std::thread::sleep(LOCK_AGAIN * 3);
            drop(earlier);
        });
        StateDir::lock(dir.path()).unwrap();
        going.join().unwrap();
    }

    #[test]
    fn what_was_appended_is_there_again_and_a_torn_end_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/state");
        let mut file = StateDir::lock(&path).unwrap().open(0).unwrap();
        file.append(b"one").unwrap();
        file.append(b"two").unwrap();
        drop(file);
        let state = StateDir::lock(&path).unwrap();
        assert_eq!(state.read().unwrap(), b"onetwo");
        let mut file = state.open(4).unwrap();
        file.append(b"X").unwrap();
        drop(file);
        assert_eq!(content(&path), b"onetX");
    }

    #[test]
    fn a_rewrite_replaces_everything_and_appends_go_on_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = StateDir::lock(directory.path()).unwrap().open(0).unwrap();
        file.append(b"a long history").unwrap();
        file.rewrite(b"short").unwrap();
        file.append(b"+").unwrap();
        drop(file);
        assert_eq!(content(directory.path()), b"short+");
        assert!(!directory.path().join(NEW).exists());
    }

    #[test]
    fn a_rewrite_that_was_cut_short_by_a_crash_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = StateDir::lock(directory.path()).unwrap().open(0).unwrap();
        file.append(b"old").unwrap();
        drop(file);
        fs::write(directory.path().join(NEW), b"half").unwrap();
        let state = StateDir::lock(directory.path()).unwrap();
        assert_eq!(state.read().unwrap(), b"old");
        drop(state.open(3).unwrap());
        assert!(!directory.path().join(NEW).exists());
    }

    #[test]
    fn a_second_sidecar_is_told_who_holds_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let held = StateDir::lock(directory.path()).unwrap();
        let text = StateDir::lock(directory.path()).unwrap_err().to_string();
        assert!(text.contains(&format!("pid {}", std::process::id())) && text.contains("--state"), "{text}");
        drop(held);
        StateDir::lock(directory.path()).unwrap();
    }

    #[test]
    fn a_file_that_no_sidecar_wrote_is_refused_before_it_is_read() {
        let directory = tempfile::tempdir().unwrap();
        File::create(directory.path().join(FILE)).unwrap().set_len(SIZE_MAX + 1).unwrap();
        let refused = StateDir::lock(directory.path()).unwrap().read().unwrap_err();
        assert!(matches!(refused, StateError::TooLarge { .. }), "{refused}");
    }

    #[test]
    fn the_other_users_of_the_machine_cannot_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        drop(StateDir::lock(&path).unwrap().open(0).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
        assert_eq!(fs::metadata(path.join(FILE)).unwrap().permissions().mode() & 0o077, 0);
    }
}
