//! Small files that are whole or not there: written beside, synced, renamed, the directory synced. Reads are bounded.
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, lchown},
    path::Path,
};

use super::{IdentityError, Result};

/// Larger than any certificate, key or record file of ours.
const READ_MAX: u64 = 16 * 1024 * 1024;
/// A data directory and one of secrets are small and flat.
const GIVEN_MAX: usize = 10_000;
const GIVEN_DEPTH: usize = 4;
pub const SECRET: u32 = 0o600;
pub const PUBLIC: u32 = 0o644;

pub fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError + use<> {
    let path = path.to_owned();
    move |error| IdentityError::File { doing, path, why: error.to_string() }
}

/// Makes a directory that only this user can look into, and those above it.
pub fn make_private_dir(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))
}

pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let failed_here = |error| failed("write", path)(error);
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let beside = path.with_file_name(format!(".{name}.new"));
    // A half-written one of an earlier try has the mode of that try.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed_here(error)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside).map_err(failed_here)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed_here)?;
    fs::rename(&beside, path).map_err(failed_here)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed_here)
}

/// `None`: it is not there.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(READ_MAX + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if bytes.len() as u64 > READ_MAX {
        return Err(failed("read", path)(io::Error::other("it is too large to be one of ours")));
    }
    Ok(Some(bytes))
}

/// Gives what this process wrote below a directory to the directory's owner. For a one-shot container that runs as root,
/// beside a server that does not: without effect for anybody else, who owns what it wrote already.
pub fn give_to_owner(directory: &Path) -> Result<()> {
    let owner = fs::metadata(directory).map_err(failed("read", directory))?;
    if !rustix::process::geteuid().is_root() || owner.uid() == 0 {
        return Ok(());
    }
    give(directory, (owner.uid(), owner.gid()), 0)
}

fn give(directory: &Path, owner: (u32, u32), depth: usize) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(failed("read", directory))?.flatten().take(GIVEN_MAX) {
        let path = entry.path();
        lchown(&path, Some(owner.0), Some(owner.1)).map_err(failed("give away", &path))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && depth < GIVEN_DEPTH {
            give(&path, owner, depth + 1)?;
        }
    }
    Ok(())
}

pub fn read_text(path: &Path) -> Result<Option<String>> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_| failed("read", path)(io::Error::other("it is no text")))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_root_writes_for_another_is_given_to_the_directorys_owner() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("identity")).unwrap();
        write(&dir.path().join("identity/key"), b"1", SECRET).unwrap();
        let root = rustix::process::geteuid().is_root();
        if root {
            lchown(dir.path(), Some(65_532), Some(65_532)).unwrap();
        }
        give_to_owner(dir.path()).unwrap();
        let wanted = fs::metadata(dir.path()).unwrap().uid();
        let key = fs::metadata(dir.path().join("identity/key")).unwrap();
        assert_eq!((key.uid(), key.permissions().mode() & 0o777), (wanted, 0o600));
    }

    #[test]
    fn a_secret_is_the_owners_even_when_an_older_one_was_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(dir.path().join(".key.new"), "old").unwrap();
        write(&path, b"1", SECRET).unwrap();
        write(&path, b"2", SECRET).unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&dir.path().join("absent")).unwrap(), None);
    }
}
