//! A rename that never takes the place of another file, also where the file system has no such rename (older ZFS, NFS, 9p,
//! some in user space).
use std::{fs, io, path::Path};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

/// The new name is another file's: an error, and nothing is changed.
pub(super) fn over_none(from: &Path, to: &Path) -> io::Result<()> {
    let exclusively = |from: &Path, to: &Path| renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
    let link = |from: &Path, to: &Path| fs::hard_link(from, to);
    first_known(exclusively, link, from, to)
}

/// The system's own rename, else a second name in place of the first, else (where a file has one name only) a plain rename
/// behind a look: whoever writes here holds the lock of the directory, or a name that nobody else uses.
fn first_known(
    exclusively: impl FnOnce(&Path, &Path) -> Result<(), Errno>,
    link: impl FnOnce(&Path, &Path) -> io::Result<()>,
    from: &Path,
    to: &Path,
) -> io::Result<()> {
    match exclusively(from, to) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        known => return Ok(known?),
    }
    match link(from, to) {
        Ok(()) => return fs::remove_file(from),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        Err(_) => {}
    }
    match fs::symlink_metadata(to) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_replaces_another_file_whatever_the_file_system_knows() {
        let no_link = |_: &Path, _: &Path| Err(io::Error::from(Errno::PERM));
        let unknown = |errno| move |_: &Path, _: &Path| Err(errno);
        type Way<'a> = &'a dyn Fn(&Path, &Path) -> io::Result<()>;
        let ways: [(&str, Way<'_>); 6] = [
            ("as here", &over_none),
            ("EINVAL", &|a, b| first_known(unknown(Errno::INVAL), |a, b| fs::hard_link(a, b), a, b)),
            ("ENOSYS", &|a, b| first_known(unknown(Errno::NOSYS), |a, b| fs::hard_link(a, b), a, b)),
            ("EOPNOTSUPP", &|a, b| first_known(unknown(Errno::OPNOTSUPP), |a, b| fs::hard_link(a, b), a, b)),
            ("EINVAL and no links", &|a, b| first_known(unknown(Errno::INVAL), no_link, a, b)),
            ("ENOSYS and no links", &|a, b| first_known(unknown(Errno::NOSYS), no_link, a, b)),
        ];
        for (name, way) in ways {
            let folder = tempfile::tempdir().unwrap();
            let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
            fs::write(&from, "new").unwrap();
            fs::write(&to, "there").unwrap();
            assert_eq!(way(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists, "{name}");
            let read = |path: &Path| fs::read_to_string(path).unwrap();
            assert_eq!((read(&from), read(&to)), ("new".into(), "there".into()), "{name}");
            fs::remove_file(&to).unwrap();
            way(&from, &to).unwrap();
            assert_eq!((from.exists(), read(&to)), (false, "new".into()), "{name}");
        }
    }

    #[test]
    fn another_failure_is_told_and_not_gone_around() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fs::write(&from, "new").unwrap();
        let no_space = |_: &Path, _: &Path| Err(Errno::NOSPC);
        let error = first_known(no_space, |a, b| fs::hard_link(a, b), &from, &to).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
        assert!(from.exists() && !to.exists());
    }
}
