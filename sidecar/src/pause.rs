//! `pitwall-sidecar pause`: owns the pid namespace that an agent and its sidecar share, so that each outlives the other.
//! As pid 1 it hears no signal but KILL, as it handles none save the end of a child: those that lost their parent come to
//! it, and are reaped.
use anyhow::Context as _;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::signal::unix::{SignalKind, signal};

pub const NAME: &str = "pause";

/// Never returns, but for an error.
pub fn run() -> anyhow::Result<std::convert::Infallible> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("cannot start")?;
    runtime.block_on(async {
        let mut ended = signal(SignalKind::child()).context("cannot hear the end of children")?;
        loop {
            // One signal may stand for many ends; and some may have come before the first.
            while matches!(waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG), Ok(Some(_))) {}
            if ended.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    })
}
