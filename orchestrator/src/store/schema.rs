//! The tables of a journal's file, how an older file becomes one of today, and how a new one is made: beside its place,
//! and renamed when it is whole. So a file of no bytes is never a new journal, but one that lost everything.
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{Problem, Result, StoreError, rename, sqlite::translate};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

pub(super) const VERSION: i64 = 3;
/// The first version whose events have checksums; those that were there before stay without.
pub(super) const WITH_CHECKSUMS: i64 = 2;
pub(super) const WITH_SNAPSHOTS: i64 = 3;
/// The first whose projects have checksums, from their next owner on.
pub(super) const WITH_OWNERS_CHECKED: i64 = 3;

const PROJECTS_AND_EVENTS: &str = "
    CREATE TABLE project (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        lineage TEXT NOT NULL,
        epoch INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE event (
        project INTEGER NOT NULL REFERENCES project (id),
        sequence INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        body BLOB NOT NULL,
        crc INTEGER,
        PRIMARY KEY (project, sequence)
    ) STRICT, WITHOUT ROWID;
";
const CHECKSUMS: &str = "ALTER TABLE event ADD COLUMN crc INTEGER;";
const OWNERS_CHECKED: &str = "ALTER TABLE project ADD COLUMN crc INTEGER;";
/// Large rows: a table with row ids keeps them out of the tree's inner pages.
const SNAPSHOTS: &str = "
    CREATE TABLE snapshot (
        project INTEGER NOT NULL REFERENCES project (id),
        sequence INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        body BLOB NOT NULL,
        crc INTEGER NOT NULL,
        PRIMARY KEY (project, sequence)
    ) STRICT;
";

pub(super) fn found(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

pub(super) fn unknown(path: &Path, doing: &'static str, found: i64) -> StoreError {
    let problem = Problem::Version { found, known: VERSION };
    StoreError { problem, path: path.into(), doing, source: String::new() }
}

/// Whatever is missing is added, in one change.
pub(super) fn bring_up(connection: &mut Connection, path: &Path) -> Result<()> {
    let told = |error: rusqlite::Error| translate(path, "open", &error);
    let version = found(connection).map_err(told)?;
    let steps: &[&str] = match version {
        VERSION => return Ok(()),
        0 => &[PROJECTS_AND_EVENTS, SNAPSHOTS, OWNERS_CHECKED],
        1 => &[CHECKSUMS, SNAPSHOTS, OWNERS_CHECKED],
        2 => &[SNAPSHOTS, OWNERS_CHECKED],
        _ => return Err(unknown(path, "open", version)),
    };
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(told)?;
    for step in steps {
        change.execute_batch(step).map_err(told)?;
    }
    change.pragma_update(None, "user_version", VERSION).map_err(told)?;
    change.commit().map_err(told)
}

/// Makes the file, if it is not there; one of no bytes is refused.
pub(super) fn make(path: &Path) -> Result<()> {
    let [wal, new] = ["-wal", ".new"].map(|suffix| with_suffix(path, suffix));
    // What a start that was killed has left: perhaps a second name of what is in place.
    for rest in [new.clone(), with_suffix(&new, "-journal")] {
        match fs::remove_file(&rest) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unwritable(&rest, &error)),
            Ok(()) | Err(_) => {}
        }
    }
    match fs::metadata(path) {
        Ok(file) if file.len() == 0 => {
            let source = "the file is empty, as no journal ever is: what it held is lost".into();
            return Err(StoreError { problem: Problem::Corrupt, path: path.into(), doing: "open", source });
        }
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unwritable(path, &error)),
    }
    if fs::metadata(&wal).is_ok_and(|log| log.len() > 0) {
        let source = format!("the file is gone, and {} is there", wal.display());
        return Err(StoreError { problem: Problem::Corrupt, path: path.into(), doing: "open", source });
    }
    let told = |error: rusqlite::Error| translate(path, "make", &error);
    let mut made = Connection::open_with_flags(&new, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
        .map_err(told)?;
    made.pragma_update(None, "synchronous", "FULL").map_err(told)?;
    bring_up(&mut made, path)?;
    made.close().map_err(|(_, error)| told(error))?;
    let settled = File::open(&new)
        .and_then(|file| file.sync_all())
        .and_then(|()| rename::over_none(&new, path))
        .and_then(|()| directory(path)?.sync_all());
    settled.map_err(|error| unwritable(path, &error))
}

pub(super) fn directory(of: &Path) -> io::Result<File> {
    File::open(of.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn unwritable(path: &Path, error: &io::Error) -> StoreError {
    StoreError { problem: Problem::Unwritable, path: path.into(), doing: "make", source: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_name_that_a_killed_first_start_left_goes_and_the_journal_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        make(&path).unwrap();
        let made = fs::read(&path).unwrap();
        fs::hard_link(&path, with_suffix(&path, ".new")).unwrap();
        make(&path).unwrap();
        assert!(!with_suffix(&path, ".new").exists());
        assert_eq!(fs::read(&path).unwrap(), made);
    }
}
