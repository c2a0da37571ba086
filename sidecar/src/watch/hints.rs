//! inotify on every directory of the workspace, as hints. It is asked through descriptors that the walk holds, so no
//! path is resolved twice. What it misses (freshly made nested directories, overflows, its own limits) the walk finds.
use std::{
    collections::{BTreeSet, HashMap},
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, OwnedFd},
};

use rustix::{
    fs::{
        fstat,
        inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init, remove_watch},
    },
    io::Errno,
};

use crate::{claim, probe::beneath::Root};

/// Names that wait for a look; beyond, a walk is cheaper.
const TOUCHED_MAX: usize = 4_096;
/// Directories that are watched for events; the walk sees the others.
const WATCHES_MAX: usize = 8_192;

#[derive(Debug)]
pub struct Hints {
    inotify: OwnedFd,
    /// Watch descriptor to the directory, from the workspace; empty: the workspace itself.
    directories: HashMap<i32, String>,
    watched: HashMap<String, Watched>,
    /// Directory and name of what may have changed.
    pub touched: BTreeSet<(String, String)>,
    limit_told: bool,
}

#[derive(Debug, PartialEq)]
struct Watched {
    watch: i32,
    /// Device and inode.
    directory: (u64, u64),
}

impl Hints {
    pub fn new() -> io::Result<Self> {
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self {
            inotify,
            directories: HashMap::new(),
            watched: HashMap::new(),
            touched: BTreeSet::new(),
            limit_told: false,
        })
    }

    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.inotify
    }

    /// Before the directory is listed: what comes after is in the list or gives an event.
    pub fn watch(&mut self, path: &str, directory: &OwnedFd) {
        if self.watched.len() >= WATCHES_MAX && !self.watched.contains_key(path) {
            self.tell_limit(&format!("{WATCHES_MAX} directories are watched"));
            return;
        }
        let Ok(stat) = fstat(directory) else { return };
        let identity = (stat.st_dev, stat.st_ino);
        // A watch lasts as long as its directory does; its end is an event.
        if self.watched.get(path).is_some_and(|watched| watched.directory == identity) {
            return;
        }
        // Without MODIFY: a file counts when it is closed; one that is never closed is the walk's.
        let events = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let through = format!("/proc/self/fd/{}", directory.as_raw_fd());
        match add_watch(&self.inotify, through, events) {
            Ok(watch) => {
                // The kernel gives the same number for the same inode: a directory that was renamed has a new name here.
                if let Some(old) = self.directories.insert(watch, path.to_owned())
                    && old != path
                {
                    self.watched.remove(&old);
                }
                self.watched.insert(path.to_owned(), Watched { watch, directory: identity });
            }
            Err(Errno::NOSPC) => self.tell_limit("the system's fs.inotify.max_user_watches is reached"),
            // Gone, or no /proc: the walk sees it.
            Err(_) => {}
        }
    }

    /// The directory of the claim is watched, though not walked.
    pub fn watch_claims(&mut self, root: &Root) {
        if let Ok(directory) = root.directory(claim::DIRECTORY) {
            self.watch(claim::DIRECTORY, &directory);
        }
    }

    pub fn forget_all(&mut self) {
        for (watch, _) in self.directories.drain() {
            let _ = remove_watch(&self.inotify, watch);
        }
        self.watched.clear();
        self.touched.clear();
    }

    /// Takes what is there. `true`: only a walk can tell what changed.
    pub fn read(&mut self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut lost = false;
        let mut gone = Vec::new();
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                // Drained; or broken, then the walk goes on alone.
                Err(_) => break,
            };
            let kinds = event.events();
            if kinds.contains(ReadFlags::QUEUE_OVERFLOW) {
                lost = true;
                continue;
            }
            let Some(directory) = self.directories.get(&event.wd()) else { continue };
            if kinds.intersects(ReadFlags::IGNORED | ReadFlags::UNMOUNT) {
                lost |= directory.is_empty();
                gone.push(event.wd());
            } else if kinds.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
                // Its parent tells of any other.
                lost |= directory.is_empty();
            } else if let Some(name) = event.file_name() {
                if self.touched.len() < TOUCHED_MAX {
                    self.touched.insert((directory.clone(), name.to_string_lossy().into_owned()));
                } else {
                    lost = true;
                }
            }
        }
        for watch in gone {
            if let Some(directory) = self.directories.remove(&watch)
                && self.watched.get(&directory).is_some_and(|watched| watched.watch == watch)
            {
                self.watched.remove(&directory);
            }
        }
        lost
    }

    fn tell_limit(&mut self, why: &str) {
        if !self.limit_told {
            self.limit_told = true;
            crate::log::say(false, &format!("{why}: changes elsewhere in the workspace are found by walking only"));
        }
    }
}
