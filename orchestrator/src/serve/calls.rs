//! What is common to calls, as one tower layer: a span per call, places for calls and streams, and an end to waiting for
//! what never comes. It is the innermost: only calls that are permitted take a place, and the task that carries a mutation
//! to its end holds it for so long. Streams have further limits, over all peers, where they are opened.
use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http_body::{Frame, SizeHint};
use pitwall_core::{
    identity::{Pace, Paces, Subject, call},
    io::Millis,
};
use tokio::time::{Sleep, sleep, timeout};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::{
    door::{
        peer::Peer,
        places::{Full, Place, Places, Room},
    },
    status::status,
};

/// Unary calls at the same time; more are refused at once, as waiting would only hide the overload. Strangers join and ask
/// whether it serves; sidecars renew.
const STRANGERS_CALLS: Room = Room { all: 64, each: 16 };
const SIDECARS_CALLS: Room = Room { all: 128, each: 4 };
const OPERATORS_CALLS: Room = Room { all: 256, each: 32 };
/// Streams at the same time: a sidecar's newer session ends the older, and strangers have none.
const STRANGERS_STREAMS: Room = Room { all: 0, each: 0 };
const SIDECARS_STREAMS: Room = Room { all: 1_024, each: 4 };
const OPERATORS_STREAMS: Room = Room { all: 512, each: 32 };
/// How often one identity may begin them. A sidecar connects again with growing waits; one that does not would fill the
/// journal with its lives.
const SIDECARS_STREAMS_PACE: Pace = Pace { burst: 30, every_ms: 1_000 };
const SIDECARS_CALLS_PACE: Pace = Pace { burst: 30, every_ms: 1_000 };
const OPERATORS_STREAMS_PACE: Pace = Pace { burst: 300, every_ms: 100 };
const OPERATORS_CALLS_PACE: Pace = Pace { burst: 2_000, every_ms: 5 };
/// From the headers of a unary call until all of its request is there; a read is answered in the same time. A mutation that
/// was understood is not broken off: it ends in its own time, and is audited with what came of it.
const CALL_WITHIN: Duration = Duration::from_secs(20);
const STREAMS: [&str; 5] = [
    "/pitwall.v1.SidecarService/Connect",
    "/pitwall.v1.ControlService/Watch",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

#[derive(Clone, Debug)]
pub struct CallLayer {
    calls: Arc<Places>,
    streams: Arc<Places>,
    paces: Arc<Mutex<[Paces; 4]>>,
    since: Instant,
    within: Duration,
}

impl Default for CallLayer {
    fn default() -> Self {
        Self {
            calls: Places::new(STRANGERS_CALLS, SIDECARS_CALLS, OPERATORS_CALLS),
            streams: Places::new(STRANGERS_STREAMS, SIDECARS_STREAMS, OPERATORS_STREAMS),
            paces: Arc::new(Mutex::new(PACES.map(Paces::new))),
            since: Instant::now(),
            within: CALL_WITHIN,
        }
    }
}

/// Of sidecars and of operators, calls and streams.
const PACES: [Pace; 4] = [SIDECARS_CALLS_PACE, SIDECARS_STREAMS_PACE, OPERATORS_CALLS_PACE, OPERATORS_STREAMS_PACE];

impl<S> Layer<S> for CallLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls { inner, limits: self.clone() }
    }
}

#[derive(Clone, Debug)]
pub struct Calls<S> {
    inner: S,
    limits: CallLayer,
}

impl CallLayer {
    fn place(&self, peer: Option<&Arc<Peer>>, is_stream: bool) -> Result<Place, Status> {
        let (places, what, reason) = if is_stream {
            (&self.streams, "streams", "STREAMS_EXHAUSTED")
        } else {
            (&self.calls, "calls", "CALLS_EXHAUSTED")
        };
        self.keep_pace(peer, what, is_stream)?;
        // The door refuses whoever is not known.
        let taken = peer.map_or(Err(Full::Own(0)), |peer| places.take(peer));
        taken.map_err(|full| {
            let message = format!("there are as many {what} as there may be: {full}");
            status(Code::ResourceExhausted, reason, message, "call again later")
        })
    }

    /// Strangers have none of their own: their handshakes and places bound what they do.
    fn keep_pace(&self, peer: Option<&Arc<Peer>>, what: &str, is_stream: bool) -> Result<(), Status> {
        let Some(subject) = peer.and_then(|peer| peer.subject()) else { return Ok(()) };
        let kind = match subject {
            Subject::Agent { .. } => usize::from(is_stream),
            Subject::Operator { .. } => 2 + usize::from(is_stream),
        };
        let now = Millis::try_from(self.since.elapsed().as_millis()).unwrap_or(Millis::MAX);
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        paces[kind].take(&subject.to_string(), now).map_err(|too_soon| {
            let Pace { burst, every_ms } = PACES[kind];
            let message =
                format!("{subject} begins {what} too often: at most {burst} at once, then one in {every_ms} ms");
            let reason = if is_stream { "STREAMS_TOO_OFTEN" } else { "CALLS_TOO_OFTEN" };
            status(Code::ResourceExhausted, reason, message, &format!("again in {too_soon} ms"))
        })
    }
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

impl<S> Service<http::Request<Body>> for Calls<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let span = tracing::debug_span!("call", path);
        let is_stream = STREAMS.contains(&path);
        let is_read = !is_stream && call(path).is_some_and(|call| !call.mutates);
        let place = match self.limits.place(request.extensions().get::<Arc<Peer>>(), is_stream) {
            Ok(place) => place,
            Err(told) => return Box::pin(async move { Ok(told.into_http()) }),
        };
        let within = self.limits.within;
        let request = match is_stream {
            true => request,
            false => {
                request.map(|body| Body::new(Bounded { inner: body, over: Some(Box::pin(sleep(within))), place: None }))
            }
        };
        let begun = Instant::now();
        let answer = self.inner.call(request);
        let told = async move {
            let answer = match is_read {
                false => answer.await,
                true => timeout(within, answer).await.unwrap_or_else(|_| Ok(late().into_http())),
            };
            let status = answer.as_ref().ok().and_then(|a| a.headers().get("grpc-status")?.to_str().ok());
            tracing::debug!(elapsed = ?begun.elapsed(), status = status.unwrap_or("0"), "answered");
            // Until the peer has taken all of it: answers are large, and whoever does not read them collects them here.
            Ok(answer?.map(|body| Body::new(Bounded { inner: body, over: None, place: Some(place) })))
        };
        Box::pin(told.instrument(span))
    }
}

fn late() -> Status {
    let message = format!("the call was not over within {} s", CALL_WITHIN.as_secs());
    status(Code::DeadlineExceeded, "CALL_TIMEOUT", message, "call again")
}

/// A body that ends in time, or holds a place until it ends.
struct Bounded {
    inner: Body,
    over: Option<Pin<Box<Sleep>>>,
    place: Option<Place>,
}

type Data = <Body as http_body::Body>::Data;

impl http_body::Body for Bounded {
    type Data = Data;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Data>, Status>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if frame.is_pending()
            && let Some(over) = &mut self.over
            && over.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Some(Err(late())));
        }
        if let Poll::Ready(None) = frame {
            self.place = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::poll_fn};

    use super::*;

    /// Says nothing, ever.
    struct Silent;

    impl http_body::Body for Silent {
        type Data = Data;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Data>, Status>>> {
            Poll::Pending
        }
    }

    fn request(path: &str) -> http::Request<Body> {
        let mut request = http::Request::builder().uri(path).body(Body::new(Silent)).unwrap();
        request.extensions_mut().insert(Peer::nobody([127, 0, 0, 1].into()));
        request
    }

    fn code(answer: Result<http::Response<Body>, Infallible>) -> Option<Code> {
        Status::from_header_map(answer.unwrap().headers()).map(|status| status.code())
    }

    #[tokio::test]
    async fn a_request_that_never_comes_and_an_answer_that_never_comes_end_and_give_their_places_back() {
        let limits = CallLayer { within: Duration::from_millis(100), ..Default::default() };
        let mut reads_it = limits.layer(tower::service_fn(|request: http::Request<Body>| async move {
            let mut body = request.into_body();
            let read = poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut body), context)).await;
            Ok::<_, Infallible>(read.unwrap().unwrap_err().into_http())
        }));
        let mut hangs = limits.layer(tower::service_fn(|_| std::future::pending()));
        let [enrol, check] = ["/pitwall.v1.IdentityService/Enrol", "/grpc.health.v1.Health/Check"];
        let held: Vec<_> = (0..STRANGERS_CALLS.each).map(|_| tokio::spawn(reads_it.call(request(enrol)))).collect();
        assert_eq!(code(reads_it.call(request(enrol)).await), Some(Code::ResourceExhausted));
        for answer in held {
            let answer = tokio::time::timeout(Duration::from_secs(20), answer).await.expect("it ends").unwrap();
            assert_eq!(code(answer), Some(Code::DeadlineExceeded));
        }
        let answer: Result<_, Infallible> = hangs.call(request(check)).await;
        assert_eq!(code(answer), Some(Code::DeadlineExceeded));
    }

    #[tokio::test]
    async fn an_answer_holds_its_place_until_it_is_taken() {
        let limits = CallLayer::default();
        let mut calls = limits.layer(tower::service_fn(|_| async { Ok(http::Response::new(Body::new(Silent))) }));
        let mut held = Vec::new();
        for _ in 0..STRANGERS_CALLS.each {
            let answer = calls.call(request("/grpc.health.v1.Health/Check")).await;
            held.push(answer.unwrap());
        }
        assert_eq!(code(calls.call(request("/grpc.health.v1.Health/Check")).await), Some(Code::ResourceExhausted));
        held.clear();
        assert_eq!(code(calls.call(request("/grpc.health.v1.Health/Check")).await), None);
    }
}
