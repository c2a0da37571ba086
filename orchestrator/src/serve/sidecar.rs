//! `SidecarService`: a stream's messages go into the project's mailbox in order; a queue of its own brings answers back.
//! An unknown message is answered, not a disconnect; the stream ends for broken rules only, always with the reason.
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use pitwall_core::{identity::speaks_for, io::SessionId};
use pitwall_proto::v1::{self, connect_request::Body, sidecar_service_server::SidecarService};
use prost::Message as _;
use tokio::{sync::Semaphore, time::timeout};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    door::{self, audited::Noted, peer::Peer},
    mailbox::{Message, ProjectHandle},
    outbound::{Ended, Outbound, outbound},
    status::status,
};

/// Streams at the same time, over all sidecars.
const SESSIONS_MAX: usize = 1_024;

/// Kilobytes of messages in the mailbox, over all sidecars: it is bounded in number, and messages may be large.
const WAITING_KB_MAX: usize = 64 * 1024;

pub struct Sidecars {
    project: ProjectHandle,
    room: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    hello_within: Duration,
    next_session: AtomicU64,
}

impl Sidecars {
    pub fn new(project: ProjectHandle, hello_within: Duration) -> Self {
        let room = Arc::new(Semaphore::new(SESSIONS_MAX));
        let waiting = Arc::new(Semaphore::new(WAITING_KB_MAX));
        Self { project, room, waiting, hello_within, next_session: AtomicU64::new(1) }
    }
}

#[tonic::async_trait]
impl SidecarService for Sidecars {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<v1::ConnectResponse, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let room = self.room.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{SESSIONS_MAX} sidecar streams are open, which is the limit");
            status(Code::ResourceExhausted, "SESSIONS_EXHAUSTED", message, "connect again later")
        })?;
        let (out, ended, stream) = outbound(room);
        let noted = request.extensions().get::<Noted>().cloned().unwrap_or_default();
        let reader = Reader {
            project: self.project.clone(),
            // The door refuses whoever has none.
            peer: request.extensions().get::<Arc<Peer>>().cloned(),
            noted,
            waiting: self.waiting.clone(),
            session: self.next_session.fetch_add(1, Ordering::Relaxed),
            incoming: request.into_inner(),
            ended,
            last_seq: 0,
        };
        // Ends with the stream: with its input, or when its output has ended.
        tokio::spawn(reader.run(out, self.hello_within));
        Ok(Response::new(Box::pin(stream)))
    }
}

struct Reader {
    project: ProjectHandle,
    peer: Option<Arc<Peer>>,
    noted: Noted,
    waiting: Arc<Semaphore>,
    session: SessionId,
    incoming: Streaming<v1::ConnectRequest>,
    ended: Ended,
    last_seq: u64,
}

/// Why nothing more is read.
enum Over {
    /// By the peer, or because the other direction ended.
    Quietly,
    /// A rule was broken, which the peer is told.
    Told(Status),
}

impl Reader {
    async fn run(mut self, out: Outbound, hello_within: Duration) {
        let hello = match timeout(hello_within, self.hello()).await {
            Ok(Ok(hello)) => hello,
            Ok(Err(Over::Quietly)) => return,
            Ok(Err(Over::Told(told))) => return out.end(told),
            Err(_) => {
                let message = format!("no hello within {} s", hello_within.as_secs_f32());
                return out.end(status(
                    Code::DeadlineExceeded,
                    "HELLO_TIMEOUT",
                    message,
                    "send a hello as the first message",
                ));
            }
        };
        let (session, seq) = (self.session, self.last_seq);
        if self.project.tell(Message::Opened { session, seq, hello: Box::new(hello), out }).await.is_err() {
            return;
        }
        let told = match self.messages().await {
            Over::Quietly => None,
            Over::Told(told) => Some(told),
        };
        // The task that would want to know may have ended.
        let _ = self.project.tell(Message::Closed { session, told }).await;
    }

    async fn hello(&mut self) -> Result<v1::Hello, Over> {
        let first = self.next().await?;
        match first.body {
            Some(Body::Hello(hello)) => {
                self.noted.set(format!("hello for agent {}", hello.agent));
                let project = if hello.project.is_empty() { &*self.project.name } else { hello.project.as_str() };
                match self.peer.as_ref().map(|peer| (peer.is_plaintext(), peer.subject())) {
                    Some((true, _)) => Ok(hello),
                    Some((false, Some(subject))) => match speaks_for(subject, project, &hello.agent) {
                        Ok(()) => Ok(hello),
                        Err(denied) => Err(Over::Told(door::refused(&denied))),
                    },
                    Some((false, None)) | None => Err(Over::Told(status(
                        Code::Unauthenticated,
                        "CERTIFICATE_MISSING",
                        "a sidecar needs a certificate",
                        "let it join: `pitwall token create --agent NAME`",
                    ))),
                }
            }
            Some(_) | None => Err(Over::Told(status(
                Code::InvalidArgument,
                "HELLO_MISSING",
                "the first message of a stream is a hello",
                "send a hello as the first message",
            ))),
        }
    }

    async fn messages(&mut self) -> Over {
        loop {
            let request = match self.next().await {
                Ok(request) => request,
                Err(over) => return over,
            };
            let (session, seq) = (self.session, request.seq);
            let kilobytes = u32::try_from(request.encoded_len() / 1_024 + 1).unwrap_or(u32::MAX);
            // Smaller than all there is, as a message is; closed never.
            let Ok(room) = self.waiting.clone().acquire_many_owned(kilobytes).await else { return Over::Quietly };
            let message = match request.body {
                Some(body) => Message::Body { session, seq, body: Box::new(body), room },
                None => Message::Unknown { session, seq },
            };
            // Waits while the project is busy, which holds the peer back by HTTP/2's window.
            if self.project.tell(message).await.is_err() {
                return Over::Quietly;
            }
        }
    }

    async fn next(&mut self) -> Result<v1::ConnectRequest, Over> {
        let received = tokio::select! {
            () = self.ended.wait() => return Err(Over::Quietly),
            received = self.incoming.message() => received,
        };
        match received {
            Ok(None) => Err(Over::Quietly),
            Ok(Some(request)) if request.seq != 0 && request.seq <= self.last_seq => {
                let message = format!("message {} came after {}", request.seq, self.last_seq);
                Err(Over::Told(status(Code::InvalidArgument, "SEQUENCE_BROKEN", message, "connect again")))
            }
            Ok(Some(request)) => {
                self.last_seq = request.seq.max(self.last_seq);
                Ok(request)
            }
            Err(error) => Err(broken(&error)),
        }
    }
}

/// What tonic could not read, in our words; a connection that is gone needs none.
fn broken(error: &Status) -> Over {
    match error.code() {
        Code::OutOfRange | Code::ResourceExhausted => Over::Told(status(
            Code::OutOfRange,
            "MESSAGE_TOO_LARGE",
            error.message(),
            "the welcome names the largest message",
        )),
        Code::Internal | Code::Unimplemented | Code::InvalidArgument => {
            Over::Told(status(Code::InvalidArgument, "MESSAGE_MALFORMED", error.message(), ""))
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => Over::Quietly,
    }
}
