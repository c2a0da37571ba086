//! How much lies in the workspace, for a quota on the disk: blocks as the file system counts them, everything below, also
//! what no check looks at. Only while the plan has such a quota, on a thread of its own, and never for more than a small
//! share of the time. What could not be walked as a whole is not known.
use std::{
    collections::HashSet,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use pitwall_proto::v1::{self, Resource};
use pitwall_sidecar_core::io::Input;
use tokio::sync::mpsc;

use crate::probe::{
    beneath::Root,
    walk::{self, Below},
};

const ENTRIES_MAX: usize = 1_000_000;
const BLOCK_BYTES: u64 = 512;
/// As often as the walk for changes, times this.
const RESCANS: u32 = 5;
const RESCAN_DEFAULT_MS: u32 = 2_000;
/// A walk that took long is followed by a pause of this many times its length.
const PAUSE_PER_WALK: u32 = 30;

pub(super) struct Disk {
    workspace: PathBuf,
    inputs: mpsc::Sender<Input>,
    /// How often, to the thread that walks; without one there is no such quota.
    every: Option<SyncSender<Duration>>,
}

impl Disk {
    pub(super) fn new(workspace: PathBuf, inputs: mpsc::Sender<Input>) -> Self {
        Self { workspace, inputs, every: None }
    }

    pub(super) fn adopt(&mut self, plan: &v1::AgentPlan) {
        if !plan.quotas.iter().any(|q| q.resource() == Resource::Disk) {
            // Its thread ends.
            self.every = None;
            return;
        }
        let rescan = match plan.windows.unwrap_or_default().rescan_every_ms {
            0 => RESCAN_DEFAULT_MS,
            ms => ms,
        };
        let every = Duration::from_millis(u64::from(rescan) * u64::from(RESCANS));
        if let Some(thread) = &self.every {
            let _ = thread.try_send(every);
            return;
        }
        let (sender, paces) = sync_channel::<Duration>(4);
        let (workspace, inputs) = (self.workspace.clone(), self.inputs.clone());
        let started = std::thread::Builder::new().name("disk".into()).spawn(move || {
            let mut every = every;
            loop {
                let began = Instant::now();
                if inputs.blocking_send(Input::WorkspaceUsed(used(&workspace))).is_err() {
                    return;
                }
                match paces.recv_timeout(every.max(began.elapsed() * PAUSE_PER_WALK)) {
                    Ok(pace) => every = pace,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        match started {
            Ok(_) => self.every = Some(sender),
            Err(e) => crate::log::say(true, &format!("the use of the disk cannot be measured: {e}")),
        }
    }
}

/// `None`: not all of it could be seen.
fn used(workspace: &Path) -> Option<u64> {
    let top = Root::open(workspace).ok()?.directory("").ok()?;
    let (mut bytes, mut linked) = (0_u64, HashSet::new());
    let walked = walk::walk_within(top, (&[], ENTRIES_MAX), &mut |_, _| {}, &mut |found| {
        // A file of several names lies there once.
        if found.stat.st_nlink <= 1
            || found.kind == rustix::fs::FileType::Directory
            || linked.insert((found.stat.st_dev, found.stat.st_ino))
        {
            bytes = bytes.saturating_add(found.stat.st_blocks.unsigned_abs().saturating_mul(BLOCK_BYTES));
        }
        ControlFlow::Continue(Below::Enter)
    });
    walked.incomplete.is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_below_counts_once() {
        let workspace = tempfile::tempdir().expect("a folder");
        let empty = used(workspace.path()).expect("it can be walked");
        let modules = workspace.path().join("node_modules/x");
        std::fs::create_dir_all(&modules).expect("made");
        std::fs::write(modules.join("big"), vec![7; 1 << 20]).expect("written");
        std::fs::hard_link(modules.join("big"), workspace.path().join("again")).expect("linked");
        let more = used(workspace.path()).expect("it can be walked") - empty;
        assert!((1 << 20..(1 << 20) + (1 << 18)).contains(&more), "{more}");
        assert_eq!(used(&workspace.path().join("absent")), None);
    }
}
