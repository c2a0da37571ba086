//! The body of an answer that ends, with the reason, when the identity that it is for ceases to count: expired or
//! revoked. A renewal on the same connection moves that end.
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::{Status, body::Body};

use super::{peer::Peer, refused};

const LOOK_EVERY: Duration = Duration::from_secs(1);

pub struct Guard {
    /// `None`: ended by this.
    inner: Option<Body>,
    peer: Arc<Peer>,
    look: Interval,
}

impl Guard {
    pub fn new(inner: Body, peer: Arc<Peer>) -> Self {
        let mut look = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { inner: Some(inner), peer, look }
    }
}

type Data = <Body as http_body::Body>::Data;

impl http_body::Body for Guard {
    type Data = Data;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Data>, Self::Error>>> {
        while self.look.poll_tick(context).is_ready() {
            if self.inner.is_some()
                && let Err(denied) = self.peer.standing()
            {
                // Dropped: whatever feeds it learns that nobody listens.
                self.inner = None;
                return Poll::Ready(Some(Ok(Frame::trailers(trailers(refused(&denied))))));
            }
        }
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

fn trailers(status: Status) -> http::HeaderMap {
    let mut headers = std::mem::take(status.into_http::<()>().headers_mut());
    headers.remove(http::header::CONTENT_TYPE);
    headers
}
