//! Watches the workspace: which files change, whether it is there at all, and the agent's claim. The reconciling walk
//! ([`tree`]) is the truth; file events ([`hints`]) only make it look sooner, so that a file that was just closed is told
//! within tens of milliseconds. Where the kernel gives no events, the walk alone goes on.
//!
//! One thread of its own, as everything here blocks. It hands inputs to the run loop and waits where that is busy.
use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use pitwall_sidecar_core::io::{CHANGES_MAX, Input};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fs::statat,
};
use tokio::sync::mpsc;

use crate::{
    claim,
    probe::beneath::{Refusal, Root},
};

pub mod hints;
pub mod tree;

use hints::Hints;
use tree::Tree;

/// Until a plan says otherwise.
const RESCAN_DEFAULT_MS: u32 = 2_000;
const RESCAN_MIN_MS: u32 = 100;
/// From a hint to the look at it; more hints meanwhile join it.
const GATHER: Duration = Duration::from_millis(15);
/// Between two looks at hints.
const LOOKS_APART: Duration = Duration::from_millis(40);
/// A walk that took so long is followed by a pause of this many times its length.
const PAUSE_PER_WALK: u32 = 5;
/// A claim that cannot be parsed may be half written: it is read again after this before anybody is told.
const CLAIM_AGAIN: Duration = Duration::from_millis(300);

/// The run loop's end of the watching thread.
#[derive(Debug)]
pub struct Watch {
    rescan_every_ms: Arc<AtomicU32>,
    wake: Arc<OwnedFd>,
}

impl Watch {
    /// Starts the thread. It ends with the process, or when the inputs' receiver is gone.
    pub fn start(workspace: PathBuf, inbox: &Path, inputs: mpsc::Sender<Input>) -> io::Result<Self> {
        let rescan_every_ms = Arc::new(AtomicU32::new(RESCAN_DEFAULT_MS));
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (hints, why) = match Hints::new() {
            Ok(hints) => (Some(hints), None),
            Err(error) => (None, Some(error)),
        };
        if let Some(why) = why {
            crate::log::say(false, &format!("no file events here ({why}): the workspace is walked only"));
        }
        let inbox = inbox.strip_prefix(&workspace).ok().map(|path| path.to_string_lossy().into_owned());
        let mut watcher = Watcher {
            workspace,
            tree: Tree::new(inbox.filter(|path| !path.is_empty())),
            hints,
            inputs,
            present: None,
            root: None,
            claim: Claimed::default(),
            rescan_every_ms: rescan_every_ms.clone(),
            wake: wake.clone(),
            told_incomplete: String::new(),
        };
        std::thread::Builder::new().name("watch".into()).spawn(move || while watcher.round().is_some() {})?;
        Ok(Self { rescan_every_ms, wake })
    }

    /// From the plan; the next walk comes at once.
    pub fn rescan_every(&self, ms: u32) {
        let ms = if ms == 0 { RESCAN_DEFAULT_MS } else { ms.max(RESCAN_MIN_MS) };
        self.rescan_every_ms.store(ms, Ordering::Relaxed);
        // A full counter wakes it, too.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }
}

#[derive(Debug, Default)]
struct Claimed {
    /// Of the file that was read last; `None`: there was none.
    stamp: Option<u64>,
    /// It could not be read, and is read again then.
    again: Option<Instant>,
    /// What was told last, so that the same error is told once.
    told: Option<Result<pitwall_proto::v1::Claim, String>>,
}

struct Watcher {
    workspace: PathBuf,
    tree: Tree,
    hints: Option<Hints>,
    inputs: mpsc::Sender<Input>,
    /// As told last; `None`: nothing was told yet.
    present: Option<bool>,
    /// Device and inode of the workspace that was walked last.
    root: Option<(u64, u64)>,
    claim: Claimed,
    rescan_every_ms: Arc<AtomicU32>,
    wake: Arc<OwnedFd>,
    told_incomplete: String,
}

impl Watcher {
    /// One walk, and then hints until the next. `None`: nobody listens any more.
    fn round(&mut self) -> Option<()> {
        let began = Instant::now();
        self.reconcile()?;
        let every = Duration::from_millis(self.rescan_every_ms.load(Ordering::Relaxed).into());
        let walk_at = began + every.max(began.elapsed() * PAUSE_PER_WALK);
        let mut looked = Instant::now();
        let mut look_at = None;
        loop {
            let now = Instant::now();
            if now >= walk_at {
                return Some(());
            }
            if look_at.is_some_and(|at| now >= at) {
                self.look()?;
                (looked, look_at) = (Instant::now(), None);
                continue;
            }
            if self.claim.again.is_some_and(|at| now >= at) {
                self.look_at_claim(&Root::open(&self.workspace).ok()?)?;
                continue;
            }
            let wake_at = [look_at, self.claim.again].into_iter().flatten().fold(walk_at, Instant::min);
            match self.wait(wake_at) {
                Waited::Woken => return Some(()),
                Waited::TimedOut => {}
                Waited::Hinted => {
                    if self.hints.as_mut().is_some_and(Hints::read) {
                        // Events were lost, or the workspace itself went: only a walk knows.
                        return Some(());
                    }
                    if look_at.is_none() && self.hints.as_ref().is_some_and(|hints| !hints.touched.is_empty()) {
                        look_at = Some((Instant::now() + GATHER).max(looked + LOOKS_APART));
                    }
                }
            }
        }
    }

    fn wait(&self, until: Instant) -> Waited {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        if let Some(hints) = &self.hints {
            fds.push(PollFd::new(hints.fd(), PollFlags::IN));
        }
        // An interrupted poll is a timeout: the loop asks the clock.
        let _ = poll(&mut fds, Some(&timeout));
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if ready.first() == Some(&true) {
            let _ = rustix::io::read(&*self.wake, &mut [0_u8; 8]);
            return Waited::Woken;
        }
        if ready.get(1) == Some(&true) { Waited::Hinted } else { Waited::TimedOut }
    }

    /// The whole workspace against what was known.
    fn reconcile(&mut self) -> Option<()> {
        let root = match self.open() {
            Ok(root) => root,
            Err(refusal) => return self.absent(&refusal),
        };
        let identity = root.identity();
        if self.root != identity {
            // Another directory of the same name: what was known is compared with what is there now.
            if let Some(hints) = &mut self.hints {
                hints.forget_all();
            }
            self.root = identity;
        }
        // A workspace that comes later begins empty: everything in it is new. One that was there is the baseline.
        let baseline = self.present.is_none();
        if let Some(hints) = &mut self.hints {
            hints.touched.clear();
            hints.watch_claims(&root);
        }
        let walked = match root.directory("") {
            Ok(top) => self.tree.walk_all(top, self.hints.as_mut()),
            Err(refusal) => return self.absent(&refusal),
        };
        if let Some(why) = &walked.incomplete
            && *why != self.told_incomplete
        {
            crate::log::say(false, &format!("not all of the workspace is watched: {why}"));
            self.told_incomplete.clone_from(why);
        }
        let changes = self.tree.take_changes();
        if self.present != Some(true) {
            self.present = Some(true);
            self.tell(Input::Workspace { present: true, reason: String::new() })?;
        }
        if !baseline {
            self.tell_changes(changes)?;
        }
        self.look_at_claim(&root)
    }

    /// What the hints named since the last look.
    fn look(&mut self) -> Option<()> {
        let Some(hints) = &mut self.hints else { return Some(()) };
        // Gone: the next walk tells.
        let Ok(root) = Root::open(&self.workspace) else { return Some(()) };
        let touched = std::mem::take(&mut hints.touched);
        let mut claimed = false;
        for (directory, name) in &touched {
            if directory == claim::DIRECTORY || (directory.is_empty() && name == claim::DIRECTORY) {
                hints.watch_claims(&root);
                claimed = true;
                continue;
            }
            let path = if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
            let Ok(parent) = root.directory(directory) else {
                self.tree.removed(&path);
                continue;
            };
            match statat(&parent, name.as_str(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => self.tree.saw(&root, &path, &stat, Some(hints)),
                Err(_) => self.tree.removed(&path),
            }
        }
        let changes = self.tree.take_changes();
        self.tell_changes(changes)?;
        if claimed { self.look_at_claim(&root) } else { Some(()) }
    }

    fn look_at_claim(&mut self, root: &Root) -> Option<()> {
        let stamp = claim::stamp(root);
        let again = self.claim.again.is_some_and(|at| Instant::now() >= at);
        if stamp == self.claim.stamp && !again {
            return Some(());
        }
        self.claim.stamp = stamp;
        self.claim.again = None;
        let read = match stamp {
            Some(_) => claim::read(root),
            None => Err(format!("{} is gone", claim::PATH)),
        };
        if read.is_err() && stamp.is_some() && !again {
            self.claim.again = Some(Instant::now() + CLAIM_AGAIN);
            return Some(());
        }
        if self.claim.told.as_ref() == Some(&read) {
            return Some(());
        }
        self.claim.told = Some(read.clone());
        self.tell(Input::Claim(read))
    }

    fn open(&self) -> Result<Root, Refusal> {
        Root::open(&self.workspace)
    }

    fn absent(&mut self, refusal: &Refusal) -> Option<()> {
        self.root = None;
        self.tree.clear();
        self.claim = Claimed::default();
        if let Some(hints) = &mut self.hints {
            hints.forget_all();
        }
        if self.present == Some(false) {
            return Some(());
        }
        self.present = Some(false);
        self.tell(Input::Workspace { present: false, reason: refusal.to_string() })
    }

    fn tell_changes(&self, mut paths: Vec<String>) -> Option<()> {
        if paths.is_empty() {
            return Some(());
        }
        let more = u32::try_from(paths.len().saturating_sub(CHANGES_MAX)).unwrap_or(u32::MAX);
        paths.truncate(CHANGES_MAX);
        self.tell(Input::FilesChanged { paths, more })
    }

    fn tell(&self, input: Input) -> Option<()> {
        self.inputs.blocking_send(input).ok()
    }
}

enum Waited {
    Woken,
    Hinted,
    TimedOut,
}

#[cfg(test)]
mod tests;
