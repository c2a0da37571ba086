//! The client's side of `SidecarService.Connect`: one task per session that opens the stream, hands every frame to the
//! run loop in order, and tells once why it ended. Reconnecting is the core's; this module holds no rule.
//!
//! Bounded: the outbound queue ([`OUTBOUND`] frames; one more ends the session, the core connects again and resends
//! what was not acknowledged), messages in both directions, the time to connect and to be answered. Readings have room of
//! their own, for the latest: on a link that is slower than they come, what a command led to is not behind them.
use std::{
    collections::HashMap,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pitwall_proto::v1::{self, sidecar_service_client::SidecarServiceClient};
use pitwall_sidecar_core::io::{Input, SessionId};
use prost::Message as _;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::timeout,
};
use tokio_stream::{Stream, wrappers::WatchStream};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::identity::Door;

/// Frames that wait for the connection.
pub const OUTBOUND: usize = 256;
/// Largest message, both ways.
pub const MESSAGE_MAX: usize = 4 * 1024 * 1024;
const CONNECT: Duration = Duration::from_secs(5);
/// From the connect until the other side accepts the stream.
const OPEN: Duration = Duration::from_secs(15);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The open streams; by the core's rules at most one at a time.
pub struct Streams {
    door: Door,
    inputs: mpsc::Sender<Input>,
    open: HashMap<SessionId, Open>,
}

struct Open {
    frames: mpsc::Sender<v1::ConnectRequest>,
    reading: watch::Sender<Option<v1::ConnectRequest>>,
    task: AbortHandle,
}

/// What is sent, as fast as the connection takes it: everything in order, and the latest reading while nothing else waits.
struct Outbound {
    frames: mpsc::Receiver<v1::ConnectRequest>,
    reading: WatchStream<Option<v1::ConnectRequest>>,
    /// Frames are numbered when they leave, as readings that were replaced never do.
    seq: u64,
}

impl Outbound {
    fn numbered(&mut self, frame: v1::ConnectRequest) -> Poll<Option<v1::ConnectRequest>> {
        self.seq += 1;
        Poll::Ready(Some(v1::ConnectRequest { seq: self.seq, ..frame }))
    }
}

impl Stream for Outbound {
    type Item = v1::ConnectRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::ConnectRequest>> {
        match self.frames.poll_recv(context) {
            Poll::Ready(Some(frame)) => return self.numbered(frame),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        loop {
            match Pin::new(&mut self.reading).poll_next(context) {
                Poll::Ready(Some(Some(reading))) => return self.numbered(reading),
                Poll::Ready(Some(None)) => {}
                // The end of the session is the other queue's to say.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Streams {
    #[must_use]
    pub fn new(door: Door, inputs: mpsc::Sender<Input>) -> Self {
        Self { door, inputs, open: HashMap::new() }
    }

    /// Inside a tokio runtime.
    pub fn connect(&mut self, session: SessionId, hello: v1::ConnectRequest) {
        self.open.retain(|_, open| !open.task.is_finished());
        let (frames, queue) = mpsc::channel(OUTBOUND);
        let (reading, latest) = watch::channel(None);
        let outbound = Outbound { frames: queue, reading: WatchStream::from_changes(latest), seq: 0 };
        // An empty queue takes one frame.
        let _ = frames.try_send(hello);
        let (door, inputs) = (self.door.clone(), self.inputs.clone());
        let task = tokio::spawn(async move {
            let (why, refusal) = follow(&door, session, outbound, &inputs).await;
            door.heard(refusal.as_deref());
            // The loop is gone: so is the process.
            let _ = inputs.send(Input::Closed { session, why, refusal }).await;
        });
        self.open.insert(session, Open { frames, reading, task: task.abort_handle() });
    }

    /// `Some`: the session ended by this, to be handed to the core.
    #[must_use]
    pub fn send(&mut self, session: SessionId, frame: v1::ConnectRequest) -> Option<Input> {
        // A session that ended by itself: its `Closed` is on the way.
        let open = self.open.get(&session)?;
        if matches!(frame.body, Some(v1::connect_request::Body::Readings(_))) {
            open.reading.send_replace(Some(frame));
            return None;
        }
        match open.frames.try_send(frame) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => None,
            Err(mpsc::error::TrySendError::Full(_)) => {
                // Where the task has ended meanwhile, its own word comes too; the core knows a session's end once.
                self.disconnect(session);
                let why = format!("the connection does not take what is sent: {OUTBOUND} frames wait");
                Some(Input::Closed { session, why, refusal: None })
            }
        }
    }

    pub fn disconnect(&mut self, session: SessionId) {
        if let Some(open) = self.open.remove(&session) {
            open.task.abort();
        }
    }
}

/// Why a stream ended, and the reason of a refusal.
pub type Ended = (String, Option<String>);

/// Until the stream ends.
async fn follow(door: &Door, session: SessionId, outbound: Outbound, inputs: &mpsc::Sender<Input>) -> Ended {
    let opened = match timeout(OPEN, open(door, outbound)).await {
        Ok(opened) => opened,
        Err(_) => return (format!("{} did not accept the stream in {} s", door.url(), OPEN.as_secs()), None),
    };
    let (channel, frames) = match opened {
        Ok(opened) => opened,
        Err(ended) => return ended,
    };
    tokio::select! {
        ended = receive(door, frames, session, inputs) => ended,
        () = door.keep_renewed(channel) => ("the certificate cannot be renewed".into(), None),
    }
}

async fn receive(
    door: &Door,
    mut frames: tonic::Streaming<v1::ConnectResponse>,
    session: SessionId,
    inputs: &mpsc::Sender<Input>,
) -> Ended {
    loop {
        match frames.message().await {
            // Waits while the loop is busy: the other side is slowed by HTTP/2's flow control.
            Ok(Some(frame)) => {
                door.welcomed();
                if inputs.send(Input::Received { session, frame }).await.is_err() {
                    return ("the sidecar ends".into(), None);
                }
            }
            Ok(None) => return ("the orchestrator ended the stream".into(), None),
            Err(status) => return told(&status),
        }
    }
}

async fn open(door: &Door, outbound: Outbound) -> Result<(Channel, tonic::Streaming<v1::ConnectResponse>), Ended> {
    let url = door.url();
    // The scheme of a door with TLS is its own matter: the transport is handed a connection that is ready.
    let plain = url.replacen("https://", "http://", 1);
    let endpoint = Endpoint::from_shared(plain)
        .map_err(|e| (format!("{url} is not a URL: {e}"), None))?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = door.channel(endpoint).await?;
    let mut client = SidecarServiceClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let answered = client.connect(outbound).await.map_err(|status| match (told(&status), door) {
        // How a TLS server takes plaintext varies; none of it says so.
        ((why, None), Door::Plaintext { .. }) => {
            (format!("{why}; if that orchestrator has certificates, write https:// and leave --insecure out"), None)
        }
        (ended, _) => ended,
    })?;
    Ok((channel, answered.into_inner()))
}

/// A status for people, and the `ErrorInfo` reason that it carries.
pub fn told(status: &Status) -> Ended {
    let refusal = reason(status.details());
    let message = if status.message().is_empty() { "no reason given" } else { status.message() };
    let why = match status.code() {
        // The transport's own words are all that there is.
        Code::Unknown | Code::Unavailable if refusal.is_none() => format!("the connection ended: {message}"),
        code => format!("{message} ({code:?})"),
    };
    (why, refusal)
}

/// The cause that says something: outer layers of the transport say "transport error".
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// `google.rpc.Status`, `Any` and `ErrorInfo`, as far as they are needed: the crate that has them all is large.
mod rpc {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Status {
        #[prost(int32, tag = "1")]
        pub code: i32,
        #[prost(string, tag = "2")]
        pub message: String,
        #[prost(message, repeated, tag = "3")]
        pub details: Vec<Any>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Any {
        #[prost(string, tag = "1")]
        pub type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        pub value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ErrorInfo {
        #[prost(string, tag = "1")]
        pub reason: String,
        #[prost(string, tag = "2")]
        pub domain: String,
    }
}

fn reason(details: &[u8]) -> Option<String> {
    let status = rpc::Status::decode(details).ok()?;
    let info = status.details.iter().find(|any| any.type_url.ends_with("/google.rpc.ErrorInfo"))?;
    let reason = rpc::ErrorInfo::decode(info.value.as_slice()).ok()?.reason;
    (!reason.is_empty()).then_some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_refusal_is_found_and_rubbish_is_none() {
        let info = rpc::ErrorInfo { reason: "SECOND_INSTANCE".into(), domain: "pitwall".into() };
        let any = |url: &str, value| rpc::Any { type_url: url.into(), value };
        let status = rpc::Status {
            code: 9,
            message: "no".into(),
            details: vec![
                any("type.googleapis.com/google.rpc.Help", vec![1, 2, 3]),
                any("type.googleapis.com/google.rpc.ErrorInfo", info.encode_to_vec()),
            ],
        };
        let bytes = status.encode_to_vec();
        assert_eq!(reason(&bytes).as_deref(), Some("SECOND_INSTANCE"));
        let refused = Status::with_details(Code::FailedPrecondition, "another sidecar", bytes.into());
        assert_eq!(told(&refused).1.as_deref(), Some("SECOND_INSTANCE"));
        assert!(told(&refused).0.starts_with("another sidecar"));
        for rubbish in [&b""[..], b"\xff\xff\xff", b"plain text"] {
            assert_eq!(reason(rubbish), None);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_orchestrator_that_is_not_there_closes_the_session_with_the_cause() {
        let (sender, mut inputs) = mpsc::channel(8);
        let mut streams = Streams::new(Door::Plaintext { url: "http://127.0.0.1:1".into() }, sender);
        streams.connect(7, v1::ConnectRequest::default());
        let Some(Input::Closed { session: 7, why, refusal: None }) = inputs.recv().await else { panic!() };
        assert!(why.contains("refused"), "{why}");
    }

    fn reading(interval_ms: u32) -> v1::ConnectRequest {
        let readings = v1::Readings { interval_ms, ..Default::default() };
        v1::ConnectRequest { body: Some(v1::connect_request::Body::Readings(readings)), ..Default::default() }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn readings_have_one_place_behind_everything_else_and_never_end_a_session() {
        use tokio_stream::StreamExt as _;
        let (inputs, _keep) = mpsc::channel(8);
        let mut streams = Streams::new(Door::Plaintext { url: "http://127.0.0.1:1".into() }, inputs);
        let (frames, queue) = mpsc::channel(OUTBOUND);
        let (latest, readings) = watch::channel(None);
        let mut outbound = Outbound { frames: queue, reading: WatchStream::from_changes(readings), seq: 0 };
        let task = tokio::spawn(async {}).abort_handle();
        streams.open.insert(7, Open { frames, reading: latest, task });
        for n in 1..=4 * OUTBOUND as u32 {
            assert!(streams.send(7, reading(n)).is_none());
        }
        assert!(streams.send(7, v1::ConnectRequest::default()).is_none());
        // What came last goes first, and of the readings the latest; numbered without a gap.
        assert_eq!(outbound.next().await, Some(v1::ConnectRequest { seq: 1, ..Default::default() }));
        assert_eq!(outbound.next().await, Some(v1::ConnectRequest { seq: 2, ..reading(4 * OUTBOUND as u32) }));
        streams.disconnect(7);
        assert_eq!(outbound.next().await, None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_outbound_queue_that_is_full_ends_the_session() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (sender, _inputs) = mpsc::channel(8);
        let mut streams =
            Streams::new(Door::Plaintext { url: format!("http://{}", silent.local_addr().unwrap()).into() }, sender);
        streams.connect(7, v1::ConnectRequest::default());
        let ended = (0..=OUTBOUND).find_map(|_| streams.send(7, v1::ConnectRequest::default()));
        assert!(matches!(ended, Some(Input::Closed { session: 7, .. })), "{ended:?}");
        assert!(streams.send(7, v1::ConnectRequest::default()).is_none());
    }
}
