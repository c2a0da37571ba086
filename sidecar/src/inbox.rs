//! Directives for the agent: one file each in the inbox, there as a whole or not at all. The inbox may lie where the
//! agent can write, so nothing there is trusted: no link is followed, and an existing file is only ever compared.
use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use pitwall_sidecar_core::io::EffectOutcome;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, openat, renameat_with, unlinkat},
    io::Errno,
};

use crate::probe::beneath::said;

/// Where directives go.
#[derive(Clone, Debug)]
pub struct Inbox {
    directory: PathBuf,
    /// A test's: say that it is there, and write nothing.
    suppressed: bool,
}

impl Inbox {
    #[must_use]
    pub fn new(directory: PathBuf, suppressed: bool) -> Self {
        Self { directory, suppressed }
    }

    /// Blocks. A file of this name and content that is there already is success: the directive came twice.
    #[must_use]
    pub fn put(&self, file_name: &str, text: &str) -> EffectOutcome {
        if self.suppressed {
            return EffectOutcome::Ok { detail: format!("{file_name} not written: the inbox is suppressed by a test") };
        }
        match self.try_put(file_name, text) {
            Ok(there) => {
                let name = self.directory.file_name().map_or(Path::new("inbox"), Path::new);
                let before = if there { ", was there already" } else { "" };
                EffectOutcome::Ok { detail: format!("{}/{file_name}, {} bytes{before}", name.display(), text.len()) }
            }
            Err(why) => EffectOutcome::Failed { why: format!("inbox {}: {why}", self.directory.display()) },
        }
    }

    /// `true`: it was there already.
    fn try_put(&self, file_name: &str, text: &str) -> Result<bool, String> {
        if file_name.is_empty()
            || file_name.len() > 200
            || file_name.starts_with('.')
            || file_name.contains(['/', '\0'])
        {
            return Err(format!("{file_name:?} is no file name"));
        }
        std::fs::create_dir_all(&self.directory).map_err(|e| format!("cannot be made: {e}"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(CWD, &self.directory, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::LOOP | Errno::NOTDIR => "is not a directory; give a directory of its own to --inbox".into(),
            other => format!("cannot be opened: {}", said(other)),
        })?;
        if let Some(same) = compare(&directory, file_name, text)? {
            return if same { Ok(true) } else { Err(format!("{file_name} is there with other content")) };
        }
        let temporary = format!(".{file_name}.tmp");
        match unlinkat(&directory, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(format!("{temporary} cannot be removed: {}", said(errno))),
        }
        let placed = write(&directory, &temporary, text).and_then(|()| place(&directory, &temporary, file_name));
        if let Err(why) = placed {
            let _ = unlinkat(&directory, &temporary, AtFlags::empty());
            // It may have come while we wrote.
            return if compare(&directory, file_name, text)? == Some(true) { Ok(true) } else { Err(why) };
        }
        rustix::fs::fsync(&directory).map_err(|errno| format!("cannot be made durable: {}", said(errno)))?;
        Ok(false)
    }
}

/// `None`: there is no such file.
fn compare(directory: &OwnedFd, name: &str, text: &str) -> Result<Option<bool>, String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => {
            let mut there = Vec::new();
            let read = File::from(fd).take(text.len() as u64 + 1).read_to_end(&mut there);
            Ok(Some(read.is_ok() && there == text.as_bytes()))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(format!("{name} is there and cannot be read: {}", said(errno))),
    }
}

fn write(directory: &OwnedFd, name: &str, text: &str) -> Result<(), String> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |why: String| format!("{name} cannot be written: {why}");
    // The agent has to read it, under whatever user it runs.
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let mut file = File::from(openat(directory, name, flags, mode).map_err(|errno| failed(said(errno)))?);
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| failed(e.to_string()))
}

fn place(directory: &OwnedFd, temporary: &str, name: &str) -> Result<(), String> {
    let failed = |errno| format!("{name} cannot be put in place: {}", said(errno));
    match renameat_with(directory, temporary, directory, name, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // Not every file system knows NOREPLACE; a link fails where the name is taken, too.
        Err(Errno::INVAL | Errno::NOSYS) => {
            linkat(directory, temporary, directory, name, AtFlags::empty()).map_err(failed)?;
            unlinkat(directory, temporary, AtFlags::empty()).map_err(failed)
        }
        Err(errno) => Err(failed(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(inbox: &Inbox, name: &str, text: &str) -> Result<String, String> {
        match inbox.put(name, text) {
            EffectOutcome::Ok { detail } => Ok(detail),
            EffectOutcome::Failed { why } => Err(why),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_directive_is_put_once_and_its_redelivery_is_success() {
        let directory = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(directory.path().join("a/inbox"), false);
        assert_eq!(put(&inbox, "URGENT-c3.md", "do it").unwrap(), "inbox/URGENT-c3.md, 5 bytes");
        assert!(put(&inbox, "URGENT-c3.md", "do it").unwrap().contains("already"));
        assert!(put(&inbox, "URGENT-c3.md", "do more").unwrap_err().contains("other content"));
        let at = directory.path().join("a/inbox");
        assert_eq!(std::fs::read_to_string(at.join("URGENT-c3.md")).unwrap(), "do it");
        assert_eq!(std::fs::read_dir(&at).unwrap().count(), 1);
    }

    #[test]
    fn a_crash_in_the_middle_leaves_nothing_in_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(directory.path().into(), false);
        std::fs::write(directory.path().join(".m.md.tmp"), "hal").unwrap();
        put(&inbox, "m.md", "half").unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_agent_cannot_make_its_inbox_write_elsewhere() {
        let outside = tempfile::tempdir().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(outside.path(), &link).unwrap();
        assert!(put(&Inbox::new(link, false), "m.md", "x").unwrap_err().contains("not a directory"));
        let inbox = Inbox::new(directory.path().join("inbox"), false);
        std::fs::create_dir(directory.path().join("inbox")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("t"), directory.path().join("inbox/m.md")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("t"), directory.path().join("inbox/.n.md.tmp")).unwrap();
        put(&inbox, "m.md", "x").unwrap_err();
        put(&inbox, "n.md", "x").unwrap();
        for name in ["../m", "", ".m", "a/b"] {
            put(&inbox, name, "x").unwrap_err();
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_suppressed_inbox_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        put(&Inbox::new(directory.path().into(), true), "m.md", "x").unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
