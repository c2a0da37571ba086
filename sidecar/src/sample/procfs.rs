//! Reads `/proc` with kept buffers. What cannot be read is absent: processes end while they are looked at.
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use pitwall_proto::v1;
use rustix::fs::{Mode, OFlags, RawDir};

use super::kept::{open, read_whole};
use super::parse::number;

/// More processes than this are not looked at.
pub const PIDS_MAX: usize = 32_768;
/// Descriptors of one process are counted up to here.
const DESCRIPTORS_MAX: u32 = 65_536;
/// Bytes of a directory that are read at once.
const ENTRIES: usize = 16 * 1024;
/// Kernel threads have the longest names.
const NAME_MAX: usize = 32;

/// A short command name without an allocation.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; NAME_MAX],
    len: u8,
}

impl Name {
    fn new(of: &[u8]) -> Self {
        let len = of.len().min(NAME_MAX);
        let mut bytes = [0; NAME_MAX];
        bytes[..len].copy_from_slice(&of[..len]);
        Self { bytes, len: len as u8 }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..self.len as usize]).into_owned()
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

/// What `/proc/PID/stat` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    pub ppid: i32,
    pub session: i32,
    pub state: u8,
    /// User and system time, in clock ticks.
    pub cpu_ticks: u64,
    pub threads: u32,
    /// With the pid: an identity.
    pub start_ticks: u64,
    pub rss_pages: u64,
    pub name: Name,
}

impl Stat {
    /// A zombie has ended; its parent just has not looked.
    pub fn alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }

    pub fn identity(&self) -> v1::ProcessIdentity {
        v1::ProcessIdentity { pid: self.pid, start_ticks: self.start_ticks, name: self.name.text() }
    }

    pub fn is(&self, identity: &v1::ProcessIdentity) -> bool {
        self.pid == identity.pid && self.start_ticks == identity.start_ticks
    }
}

/// Storage I/O of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Io {
    pub read: u64,
    pub written: u64,
}

pub struct ProcFs {
    root: PathBuf,
    path: PathBuf,
    buffer: Vec<u8>,
    entries: Vec<MaybeUninit<u8>>,
}

impl Default for ProcFs {
    fn default() -> Self {
        Self::at("/proc")
    }
}

impl ProcFs {
    /// Another root is for tests.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), path: PathBuf::new(), buffer: Vec::with_capacity(4096), entries: Vec::new() }
    }

    /// All process ids, in no order.
    pub fn pids(&mut self, into: &mut Vec<i32>) {
        into.clear();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(directory) = rustix::fs::open(&self.root, flags, Mode::empty()) else { return };
        self.entries.resize(ENTRIES, MaybeUninit::uninit());
        let mut entries = RawDir::new(&directory, &mut self.entries);
        while let Some(Ok(entry)) = entries.next() {
            if let Some(pid) = number(entry.file_name().to_bytes())
                && let Ok(pid) = i32::try_from(pid)
                && into.len() < PIDS_MAX
            {
                into.push(pid);
            }
        }
    }

    pub fn stat(&mut self, pid: i32) -> Option<Stat> {
        parse_stat(self.of_process(pid, "stat")?)
    }

    /// Absent where the kernel does not permit it.
    pub fn io(&mut self, pid: i32) -> Option<Io> {
        parse_io(self.of_process(pid, "io")?)
    }

    /// Nanoseconds that the main thread waited on a run queue.
    pub fn run_queue_wait(&mut self, pid: i32) -> Option<u64> {
        let text = self.of_process(pid, "schedstat")?;
        number(text.split(|b| *b == b' ').nth(1)?)
    }

    /// How many descriptors it has open. Newer kernels give that as the directory's size.
    pub fn descriptors(&mut self, pid: i32) -> Option<u32> {
        self.set_path(pid, "fd")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Who may not look does not learn it.
        let directory = rustix::fs::open(&self.path, flags, Mode::empty()).ok()?;
        let size = rustix::fs::fstat(&directory).ok()?.st_size;
        if size > 0 {
            return u32::try_from(size).ok();
        }
        self.entries.resize(ENTRIES, MaybeUninit::uninit());
        let mut entries = RawDir::new(&directory, &mut self.entries);
        let mut count = 0;
        while let Some(entry) = entries.next() {
            count += u32::from(number(entry.ok()?.file_name().to_bytes()).is_some());
            if count >= DESCRIPTORS_MAX {
                break;
            }
        }
        Some(count)
    }

    /// Its arguments as the kernel keeps them, each ended by a zero byte.
    pub fn raw_command_line(&mut self, pid: i32) -> Option<&[u8]> {
        self.of_process(pid, "cmdline").filter(|text| !text.is_empty())
    }

    /// Any small file of a process.
    pub fn of_process(&mut self, pid: i32, file: &str) -> Option<&[u8]> {
        self.set_path(pid, file)?;
        read_into(&self.path, &mut self.buffer).ok()?;
        Some(&self.buffer)
    }

    fn set_path(&mut self, pid: i32, file: &str) -> Option<()> {
        use std::fmt::Write as _;
        let mut path = std::mem::take(&mut self.path).into_os_string();
        path.clear();
        path.push(&self.root);
        let written = write!(path, "/{pid}/{file}");
        self.path = path.into();
        written.ok()
    }

    /// Its `stat`, to be read again and again.
    pub fn open_stat(&mut self, pid: i32) -> Option<OwnedFd> {
        self.set_path(pid, "stat")?;
        open(&self.path).ok()
    }

    /// `/proc` itself, and no table of a test.
    pub fn is_real(&self) -> bool {
        self.root == Path::new("/proc")
    }

    /// Its words; absent for kernel threads and for what has ended.
    pub fn command_line(&mut self, pid: i32) -> Option<Vec<String>> {
        let text = self.of_process(pid, "cmdline")?;
        let words: Vec<String> = text
            .split(|b| *b == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        (!words.is_empty()).then_some(words)
    }

    /// As the kernel writes it: the same text is the same cgroups.
    pub fn cgroup_of(&mut self, pid: i32) -> Option<String> {
        let text = self.of_process(pid, "cgroup")?;
        (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
    }

    pub fn path_of(&self, pid: i32, file: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(file)
    }

    /// A small file anywhere, into the kept buffer.
    pub fn read(&mut self, path: &Path) -> Option<&[u8]> {
        read_into(path, &mut self.buffer).ok()?;
        Some(&self.buffer)
    }
}

/// Who `pid` is now, where it is alive.
pub fn identity_of(pid: i32) -> Option<v1::ProcessIdentity> {
    ProcFs::default().stat(pid).filter(Stat::alive).map(|s| s.identity())
}

/// Is this very process alive?
pub fn is_alive(process: &v1::ProcessIdentity) -> bool {
    ProcFs::default().stat(process.pid).is_some_and(|s| s.alive() && s.is(process))
}

/// This host boot's id.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

fn read_into(path: &Path, buffer: &mut Vec<u8>) -> io::Result<()> {
    read_whole(open(path)?, buffer)
}

/// The name may hold spaces and parentheses: it ends at the last one.
pub fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|b| *b == b'(')?;
    let close = text.iter().rposition(|b| *b == b')')?;
    let pid = number(&text[..open])?;
    let name = Name::new(text.get(open + 1..close)?);
    let mut fields = text.get(close + 2..)?.split(|b| *b == b' ');
    // Fields are numbered from 1 in proc(5); the state is number 3.
    let state = *fields.next()?.first()?;
    let ppid = number(fields.next()?)?;
    let _group = fields.next()?;
    let session = number(fields.next()?).unwrap_or(0);
    let mut fields = fields.skip(7);
    let user = number(fields.next()?)?;
    let system = number(fields.next()?)?;
    let mut fields = fields.skip(4);
    let threads = number(fields.next()?)?;
    let mut fields = fields.skip(1);
    let start_ticks = number(fields.next()?)?;
    let _virtual = fields.next()?;
    let rss_pages = number(fields.next()?).unwrap_or(0);
    Some(Stat {
        pid: i32::try_from(pid).ok()?,
        ppid: i32::try_from(ppid).ok()?,
        session: i32::try_from(session).unwrap_or(0),
        state,
        cpu_ticks: user.saturating_add(system),
        threads: u32::try_from(threads).ok()?,
        start_ticks,
        rss_pages,
        name,
    })
}

pub fn parse_io(text: &[u8]) -> Option<Io> {
    let mut io = Io::default();
    let mut found = 0;
    for line in text.split(|b| *b == b'\n') {
        if let Some(value) = line.strip_prefix(b"read_bytes:") {
            io.read = number(value)?;
            found += 1;
        } else if let Some(value) = line.strip_prefix(b"write_bytes:") {
            io.written = number(value)?;
            found += 1;
        }
    }
    (found == 2).then_some(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name() {
        let rest = "S 1 812 812 0 -1 4194304 9 0 0 0 250 50 0 0 20 0 12 0 998877 1000000 2048 1844";
        for name in ["next-server", "a) (b", "", "a name"] {
            let stat = parse_stat(format!("4711 ({name}) {rest}").as_bytes()).unwrap();
            assert_eq!((stat.pid, stat.ppid, stat.session), (4711, 1, 812));
            assert_eq!((stat.cpu_ticks, stat.threads), (300, 12));
            assert_eq!((stat.start_ticks, stat.rss_pages), (998_877, 2048));
            assert_eq!(stat.name.text(), name);
        }
    }

    #[test]
    fn garbage_is_absent_and_never_a_panic() {
        for text in
            ["", "(", ")(", "1 (a", "1 (a)", "1 (a) ", "1 (a) S", "x (a) S 1 1 1", "1 (a) S 99999999999999999999"]
        {
            assert_eq!(parse_stat(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse_io(b"rchar: 3\nread_bytes: 4\n"), None);
        assert_eq!(number(b"18446744073709551616"), None);
    }

    #[test]
    fn this_process_is_found_alive_under_its_name_and_not_under_another_start() {
        let me = identity_of(std::process::id() as i32).unwrap();
        assert!(is_alive(&me));
        assert!(!is_alive(&v1::ProcessIdentity { start_ticks: me.start_ticks + 1, ..me }));
        let mut pids = Vec::new();
        ProcFs::default().pids(&mut pids);
        assert!(pids.contains(&(std::process::id() as i32)));
    }
}
