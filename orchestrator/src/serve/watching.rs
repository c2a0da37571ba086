//! One watcher's stream: where it starts, then changes and the latest readings. It never queues: what it cannot take
//! stays in the hub, and a watcher that falls behind that goes on from the newest snapshot.
use std::sync::Arc;

use pitwall_proto::v1::{self, watch_response::Body};
use tokio::sync::{OwnedSemaphorePermit, broadcast::error::RecvError, mpsc};
use tonic::Status;

use super::{
    hub::{Start, Told, Watching},
    mailbox::ProjectHandle,
    status,
};

type Out = mpsc::Sender<Result<v1::WatchResponse, Status>>;

/// The client has gone.
struct Gone;

/// Runs until the client goes or the server ends; holds its room for so long.
pub async fn feed(project: ProjectHandle, watching: Watching, out: Out, _room: OwnedSemaphorePermit) {
    if let Err(Over::Told(told)) = follow(&project, watching, &out).await {
        let _ = out.send(Err(told)).await;
    }
}

enum Over {
    Gone,
    Told(Status),
}

impl From<Gone> for Over {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

async fn follow(project: &ProjectHandle, watching: Watching, out: &Out) -> Result<(), Over> {
    let Watching { start, mut changes, mut readouts } = watching;
    let mut last = begin(start, out).await?;
    loop {
        tokio::select! {
            () = out.closed() => return Err(Over::Gone),
            told = changes.recv() => match told {
                Ok(Told::Change(change)) => {
                    // Before the snapshot that was sent.
                    if sequence(&change) > last {
                        last = sequence(&change);
                        send(out, Body::Change(Arc::unwrap_or_clone(change))).await?;
                    }
                }
                Ok(Told::End(told)) => return Err(Over::Told(told)),
                Ok(Told::Resync) | Err(RecvError::Lagged(_)) => {
                    // A subscription of its own, so that nothing between here and there is missed.
                    let again = project.watch(None).await.map_err(Over::Told)?;
                    changes = again.changes;
                    last = begin(again.start, out).await?;
                }
                Err(RecvError::Closed) => return Err(Over::Told(status::gone())),
            },
            Ok(()) = readouts.changed() => {
                let latest = readouts.borrow_and_update().clone();
                if let Some(update) = latest {
                    send(out, Body::Readouts(Arc::unwrap_or_clone(update))).await?;
                }
            }
        }
    }
}

/// Sends the start; answers with the sequence that the client is at.
async fn begin(start: Start, out: &Out) -> Result<u64, Gone> {
    match start {
        Start::Snapshot(situation) => {
            let at = situation.revision.as_ref().map_or(0, |r| r.sequence);
            send(out, Body::Snapshot(*situation)).await?;
            Ok(at)
        }
        Start::Missed { from, changes } => {
            let mut last = from;
            for change in changes {
                last = sequence(&change);
                send(out, Body::Change(Arc::unwrap_or_clone(change))).await?;
            }
            Ok(last)
        }
    }
}

async fn send(out: &Out, body: Body) -> Result<(), Gone> {
    out.send(Ok(v1::WatchResponse { body: Some(body) })).await.map_err(|_| Gone)
}

fn sequence(change: &v1::Change) -> u64 {
    change.revision.as_ref().map_or(0, |r| r.sequence)
}
