//! A wall clock that jumps, for one real process, by libfaketime. Clocks that count from the boot are left alone.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::surroundings;

/// The system's, or what `tests/clients/faketime.sh` unpacked.
fn library() -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/.faketime/usr/lib");
    let below = [unpacked, "/usr/lib".into()].into_iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
    below.flatten().map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
}

pub struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// Right, until it is set. `None`: there is no such library, which was told.
    pub fn new(test: &str, file: &Path) -> Option<Self> {
        let library = library();
        let found = library.as_ref().map(|_| ()).ok_or("no libfaketime: run tests/clients/faketime.sh".to_owned());
        if !surroundings::have(test, "faketime", found) {
            return None;
        }
        let clock = Self { library: library?, file: file.into() };
        clock.set(0);
        Some(clock)
    }

    /// Seconds by which it is ahead from now on.
    pub fn set(&self, ahead: i64) {
        let beside = self.file.with_extension("new");
        fs::write(&beside, format!("{ahead:+}\n")).expect("it can be written");
        fs::rename(&beside, &self.file).expect("it can be put in place");
    }

    /// What is started by this command goes by it.
    pub fn rules(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}
