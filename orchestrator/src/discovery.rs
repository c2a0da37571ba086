//! How a client finds the server that runs on this machine: each server announces itself by a small file in a
//! directory that only its user can write. A file whose process is gone (by pid and start time) is stale: ignored
//! and removed. Nothing here is trusted for more than an address to try.
use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use io::Write as _;
use serde::{Deserialize, Serialize};

use crate::cli::exit::{self, CliError, Exit};

/// Announcements that are looked at; more servers than this on one machine are not expected.
const LISTED_MAX: usize = 1_000;
/// Bytes of one announcement that are read.
const FILE_MAX: u64 = 16 * 1024;

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    pub pid: u32,
    /// In clock ticks since host boot: a later process of the same pid has another.
    pub start_ticks: u64,
    pub url: String,
    pub project: String,
    pub data: PathBuf,
    /// The directory with an operator's credential; absent: plaintext.
    #[serde(default)]
    pub operator: Option<PathBuf>,
}

impl Announcement {
    fn is_alive(&self) -> bool {
        start_ticks(self.pid).is_some_and(|ticks| ticks == self.start_ticks)
    }
}

/// The file of a running server; dropped, it is removed.
#[derive(Debug)]
pub struct Announced {
    path: PathBuf,
}

impl Drop for Announced {
    fn drop(&mut self) {
        // Already gone is as good; anything else is found stale by the next reader.
        let _ = fs::remove_file(&self.path);
    }
}

/// Tells this process as a server. A failure costs discovery only, so the caller warns and goes on.
pub fn announce(url: &str, project: &str, data: &Path, operator: Option<&Path>) -> io::Result<Announced> {
    announce_in(&own_directory()?, url, project, data, operator)
}

/// The one server that runs on this machine, or an error that says what to do.
pub fn find() -> exit::Result<Announcement> {
    let directory = own_directory().map_err(|error| {
        CliError::new(Exit::Unreachable, format!("cannot look for a server on this machine: {error}"))
            .hint("give its address with --orchestrator URL")
    })?;
    choose(list_in(&directory))
}

/// All servers of this user that run on this machine, by address.
pub fn list() -> io::Result<Vec<Announcement>> {
    Ok(list_in(&own_directory()?))
}

fn choose(mut servers: Vec<Announcement>) -> exit::Result<Announcement> {
    if servers.len() == 1
        && let Some(only) = servers.pop()
    {
        return Ok(only);
    }
    match servers.as_slice() {
        [] => Err(CliError::new(Exit::Unreachable, "no orchestrator runs on this machine").hint(
            "start one: pitwall serve --plan FILE --data DIR; or give the address of another with \
             --orchestrator URL",
        )),
        several => {
            let mut message = format!("{} orchestrators run on this machine:", several.len());
            for server in several {
                message.push_str(&format!("\n  {}  {} (data {})", server.url, server.project, server.data.display()));
            }
            Err(CliError::new(Exit::Usage, message).hint("choose one with --orchestrator URL"))
        }
    }
}

fn announce_in(
    directory: &Path,
    url: &str,
    project: &str,
    data: &Path,
    operator: Option<&Path>,
) -> io::Result<Announced> {
    let pid = std::process::id();
    let start_ticks = start_ticks(pid).ok_or_else(|| io::Error::other("/proc does not show this process"))?;
    let said = Announcement {
        pid,
        start_ticks,
        url: url.into(),
        project: project.into(),
        data: data.into(),
        operator: operator.map(Into::into),
    };
    // By port as well: one process may hold several servers.
    let port = url.rsplit(':').next().unwrap_or("");
    let path = directory.join(format!("serve-{pid}-{port}.json"));
    let half = directory.join(format!("serve-{pid}-{port}.half"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
    file.write_all(&serde_json::to_vec(&said)?)?;
    drop(file);
    // Whole or not at all: a reader never sees a half-written one.
    fs::rename(&half, &path)?;
    Ok(Announced { path })
}

fn list_in(directory: &Path) -> Vec<Announcement> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return found };
    for path in entries.flatten().map(|e| e.path()).take(LISTED_MAX) {
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        match read(&path) {
            Some(said) if said.is_alive() => found.push(said),
            // Of a process that was killed, or not ours to read: stale either way.
            _ => {
                let _ = fs::remove_file(&path);
            }
        }
    }
    found.sort_by(|a, b| a.url.cmp(&b.url));
    found
}

fn read(path: &Path) -> Option<Announcement> {
    use io::Read as _;
    let mut text = Vec::new();
    fs::File::open(path).ok()?.take(FILE_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// `XDG_RUNTIME_DIR/pitwall`, or a directory of this user below the temporary one.
fn own_directory() -> io::Result<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|d| is_own(d, uid).unwrap_or(false));
    let path = runtime.map_or_else(|| env::temp_dir().join(format!("pitwall-{uid}")), |d| d.join("pitwall"));
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
    // Whoever else could write there could send our commands elsewhere.
    if !is_own(&path, uid)? {
        let message = format!("{} is not a directory that only this user can write", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(path)
}

/// A real directory of this user that nobody else can write.
fn is_own(path: &Path, uid: u32) -> io::Result<bool> {
    let told = fs::symlink_metadata(path)?;
    Ok(told.is_dir() && told.uid() == uid && told.permissions().mode() & 0o022 == 0)
}

/// Field 22 of `/proc/PID/stat`; the command name before it may hold spaces and brackets.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_found_until_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let held = announce_in(directory.path(), "http://127.0.0.1:7440", "p", Path::new("/d"), None).unwrap();
        assert_eq!(choose(list_in(directory.path())).unwrap().url, "http://127.0.0.1:7440");
        drop(held);
        let error = choose(list_in(directory.path())).unwrap_err();
        assert_eq!(error.exit, Exit::Unreachable);
        assert!(error.hint.as_deref().unwrap().contains("pitwall serve"), "{error:?}");
    }

    #[test]
    fn several_are_listed_and_none_is_chosen() {
        let directory = tempfile::tempdir().unwrap();
        let _a = announce_in(directory.path(), "http://127.0.0.1:1001", "night", Path::new("/a"), None).unwrap();
        let _b = announce_in(directory.path(), "http://127.0.0.1:1002", "day", Path::new("/b"), None).unwrap();
        let error = choose(list_in(directory.path())).unwrap_err();
        assert!(error.message.contains("http://127.0.0.1:1001  night"), "{error}");
        assert!(error.message.contains("http://127.0.0.1:1002  day"), "{error}");
    }

    #[test]
    fn what_a_dead_or_another_process_left_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        let stale = [
            (u32::MAX - 1, 1),                    // no such process
            (pid, start_ticks(pid).unwrap() + 1), // a later process of that pid
        ];
        for (n, (pid, start_ticks)) in stale.into_iter().enumerate() {
            let said = Announcement {
                pid,
                start_ticks,
                url: "u".into(),
                project: "p".into(),
                data: "/d".into(),
                operator: None,
            };
            fs::write(directory.path().join(format!("serve-{n}.json")), serde_json::to_vec(&said).unwrap()).unwrap();
        }
        fs::write(directory.path().join("serve-x.json"), "{").unwrap();
        assert_eq!(list_in(directory.path()), []);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let uid = rustix::process::getuid().as_raw();
        assert!(is_own(directory.path(), uid).unwrap());
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!is_own(directory.path(), uid).unwrap());
        assert!(!is_own(directory.path(), uid + 1).unwrap());
    }
}
