//! The server's own certificates: made at the start, made anew at half of their life while it runs. New handshakes have the
//! new one at once; open connections do not notice.
use std::{ops::Range, path::PathBuf, sync::Arc, time::Duration};

use pitwall_core::io::Millis;
use tokio::time::sleep;

use super::{AbortOnDrop, door::tls::OwnCertificate};
use crate::identity::{self, keeper::Keeper, now};

const LOOK_EVERY: Duration = Duration::from_secs(60);
/// While a revocation is to be written yet.
const SETTLE_EVERY: Duration = Duration::from_secs(2);

pub struct Upkeep {
    pub own: Arc<OwnCertificate>,
    /// Where the command line on this machine finds its credential.
    pub operator: PathBuf,
    pub task: AbortOnDrop,
}

pub fn start(keeper: Arc<Keeper>, names: Vec<String>) -> identity::Result<Upkeep> {
    let operator = keeper.local_operator()?;
    let made = now();
    let (certified, expires) = keeper.server_certificate(&names)?;
    tracing::debug!(?names, "the server's certificate is for these names");
    let own = OwnCertificate::new(certified);
    let task = tokio::spawn(keep(keeper, names, own.clone(), served(made, expires)));
    Ok(Upkeep { own, operator, task: AbortOnDrop(task) })
}

/// The time in which a certificate is not due yet: from when it was made to half of its life. A clock that is set back
/// leaves it too, and clients, whose clocks are right, would refuse a certificate of a later time.
fn served(made: Millis, expires: Millis) -> Range<Millis> {
    made..made + (expires - made) / 2
}

async fn keep(keeper: Arc<Keeper>, names: Vec<String>, own: Arc<OwnCertificate>, mut served_in: Range<Millis>) {
    loop {
        let until = Duration::from_millis(u64::try_from(served_in.end - now()).unwrap_or(0));
        let look = if keeper.is_owing() { SETTLE_EVERY } else { LOOK_EVERY };
        tokio::select! {
            () = sleep(until.clamp(Duration::from_millis(100), look)) => {}
            () = keeper.owes.notified() => sleep(SETTLE_EVERY).await,
        }
        let (keeper, names, is_due) = (keeper.clone(), names.clone(), !served_in.contains(&now()));
        let made = tokio::task::spawn_blocking(move || {
            if let Err(error) = keeper.settle() {
                tracing::error!(%error, "a revocation is not written down yet");
            }
            if let Err(error) = keeper.local_operator() {
                tracing::warn!(%error, "the local operator's certificate was not renewed");
            }
            is_due.then(|| keeper.server_certificate(&names))
        });
        match made.await {
            Ok(Some(Ok((certified, expires)))) => {
                own.replace(certified);
                served_in = served(now(), expires);
                tracing::info!("renewed the server's certificate");
            }
            // Asked again at the next look; the old one has half of its life left.
            Ok(Some(Err(error))) => tracing::error!(%error, "the server's certificate was not renewed"),
            Ok(None) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_anew_at_half_of_its_life_and_when_its_clock_was_wrong() {
        let served = served(1_000, 3_000);
        for (now, is_due) in [(999, true), (1_000, false), (1_999, false), (2_000, true), (9_000, true)] {
            assert_eq!(!served.contains(&now), is_due, "{now}");
        }
    }
}
