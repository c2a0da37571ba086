//! A hold on one process that cannot slip to a later one of the same pid: a pidfd, opened before the start time is
//! compared.
use std::os::fd::OwnedFd;
use std::time::Duration;

use pitwall_proto::v1;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sample::procfs::{ProcFs, Stat};

/// Why there is no hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missed {
    /// It has ended.
    Ended,
    /// Its pid belongs to another process by now.
    Other(v1::ProcessIdentity),
    /// The kernel refuses.
    Refused(String),
}

pub fn open(process: &v1::ProcessIdentity) -> Result<OwnedFd, Missed> {
    let pid = Pid::from_raw(process.pid).filter(|_| process.pid > 0).ok_or(Missed::Ended)?;
    let fd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::SRCH) => return Err(Missed::Ended),
        Err(e) => return Err(Missed::Refused(format!("pidfd_open: {e}"))),
    };
    match ProcFs::default().stat(process.pid) {
        Some(stat) if !stat.is(process) => Err(Missed::Other(stat.identity())),
        Some(stat) if stat.alive() => Ok(fd),
        Some(_) | None => Err(Missed::Ended),
    }
}

/// A process that is gone already is what a signal to end it wants.
pub fn signal(fd: &OwnedFd, signal: Signal) -> Result<(), String> {
    match pidfd_send_signal(fd, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(Errno::PERM) => Err("not permitted: the sidecar needs the agent's uid, or the capability CAP_KILL".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// To wait for its end without polling.
pub struct Ending {
    fd: AsyncFd<OwnedFd>,
}

impl Ending {
    #[expect(deprecated, reason = "its replacement is unsafe; an OwnedFd keeps the promise that one asks for")]
    pub fn of(fd: OwnedFd) -> Result<Self, String> {
        AsyncFd::with_interest(fd, Interest::READABLE).map(|fd| Self { fd }).map_err(|e| e.to_string())
    }

    pub fn signal(&self, what: Signal) -> Result<(), String> {
        signal(self.fd.get_ref(), what)
    }

    /// A pidfd stays readable from the end of its process on.
    pub async fn wait(&self) {
        // An error of the runtime's poller: fall back to nothing better than "not known", the caller has a bound.
        if self.fd.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub async fn within(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.wait()).await.is_ok()
    }
}

pub fn told(process: &v1::ProcessIdentity) -> String {
    if process.name.is_empty() {
        format!("pid {}", process.pid)
    } else {
        format!("{} (pid {})", process.name, process.pid)
    }
}

/// Continues what a dead guardian may have left stopped.
pub fn continue_all(stats: &[Stat]) {
    for stat in stats {
        if let Ok(fd) = open(&stat.identity()) {
            let _ = signal(&fd, Signal::CONT);
        }
    }
}
