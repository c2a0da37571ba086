//! What the workspace held when it was last looked at: one stamp per file. Walking it again tells what was created,
//! modified and removed since.
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::ControlFlow,
    os::fd::OwnedFd,
};

use rustix::fs::{FileType, Stat};

use super::hints::Hints;
use crate::probe::{
    beneath::Root,
    walk::{self, Below, SKIPPED, Walked},
};

/// Changes when the file does: inode, size, and both times to the nanosecond.
#[must_use]
pub fn stamp(stat: &Stat) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let parts = [
        stat.st_ino,
        stat.st_size.cast_unsigned(),
        stat.st_mtime.cast_unsigned(),
        stat.st_mtime_nsec,
        stat.st_ctime.cast_unsigned(),
        stat.st_ctime_nsec,
    ];
    for byte in parts.iter().flat_map(|part| part.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// Files by path from the workspace.
#[derive(Debug, Default)]
pub struct Tree {
    files: BTreeMap<Box<str>, u64>,
    changed: BTreeSet<String>,
    /// The inbox, where it lies in the workspace: what the sidecar writes is not the agent's work.
    inbox: Option<String>,
}

impl Tree {
    #[must_use]
    pub fn new(inbox: Option<String>) -> Self {
        Self { inbox, ..Self::default() }
    }

    pub fn clear(&mut self) {
        self.files.clear();
        self.changed.clear();
    }

    /// Paths that changed since this was last asked, sorted.
    pub fn take_changes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    /// Compares everything. After an incomplete walk, what was not seen counts as unchanged.
    pub fn walk_all(&mut self, top: OwnedFd, hints: Option<&mut Hints>) -> Walked {
        let mut seen = HashSet::new();
        let walked = self.walk_below("", top, hints, &mut seen);
        if walked.incomplete.is_none() {
            let gone: Vec<Box<str>> = self.files.keys().filter(|path| !seen.contains(*path)).cloned().collect();
            for path in gone {
                self.files.remove(&path);
                self.changed.insert(path.into());
            }
        }
        walked
    }

    /// Something is there now, of which a hint came.
    pub fn saw(&mut self, root: &Root, path: &str, stat: &Stat, hints: Option<&mut Hints>) {
        let skipped = path.split('/').any(|part| SKIPPED.contains(&part));
        if skipped || self.is_inbox(path) {
            return;
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                // A file of this name was replaced; what lay below is found by the walk.
                self.forget(path);
                if let Ok(top) = root.directory(path) {
                    self.walk_below(path, top, hints, &mut HashSet::new());
                }
            }
            kind => {
                self.note(path, kind, stat);
            }
        }
    }

    /// A file, or a directory with all that was below it, is gone.
    pub fn removed(&mut self, path: &str) {
        self.forget(path);
        let below = format!("{path}/");
        let gone: Vec<Box<str>> = self
            .files
            .range::<str, _>((std::ops::Bound::Included(below.as_str()), std::ops::Bound::Unbounded))
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(&below))
            .cloned()
            .collect();
        gone.iter().for_each(|path| self.forget(path));
    }

    fn forget(&mut self, path: &str) {
        if self.files.remove(path).is_some() {
            self.changed.insert(path.to_owned());
        }
    }

    fn walk_below(
        &mut self,
        base: &str,
        top: OwnedFd,
        mut hints: Option<&mut Hints>,
        seen: &mut HashSet<Box<str>>,
    ) -> Walked {
        let from_workspace = |path: &str| match (base, path) {
            ("", path) => path.to_owned(),
            (base, "") => base.to_owned(),
            (base, path) => format!("{base}/{path}"),
        };
        walk::walk(
            top,
            &mut |path, directory| {
                if let Some(hints) = &mut hints {
                    hints.watch(&from_workspace(path), directory);
                }
            },
            &mut |found| {
                let path = from_workspace(found.path);
                if self.is_inbox(&path) {
                    return ControlFlow::Continue(Below::Skip);
                }
                if self.note(&path, found.kind, found.stat) {
                    seen.insert(path.into());
                }
                ControlFlow::Continue(Below::Enter)
            },
        )
    }

    /// `true`: it is a file.
    fn note(&mut self, path: &str, kind: FileType, stat: &Stat) -> bool {
        if !matches!(kind, FileType::RegularFile | FileType::Symlink) {
            return false;
        }
        let now = stamp(stat);
        let room = self.files.len() < walk::ENTRIES_MAX;
        match self.files.get_mut(path) {
            Some(then) if *then == now => {}
            Some(then) => {
                *then = now;
                self.changed.insert(path.to_owned());
            }
            None if room => {
                self.files.insert(path.into(), now);
                self.changed.insert(path.to_owned());
            }
            None => {}
        }
        true
    }

    fn is_inbox(&self, path: &str) -> bool {
        self.inbox.as_ref().is_some_and(|inbox| {
            path.strip_prefix(inbox.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}
