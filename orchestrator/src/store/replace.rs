//! One journal takes another's place, in steps after each of which a kill leaves the older or the newer one whole, and the
//! older one stays under another name. What a kill leaves half done, [`recover`] takes back before anybody opens it.
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Problem, Result, StoreError, mark, rename,
    schema::{directory, with_suffix},
};

const PARTIAL: &str = ".partial";
const REPLACED: &str = ".replaced-";
const LOG: &str = "-wal";
const INDEX: &str = "-shm";
/// What a journal that is being made has, and what SQLite has beside it.
const BESIDE: [&str; 4] = ["", "-journal", LOG, INDEX];

/// In this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A second name for the older journal, and for its log, where it has one still.
    KeepJournal,
    KeepLog,
    KeptIsDurable,
    /// Beside another journal the log would ruin that one.
    DropLog,
    DropIndex,
    /// From here on it is the newer one.
    Settle,
    /// It is of the older one, and may be somebody's whom the server is not.
    DropMark,
    SettledIsDurable,
}

const STEPS: [Step; 8] = [
    Step::KeepJournal,
    Step::KeepLog,
    Step::KeptIsDurable,
    Step::DropLog,
    Step::DropIndex,
    Step::Settle,
    Step::DropMark,
    Step::SettledIsDurable,
];

impl Step {
    fn take(self, new: &Path, place: &Path, kept: &Path) -> io::Result<()> {
        match self {
            Self::KeepJournal => unless_absent(fs::hard_link(place, kept)),
            Self::KeepLog => unless_absent(fs::hard_link(with_suffix(place, LOG), with_suffix(kept, LOG))),
            Self::DropLog => unless_absent(fs::remove_file(with_suffix(place, LOG))),
            Self::DropIndex => unless_absent(fs::remove_file(with_suffix(place, INDEX))),
            Self::Settle => fs::rename(new, place),
            Self::DropMark => unless_absent(fs::remove_file(with_suffix(place, mark::SUFFIX))),
            Self::KeptIsDurable | Self::SettledIsDurable => directory(place)?.sync_all(),
        }
    }
}

fn unless_absent(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// The name under which what was there stays.
pub(super) fn kept_name(place: &Path, now: i64) -> PathBuf {
    with_suffix(place, &format!("{REPLACED}{now}"))
}

/// Takes back what a restore that was killed has left of itself; whether there was any.
pub fn recover(place: &Path) -> Result<bool> {
    let failed = |error: io::Error| failed("recover", place, &error);
    let Some(name) = place.file_name().map(|name| name.to_string_lossy().into_owned()) else { return Ok(false) };
    let folder = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let current = fs::metadata(place).ok().map(|file| file.ino());
    let mut found = false;
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let other = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = other.strip_prefix(&name) else { continue };
        if is_partial(rest) {
            unless_absent(fs::remove_file(entry.path())).map_err(failed)?;
            found = true;
        } else if rest.strip_prefix(REPLACED).is_some_and(|at| at.parse::<i64>().is_ok())
            && current == Some(entry.metadata().map_err(failed)?.ino())
        {
            // The older one is still in its place: its second name goes, after its log has the first again.
            let [kept_log, log] = [with_suffix(&entry.path(), LOG), with_suffix(place, LOG)];
            let back = if log.exists() { fs::remove_file(kept_log) } else { fs::rename(kept_log, log) };
            unless_absent(back).and_then(|()| fs::remove_file(entry.path())).map_err(failed)?;
            found = true;
        }
    }
    if found {
        directory(place).and_then(|folder| folder.sync_all()).map_err(failed)?;
    }
    Ok(found)
}

/// Whether [`Beside`] gives its file, or SQLite one beside that, this name behind its place's. Others are somebody's.
fn is_partial(rest: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let beside = BESIDE.iter().find_map(|suffix| rest.strip_suffix(suffix)?.strip_suffix(PARTIAL)?.strip_prefix('.'));
    beside.and_then(|id| id.split_once('-')).is_some_and(|(process, nanos)| is_number(process) && is_number(nanos))
}

/// A file that is being made beside its place; what is left of it when this is dropped is removed.
pub(super) struct Beside(PathBuf);

impl Beside {
    /// Empty, for SQLite to fill, and only this user's to read.
    pub fn make(place: &Path) -> Result<Self> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
        let path = with_suffix(place, &format!(".{}-{nanos}{PARTIAL}", std::process::id()));
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.map(|_| Self(path)).map_err(|error| failed("write", place, &error))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A server that is not root must be able to open what root brought back.
    pub fn give_to_owner_of(&self, directory: &Path) -> Result<()> {
        let failed = |error: io::Error| failed("give away", &self.0, &error);
        let (owner, own) = (fs::metadata(directory).map_err(failed)?, fs::metadata(&self.0).map_err(failed)?);
        if (owner.uid(), owner.gid()) == (own.uid(), own.gid()) {
            return Ok(());
        }
        std::os::unix::fs::chown(&self.0, Some(owner.uid()), Some(owner.gid())).map_err(failed)
    }

    /// Whole and on the disk, or not there; never over another.
    pub fn settle(self, place: &Path) -> Result<()> {
        let renamed = self.sync().and_then(|()| rename::over_none(&self.0, place));
        renamed.and_then(|()| directory(place)?.sync_all()).map_err(|error| failed("write", place, &error))
    }

    /// In the place of what is there, if anything is, which stays as `kept`.
    pub fn replace(self, place: &Path, kept: &Path) -> Result<()> {
        let replaced = self.sync().and_then(|()| STEPS.iter().try_for_each(|step| step.take(&self.0, place, kept)));
        replaced.map_err(|error| failed("replace", place, &error))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        for name in BESIDE {
            let _ = fs::remove_file(with_suffix(&self.0, name));
        }
    }
}

pub(super) fn failed(doing: &'static str, path: &Path, error: &io::Error) -> StoreError {
    let problem = match error.kind() {
        io::ErrorKind::AlreadyExists => Problem::Exists,
        _ => Problem::Unwritable,
    };
    StoreError { problem, path: path.into(), doing, source: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn all(folder: &Path) -> BTreeMap<String, String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
        });
        entries.collect()
    }

    /// What stands in the place, what its log is, and what is kept of the other.
    type Seen<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>, Option<&'a str>);

    fn killed_behind(steps: usize, journal: bool, log: bool) -> BTreeMap<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("j");
        for (there, suffix, text) in
            [(journal, "", "old"), (log, LOG, "old log"), (log, INDEX, "old index"), (journal, "-mark", "mark")]
        {
            if there {
                fs::write(with_suffix(&place, suffix), text).unwrap();
            }
        }
        let beside = Beside::make(&place).unwrap();
        fs::write(beside.path(), "new").unwrap();
        fs::write(with_suffix(beside.path(), "-journal"), "its own").unwrap();
        for step in &STEPS[..steps] {
            step.take(beside.path(), &place, &kept_name(&place, 7)).unwrap();
        }
        // Killed: nothing is dropped.
        std::mem::forget(beside);
        assert!(recover(&place).unwrap(), "its own is left in any case");
        assert!(!recover(&place).unwrap(), "once is enough");
        all(folder.path())
    }

    #[test]
    fn killed_behind_any_step_it_is_the_older_or_the_newer_one_whole() {
        let settled = STEPS.iter().position(|step| *step == Step::Settle).unwrap() + 1;
        for (journal, log) in [(true, true), (true, false), (false, true), (false, false)] {
            for steps in 0..=STEPS.len() {
                let files = killed_behind(steps, journal, log);
                let get = |name: &str| files.get(name).map(String::as_str);
                let seen: Seen<'_> = (get("j"), get("j-wal"), get("j.replaced-7"), get("j.replaced-7-wal"));
                let (old, old_log) = (journal.then_some("old"), log.then_some("old log"));
                let told = format!("behind {steps} steps, journal {journal}, log {log}: {files:?}");
                if steps >= settled {
                    assert_eq!(seen, (Some("new"), None, old, old_log), "{told}");
                    assert_eq!(get("j-shm"), None, "{told}");
                } else if journal {
                    assert_eq!(seen, (old, old_log, None, None), "{told}");
                    assert_eq!(get("j-mark"), Some("mark"), "{told}");
                } else {
                    // There was none to keep whole; its log is under one name or the other.
                    assert_eq!(seen.0, None, "{told}");
                    assert_eq!(seen.1.or(seen.3), old_log, "{told}");
                }
                assert!(!files.keys().any(|name| name.contains(PARTIAL)), "{told}");
            }
        }
    }

    #[test]
    fn recovery_itself_may_be_killed() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("j");
        fs::write(&place, "old").unwrap();
        fs::write(with_suffix(&place, LOG), "old log").unwrap();
        // Behind its first change: the log is back, the second name is still there.
        fs::hard_link(&place, kept_name(&place, 7)).unwrap();
        assert!(recover(&place).unwrap());
        assert_eq!(all(folder.path()).len(), 2);
        // Another journal that was kept once is left alone.
        fs::write(kept_name(&place, 3), "older").unwrap();
        fs::write(with_suffix(&kept_name(&place, 3), LOG), "its log").unwrap();
        assert!(!recover(&place).unwrap());
        assert_eq!(all(folder.path()).len(), 4);
    }

    #[test]
    fn recovery_removes_only_names_that_a_restore_makes_itself() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("j");
        fs::write(&place, "journal").unwrap();
        let others = [
            "j.partial",
            "j.partial.bak",
            "j-notes.partial",
            "j.night.partial",
            "j.12-34.partial.bak",
            "j.12-.partial",
            "j.1-2-3.partial",
            "j12-34.partial",
            "k.12-34.partial",
        ];
        for other in others {
            fs::write(folder.path().join(other), "somebody's").unwrap();
        }
        // Somebody's second name for it.
        fs::hard_link(&place, folder.path().join("j.replaced-by-me")).unwrap();
        assert!(!recover(&place).unwrap(), "{:?}", all(folder.path()));
        assert_eq!(all(folder.path()).len(), others.len() + 2);
        for own in ["", "-journal", LOG, INDEX] {
            fs::write(with_suffix(&place, &format!(".12-34{PARTIAL}{own}")), "its own").unwrap();
        }
        assert!(recover(&place).unwrap());
        assert_eq!(all(folder.path()).len(), others.len() + 2, "{:?}", all(folder.path()));
    }
}
