//! How far the journal was written, in a small file beside it. The engine takes a log whose middle a disk has spoilt for
//! one that ends there, and an older copy of the file for the newest: what was acknowledged would be gone unnoticed. The
//! mark notices. It is written after each commit and never waited for: after a power cut it may be older than the journal,
//! which says nothing, and it never is newer. One that cannot be read says nothing either.
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use super::schema::with_suffix;

pub(super) const SUFFIX: &str = "-mark";
/// Of one project: checksum, last event, length of the lineage, lineage.
const SLOT: usize = 64;
const LINEAGE_MAX: usize = SLOT - 13;

#[derive(Debug)]
pub(super) struct Mark {
    file: Option<File>,
}

impl Mark {
    /// For reading only, or for writing too. One that cannot be opened marks nothing.
    pub fn open(journal: &Path, write: bool) -> Self {
        let path = with_suffix(journal, SUFFIX);
        let file = OpenOptions::new().read(true).write(write).create(write).truncate(false).mode(0o600).open(&path);
        if let Err(error) = &file
            && (write || error.kind() != io::ErrorKind::NotFound)
        {
            tracing::warn!(file = %path.display(), %error, "how far the journal goes is not noted beside it");
        }
        Self { file: file.ok() }
    }

    pub fn none() -> Self {
        Self { file: None }
    }

    /// This history goes up to this event.
    pub fn set(&self, project: i64, lineage: &str, last: u64) {
        let Some(file) = &self.file else { return };
        let mut slot = [0; SLOT];
        let name = &lineage.as_bytes()[..lineage.len().min(LINEAGE_MAX)];
        slot[4..12].copy_from_slice(&last.to_le_bytes());
        slot[12] = name.len() as u8;
        slot[13..13 + name.len()].copy_from_slice(name);
        let checksum = crc32fast::hash(&slot[4..]);
        slot[..4].copy_from_slice(&checksum.to_le_bytes());
        // In place, so that a full disk has room for it; and without it nothing is wrong that was not before.
        if let Err(error) = file.write_all_at(&slot, place(project)) {
            tracing::debug!(%error, "the journal's mark was not written");
        }
    }

    /// How far this history went at least; 0: nothing is known.
    pub fn get(&self, project: i64, lineage: &str) -> u64 {
        let mut slot = [0; SLOT];
        let Some(file) = &self.file else { return 0 };
        if file.read_exact_at(&mut slot, place(project)).is_err()
            || slot[..4] != crc32fast::hash(&slot[4..]).to_le_bytes()
        {
            return 0;
        }
        let known = slot.get(13..13 + usize::from(slot[12])).unwrap_or_default();
        let name = &lineage.as_bytes()[..lineage.len().min(LINEAGE_MAX)];
        let last = slot[4..12].try_into().map_or(0, u64::from_le_bytes);
        // Of another history, which was restored or replaced on purpose.
        if known == name { last } else { 0 }
    }
}

fn place(project: i64) -> u64 {
    u64::try_from(project).unwrap_or(0).saturating_sub(1).saturating_mul(SLOT as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_project_and_one_history_and_says_nothing_when_spoilt() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("j");
        assert_eq!(Mark::open(&journal, false).get(1, "a"), 0);
        let mark = Mark::open(&journal, true);
        mark.set(1, "a", 7);
        mark.set(3, "b", u64::MAX);
        mark.set(1, "a", 9);
        let read = Mark::open(&journal, false);
        assert_eq!((read.get(1, "a"), read.get(1, "b"), read.get(2, "a"), read.get(3, "b")), (9, 0, 0, u64::MAX));
        let path = with_suffix(&journal, SUFFIX);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[5] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Mark::open(&journal, false).get(1, "a"), 0);
        mark.set(1, &"l".repeat(200), 4);
        assert_eq!(mark.get(1, &"l".repeat(200)), 4);
    }
}
