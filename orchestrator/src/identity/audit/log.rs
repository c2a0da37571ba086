//! One file of lines that grows, and those that were put aside when it had grown enough.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{super::files, Entry};

/// A file that grows over this is put aside; so many of those are kept.
pub const FILE_MAX: u64 = 8 * 1024 * 1024;
pub const ASIDE: usize = 4;

/// One file that grows, and those put aside.
pub struct Log {
    pub path: PathBuf,
    file: Option<File>,
}

impl Log {
    pub fn new(directory: &Path, name: &str) -> Self {
        Self { path: directory.join(format!("{name}.jsonl")), file: None }
    }

    fn aside(&self, n: usize) -> PathBuf {
        self.path.with_extension(format!("{n}.jsonl"))
    }

    pub fn all_newest_first(&self) -> Vec<PathBuf> {
        std::iter::once(self.path.clone()).chain((1..=ASIDE).map(|n| self.aside(n))).collect()
    }

    pub fn open(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            let is_new = !self.path.exists();
            let file = OpenOptions::new().read(true).append(true).create(true).mode(files::SECRET).open(&self.path)?;
            if is_new {
                self.sync_directory()?;
            }
            end_torn_line(&file)?;
            self.file = Some(file);
        }
        self.file.as_mut().ok_or_else(|| io::Error::other("it was just opened"))
    }

    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut bytes, entry)?;
            bytes.push(b'\n');
        }
        let size = self.open()?.metadata()?.len();
        if size > 0 && size + bytes.len() as u64 > FILE_MAX {
            self.put_aside()?;
        }
        let file = self.open()?;
        let before = file.metadata()?.len();
        if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_data()) {
            // A torn line would swallow the next one.
            let _ = file.set_len(before);
            self.file = None;
            return Err(error);
        }
        Ok(())
    }

    fn put_aside(&mut self) -> io::Result<()> {
        self.file = None;
        for n in (1..ASIDE).rev() {
            match fs::rename(self.aside(n), self.aside(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.aside(1))?;
        self.sync_directory()
    }

    /// A file that was made or renamed is there after a crash only when its directory is on disk too.
    fn sync_directory(&self) -> io::Result<()> {
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// What a crash cut short must not swallow the next line.
fn end_torn_line(mut file: &File) -> io::Result<()> {
    let size = file.metadata()?.len();
    let mut last = [b'\n'];
    if size > 0 {
        file.read_exact_at(&mut last, size - 1)?;
    }
    if last == [b'\n'] { Ok(()) } else { file.write_all(b"\n") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::audit::TEXT_MAX;

    #[test]
    fn files_are_put_aside_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path(), "x");
        let entry = Entry { message: "m".repeat(TEXT_MAX), ..Default::default() };
        let batch = vec![entry; 4_000];
        for _ in 0..30 {
            log.append(&batch).unwrap();
        }
        let sizes: Vec<u64> =
            log.all_newest_first().iter().filter_map(|p| fs::metadata(p).ok()).map(|m| m.len()).collect();
        assert_eq!(sizes.len(), 1 + ASIDE);
        assert!(sizes.iter().all(|size| *size <= FILE_MAX), "{sizes:?}");
    }

    #[test]
    fn a_line_that_a_crash_cut_short_does_not_swallow_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let first = Entry { call: "first".into(), ..Default::default() };
        Log::new(dir.path(), "x").append(std::slice::from_ref(&first)).unwrap();
        let mut torn = OpenOptions::new().append(true).open(dir.path().join("x.jsonl")).unwrap();
        torn.write_all(b"{\"at\":5,\"who\":\"a").unwrap();
        let next = Entry { call: "next".into(), ..Default::default() };
        Log::new(dir.path(), "x").append(std::slice::from_ref(&next)).unwrap();
        let text = fs::read_to_string(dir.path().join("x.jsonl")).unwrap();
        let read: Vec<Entry> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(read.iter().map(|e| e.call.as_str()).collect::<Vec<_>>(), ["first", "next"]);
    }
}
