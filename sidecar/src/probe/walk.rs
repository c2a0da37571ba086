//! One bounded walk below an open directory, for directory checks, globs and the reconciling walk of `watch`. It goes
//! from descriptor to descriptor and follows no link, so it cannot leave where it began.
use std::{ops::ControlFlow, os::fd::OwnedFd};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat},
    io::Errno,
};

/// Directories whose content no agent writes by hand: never walked unless a path names one.
pub const SKIPPED: [&str; 3] = [".git", "node_modules", ".pitwall"];
/// Entries looked at in one walk.
pub const ENTRIES_MAX: usize = 200_000;
/// A descriptor stays open per level.
pub const DEPTH_MAX: usize = 48;

/// Something that was found.
pub struct Found<'a> {
    /// From the top of the walk, for example "app/page.tsx".
    pub path: &'a str,
    pub stat: &'a Stat,
    pub kind: FileType,
}

/// What to do below a directory that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    Enter,
    Skip,
}

/// How a walk ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    pub entries: usize,
    /// Why it is not all: a bound, or a directory that cannot be read.
    pub incomplete: Option<String>,
}

/// Calls `visit` for everything below `top` except what is named in [`SKIPPED`]; `entered` with each directory that is about to be listed.
pub fn walk(
    top: OwnedFd,
    entered: &mut dyn FnMut(&str, &OwnedFd),
    visit: &mut dyn FnMut(Found<'_>) -> ControlFlow<(), Below>,
) -> Walked {
    walk_within(top, (&SKIPPED, ENTRIES_MAX), entered, visit)
}

/// The same for other names that are left out, and another bound.
pub fn walk_within(
    top: OwnedFd,
    (skipped, entries_max): (&[&str], usize),
    entered: &mut dyn FnMut(&str, &OwnedFd),
    visit: &mut dyn FnMut(Found<'_>) -> ControlFlow<(), Below>,
) -> Walked {
    let mut walk = Walk { walked: Walked::default(), path: String::new(), skipped, entries_max, entered, visit };
    let _ = walk.directory(top, 0);
    walk.walked
}

struct Walk<'a> {
    walked: Walked,
    path: String,
    skipped: &'a [&'a str],
    entries_max: usize,
    entered: &'a mut dyn FnMut(&str, &OwnedFd),
    visit: &'a mut dyn FnMut(Found<'_>) -> ControlFlow<(), Below>,
}

impl Walk<'_> {
    fn directory(&mut self, fd: OwnedFd, depth: usize) -> ControlFlow<()> {
        if depth > DEPTH_MAX {
            self.incomplete(format!("{} lies more than {DEPTH_MAX} levels deep", self.path));
            return ControlFlow::Continue(());
        }
        (self.entered)(&self.path, &fd);
        let listing = match Dir::read_from(&fd) {
            Ok(listing) => listing,
            Err(errno) => {
                self.incomplete(format!("{} cannot be listed: {}", self.path, super::beneath::said(errno)));
                return ControlFlow::Continue(());
            }
        };
        for entry in listing {
            let Ok(entry) = entry else { break };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if self.walked.entries >= self.entries_max {
                self.incomplete(format!("more than {} entries", self.entries_max));
                return ControlFlow::Break(());
            }
            self.walked.entries += 1;
            let Ok(stat) = statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let kind = FileType::from_raw_mode(stat.st_mode);
            let text = name.to_string_lossy();
            if kind == FileType::Directory && self.skipped.contains(&text.as_ref()) {
                continue;
            }
            let length = self.path.len();
            if length > 0 {
                self.path.push('/');
            }
            self.path.push_str(&text);
            let below = (self.visit)(Found { path: &self.path, stat: &stat, kind });
            let went_on = match below {
                ControlFlow::Break(()) => ControlFlow::Break(()),
                ControlFlow::Continue(Below::Enter) if kind == FileType::Directory => self.enter(&fd, name, depth),
                ControlFlow::Continue(Below::Enter | Below::Skip) => ControlFlow::Continue(()),
            };
            self.path.truncate(length);
            went_on?;
        }
        ControlFlow::Continue(())
    }

    fn enter(&mut self, parent: &OwnedFd, name: &std::ffi::CStr, depth: usize) -> ControlFlow<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(parent, name, flags, Mode::empty()) {
            Ok(fd) => self.directory(fd, depth + 1),
            // Gone, or no directory any more: the next walk sees what it became.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => ControlFlow::Continue(()),
            Err(errno) => {
                self.incomplete(format!("{} cannot be opened: {}", self.path, super::beneath::said(errno)));
                ControlFlow::Continue(())
            }
        }
    }

    fn incomplete(&mut self, why: String) {
        self.walked.incomplete.get_or_insert(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::beneath::Root;

    #[test]
    fn a_walk_follows_no_link_and_skips_what_no_agent_writes() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        let workspace = tempfile::tempdir().unwrap();
        for directory in ["a/b", ".git", "node_modules/x", ".pitwall"] {
            std::fs::create_dir_all(workspace.path().join(directory)).unwrap();
            std::fs::write(workspace.path().join(directory).join("file"), "x").unwrap();
        }
        std::os::unix::fs::symlink(outside.path(), workspace.path().join("link")).unwrap();
        std::os::unix::fs::symlink("..", workspace.path().join("a/loop")).unwrap();
        let top = Root::open(workspace.path()).unwrap().directory("").unwrap();
        let mut files = Vec::new();
        let walked = walk(top, &mut |_, _| {}, &mut |found| {
            if found.kind == FileType::RegularFile {
                files.push(found.path.to_owned());
            }
            ControlFlow::Continue(Below::Enter)
        });
        assert_eq!(files, ["a/b/file"]);
        assert_eq!(walked.incomplete, None);
    }

    #[test]
    fn a_tree_that_is_too_deep_ends_the_walk_and_says_so() {
        let workspace = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(workspace.path().join("d/".repeat(DEPTH_MAX + 3))).unwrap();
        let top = Root::open(workspace.path()).unwrap().directory("").unwrap();
        let walked = walk(top, &mut |_, _| {}, &mut |_| ControlFlow::Continue(Below::Enter));
        assert!(walked.incomplete.unwrap().contains("levels deep"));
    }
}
