//! Opening files beneath the workspace root, and nowhere else: whatever an agent puts there (links that lead out, `..`,
//! pipes, devices, files swapped at the last moment), nothing outside is opened and no open ever blocks.
//!
//! The kernel does the work (`openat2` with `RESOLVE_BENEATH`); where a container's policy denies that call, the path is
//! walked component by component, refusing every link.
use std::{
    fs::File,
    io::Read as _,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2},
    io::Errno,
};

/// `openat2` says EAGAIN when a rename ran beside it.
const RACES_MAX: usize = 16;
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Why something beneath the root was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no {0}")]
    Missing(String),
    /// The rule itself names something outside.
    #[error("{0} is not a path inside the workspace")]
    NotInside(String),
    #[error("{0} leads out of the workspace through a link")]
    Escapes(String),
    #[error("{path} is a {what}, not a regular file")]
    NotAFile { path: String, what: &'static str },
    #[error("{0} is not a directory")]
    NotADirectory(String),
    /// It may be there, but cannot be seen.
    #[error("{path} cannot be read: {why}")]
    Unseen { path: String, why: String },
    #[error("workspace {path} cannot be opened: {why}")]
    NoWorkspace { path: String, why: String },
}

impl Refusal {
    /// Nothing can be said about the path, good or bad.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Unseen { .. } | Self::NoWorkspace { .. } | Self::NotInside(_) => true,
            Self::Missing(_) | Self::Escapes(_) | Self::NotAFile { .. } | Self::NotADirectory(_) => false,
        }
    }
}

/// The workspace, opened once per check: it may be deleted and made again at any time.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl Root {
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(CWD, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd }),
            Err(errno) => Err(Refusal::NoWorkspace { path: path.display().to_string(), why: said(errno) }),
        }
    }

    /// A regular file, open for reading, with its status taken from the same descriptor.
    pub fn file(&self, relative: &str) -> Result<(File, Stat), Refusal> {
        // Looked at first without opening it for reading: opening a device can have effects.
        let looked = self.open_beneath(relative, OFlags::PATH)?;
        regular(relative, &stat_of(&looked, relative)?)?;
        let fd = self.open_beneath(relative, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = stat_of(&fd, relative)?;
        regular(relative, &stat)?;
        Ok((File::from(fd), stat))
    }

    /// A directory, open for listing.
    pub fn directory(&self, relative: &str) -> Result<OwnedFd, Refusal> {
        self.open_beneath(relative, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK)
    }

    /// The whole of a small file.
    pub fn read_small(&self, relative: &str, max: u64) -> Result<(Vec<u8>, Stat), Refusal> {
        let unseen = |why: String| Refusal::Unseen { path: relative.into(), why };
        let (file, stat) = self.file(relative)?;
        let mut bytes = Vec::new();
        file.take(max + 1).read_to_end(&mut bytes).map_err(|e| unseen(e.to_string()))?;
        if bytes.len() as u64 > max {
            return Err(unseen(format!("it is larger than {max} bytes")));
        }
        Ok((bytes, stat))
    }

    fn open_beneath(&self, relative: &str, flags: OFlags) -> Result<OwnedFd, Refusal> {
        let path = inside(relative)?;
        let flags = flags | OFlags::CLOEXEC;
        if !NO_OPENAT2.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            for _ in 0..RACES_MAX {
                match openat2(&self.fd, &path, flags, Mode::empty(), resolve) {
                    Ok(fd) => return Ok(fd),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(Errno::NOSYS | Errno::PERM) => {
                        NO_OPENAT2.store(true, Ordering::Relaxed);
                        return walk(&self.fd, &path, relative, flags);
                    }
                    Err(errno) => return Err(refusal(errno, relative)),
                }
            }
            return Err(Refusal::Unseen { path: relative.into(), why: "it is renamed all the time".into() });
        }
        walk(&self.fd, &path, relative, flags)
    }

    /// The workspace's own device and inode.
    pub fn identity(&self) -> Option<(u64, u64)> {
        fstat(&self.fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
    }
}

/// Without `openat2`: one component after another, following no link.
fn walk(root: &OwnedFd, path: &Path, relative: &str, flags: OFlags) -> Result<OwnedFd, Refusal> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at: Option<OwnedFd> = None;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let last = components.peek().is_none();
        let from = at.as_ref().unwrap_or(root);
        let flags = if last { flags | OFlags::NOFOLLOW } else { step };
        let name = component.as_os_str();
        let next = match openat(from, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(errno @ (Errno::LOOP | Errno::NOTDIR)) => {
                let link = rustix::fs::statat(from, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
                return Err(if link { unfollowed(relative) } else { refusal(errno, relative) });
            }
            Err(errno) => return Err(refusal(errno, relative)),
        };
        // O_PATH with O_NOFOLLOW opens the link itself.
        if FileType::from_raw_mode(stat_of(&next, relative)?.st_mode) == FileType::Symlink {
            return Err(unfollowed(relative));
        }
        at = Some(next);
    }
    match at {
        Some(fd) => Ok(fd),
        None => openat(root, ".", flags, Mode::empty()).map_err(|errno| refusal(errno, relative)),
    }
}

/// The text of a path that goes down only: relative, without `..`. Empty and `.` are the root itself.
fn inside(relative: &str) -> Result<PathBuf, Refusal> {
    let mut path = PathBuf::new();
    for component in Path::new(relative).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(Refusal::NotInside(relative.into()));
            }
        }
    }
    if relative.contains('\0') {
        return Err(Refusal::NotInside(relative.replace('\0', "\\0")));
    }
    if path.as_os_str().is_empty() {
        path.push(".");
    }
    Ok(path)
}

fn stat_of(fd: &impl AsFd, relative: &str) -> Result<Stat, Refusal> {
    fstat(fd).map_err(|errno| refusal(errno, relative))
}

fn regular(relative: &str, stat: &Stat) -> Result<(), Refusal> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "directory",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Symlink => "link",
        FileType::Unknown => "thing of unknown kind",
    };
    Err(Refusal::NotAFile { path: relative.into(), what })
}

fn unfollowed(relative: &str) -> Refusal {
    Refusal::Unseen { path: relative.into(), why: "it goes through a link, and this system denies openat2".into() }
}

fn refusal(errno: Errno, relative: &str) -> Refusal {
    match errno {
        Errno::NOENT => Refusal::Missing(relative.into()),
        Errno::XDEV => Refusal::Escapes(relative.into()),
        Errno::NOTDIR => Refusal::NotADirectory(relative.into()),
        // A socket, or a device without a driver.
        Errno::NXIO | Errno::NODEV => Refusal::NotAFile { path: relative.into(), what: "socket or device" },
        other => Refusal::Unseen { path: relative.into(), why: said(other) },
    }
}

/// What the system says, without its number.
#[must_use]
pub fn said(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_ways(root: &Root, relative: &str) -> [Result<(), Refusal>; 2] {
        let path = inside(relative).unwrap();
        [root.file(relative).map(|_| ()), walk(&root.fd, &path, relative, OFlags::RDONLY | OFlags::CLOEXEC).map(|_| ())]
    }

    #[test]
    fn nothing_outside_the_workspace_is_opened_whatever_the_agent_puts_there() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "outside").unwrap();
        let workspace = tempfile::tempdir().unwrap();
        let at = |name: &str| workspace.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        std::fs::write(at("sub/inner"), "inside").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), at("absolute")).unwrap();
        std::os::unix::fs::symlink(outside.path(), at("out")).unwrap();
        std::os::unix::fs::symlink("../../../../../../etc/passwd", at("sub/up")).unwrap();
        std::os::unix::fs::symlink("/proc/self/root", at("magic")).unwrap();
        let root = Root::open(workspace.path()).unwrap();
        for relative in ["absolute", "out/secret", "sub/up", "magic/etc/passwd"] {
            let [kernel, own] = both_ways(&root, relative);
            assert!(kernel.is_err() && own.is_err(), "{relative}: {kernel:?} {own:?}");
        }
        assert_eq!(root.file("absolute").unwrap_err(), Refusal::Escapes("absolute".into()));
        for relative in ["../x", "/etc/passwd", "sub/../../x", "a\0b"] {
            assert!(matches!(root.file(relative), Err(Refusal::NotInside(_))), "{relative}");
        }
        assert_eq!(both_ways(&root, "sub/inner"), [Ok(()), Ok(())]);
        assert_eq!(root.file("./sub/./inner").map(|_| ()), Ok(()));
    }

    #[test]
    fn links_that_stay_inside_are_followed_where_the_kernel_checks_them() {
        let workspace = tempfile::tempdir().unwrap();
        std::fs::write(workspace.path().join("real"), "x").unwrap();
        std::os::unix::fs::symlink("real", workspace.path().join("link")).unwrap();
        let root = Root::open(workspace.path()).unwrap();
        let [kernel, own] = both_ways(&root, "link");
        if !NO_OPENAT2.load(Ordering::Relaxed) {
            assert_eq!(kernel, Ok(()));
        }
        assert!(own.unwrap_err().is_unknown());
    }

    #[test]
    fn pipes_sockets_and_directories_are_no_files_and_do_not_block() {
        let workspace = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(CWD, workspace.path().join("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(workspace.path().join("socket")).unwrap();
        std::fs::create_dir(workspace.path().join("dir")).unwrap();
        let root = Root::open(workspace.path()).unwrap();
        for relative in ["pipe", "socket", "dir"] {
            assert!(matches!(root.file(relative), Err(Refusal::NotAFile { .. })), "{relative}");
        }
    }

    #[test]
    fn what_is_missing_and_what_cannot_be_seen_differ() {
        let workspace = tempfile::tempdir().unwrap();
        std::fs::write(workspace.path().join("file"), "x").unwrap();
        let root = Root::open(workspace.path()).unwrap();
        assert!(!root.file("nope").unwrap_err().is_unknown());
        assert!(!root.file("file/below").unwrap_err().is_unknown());
        assert!(Root::open(&workspace.path().join("gone")).unwrap_err().is_unknown());
        assert!(root.read_small("file", 0).unwrap_err().is_unknown());
        assert_eq!(root.read_small("file", 1).unwrap().0, b"x");
    }
}
