//! An agent that is started *held*: the sidecar shares the `hold` program through the inbox, knows the processes that
//! still are that program, and activates them by a file beside it.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The program, beside the sidecar's own and in the inbox.
pub const PROGRAM: &str = "hold";
/// In the inbox: whoever holds goes on. The `hold` program knows it by this name too.
pub const ACTIVATED: &str = ".activated";
/// Larger is not ours.
const PROGRAM_MAX: u64 = 16 << 20;

#[derive(Clone, Debug)]
pub struct Held {
    inbox: PathBuf,
}

impl Held {
    pub fn new(inbox: &Path) -> Self {
        Self { inbox: inbox.to_owned() }
    }

    fn program(&self) -> PathBuf {
        self.inbox.join(PROGRAM)
    }

    /// Device and inode of the shared program: whatever process is that file, holds.
    pub fn identity(&self) -> Option<(u64, u64)> {
        let program = fs::symlink_metadata(self.program()).ok()?;
        (program.is_file() && program.mode() & 0o111 != 0).then(|| (program.dev(), program.ino()))
    }

    pub fn is_activated(&self) -> bool {
        self.inbox.join(ACTIVATED).exists()
    }

    /// Puts the program of this version there, unless somebody holds with the one that is there. `Err`: it cannot be
    /// shared, and why.
    pub fn share(&self, own: &Path, in_use: impl FnOnce((u64, u64)) -> bool) -> Result<(), String> {
        let source = own.with_file_name(PROGRAM);
        let wanted = read(&source).map_err(|e| format!("{}: {e}", source.display()))?;
        let path = self.program();
        if let Some(there) = self.identity()
            && (read(&path).is_ok_and(|bytes| bytes == wanted) || in_use(there))
        {
            return Ok(());
        }
        let failed = |e: io::Error| format!("{}: {e}", path.display());
        fs::create_dir_all(&self.inbox).map_err(failed)?;
        let beside = self.inbox.join(".hold.new");
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(&beside).map_err(failed)?;
        file.write_all(&wanted).and_then(|()| file.sync_all()).map_err(failed)?;
        drop(file);
        fs::rename(&beside, &path).map_err(failed)
    }

    /// Durable when it returns.
    pub fn activate(&self) -> Result<(), String> {
        let path = self.inbox.join(ACTIVATED);
        let failed = |e: io::Error| format!("{} cannot be written: {e}", path.display());
        match OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path) {
            Ok(file) => file.sync_all().map_err(failed)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(e)),
        }
        File::open(&self.inbox).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(PROGRAM_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > PROGRAM_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_shared_replaced_by_a_newer_one_and_left_while_somebody_holds_with_it() {
        let (image, inbox) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let own = image.path().join("pitwall-sidecar");
        let held = Held::new(&inbox.path().join("in"));
        assert!(held.share(&own, |_| false).unwrap_err().contains("hold"));
        assert_eq!(held.identity(), None);
        fs::write(image.path().join(PROGRAM), "one").unwrap();
        held.share(&own, |_| false).unwrap();
        let first = held.identity().unwrap();
        held.share(&own, |_| panic!("it is the same")).unwrap();
        fs::write(image.path().join(PROGRAM), "two").unwrap();
        held.share(&own, |there| there == first).unwrap();
        assert_eq!(held.identity(), Some(first));
        held.share(&own, |_| false).unwrap();
        assert_ne!(held.identity(), Some(first));
        assert_eq!(fs::read(held.program()).unwrap(), b"two");
    }

    #[test]
    fn an_activation_stands_and_is_given_once_or_twice_alike() {
        let inbox = tempfile::tempdir().unwrap();
        let held = Held::new(inbox.path());
        assert!(!held.is_activated());
        held.activate().unwrap();
        held.activate().unwrap();
        assert!(held.is_activated() && inbox.path().join(ACTIVATED).is_file());
        assert!(Held::new(&inbox.path().join("absent")).activate().unwrap_err().contains(".activated"));
    }
}
