//! What one sidecar is to be sent: a bounded queue from the project's task into its stream.
//! Overflow policy: a session whose queue is full is disconnected with the reason `SESSION_TOO_SLOW`; nothing is lost
//! by that, as facts, commands and results are all repeated after the next hello.
use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use pitwall_proto::v1::{self, connect_response::Body};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::Stream;
use tonic::{Code, Status};

use super::status::status;

/// Messages that wait for a slow sidecar.
const QUEUE_MAX: usize = 256;

#[derive(Debug)]
enum Frame {
    Body(Box<Body>),
    End(Status),
}

/// The writing end, owned by whoever speaks for the session.
#[derive(Debug)]
pub struct Outbound {
    queue: mpsc::Sender<Frame>,
    /// Ends the stream before what is queued.
    kick: oneshot::Sender<Status>,
    acked: Arc<AtomicU64>,
}

/// Tells when the stream has ended, to the task that reads the other direction.
#[derive(Debug)]
pub struct Ended(mpsc::Sender<Frame>);

/// The reading end: what tonic sends.
#[derive(Debug)]
pub struct SessionStream {
    queue: mpsc::Receiver<Frame>,
    kick: Option<oneshot::Receiver<Status>>,
    acked: Arc<AtomicU64>,
    seq: u64,
    ended: bool,
    /// Given back when the stream is dropped.
    _room: OwnedSemaphorePermit,
}

pub fn outbound(room: OwnedSemaphorePermit) -> (Outbound, Ended, SessionStream) {
    let (send, queue) = mpsc::channel(QUEUE_MAX);
    let (kick, kicked) = oneshot::channel();
    let acked = Arc::new(AtomicU64::new(0));
    let ended = Ended(send.clone());
    let stream = SessionStream { queue, kick: Some(kicked), acked: acked.clone(), seq: 0, ended: false, _room: room };
    (Outbound { queue: send, kick, acked }, ended, stream)
}

impl Outbound {
    /// Queues a message. `Err`: there was no room, or the stream has ended; end the session.
    pub fn send(&self, body: Body) -> Result<(), Full> {
        self.queue.try_send(Frame::Body(Box::new(body))).map_err(|_| Full)
    }

    /// Everything of the other side up to `seq` was processed.
    pub fn acknowledge(&self, seq: u64) -> impl FnOnce() + Send + use<> {
        let acked = self.acked.clone();
        move || {
            acked.fetch_max(seq, Ordering::Relaxed);
        }
    }

    /// Ends the stream after what is queued, or at once where there is no room to say so.
    pub fn end(self, status: Status) {
        // A receiver that is gone has ended by itself.
        if let Err(mpsc::error::TrySendError::Full(Frame::End(status))) = self.queue.try_send(Frame::End(status)) {
            let _ = self.kick.send(status);
        }
    }

    pub fn end_too_slow(self) {
        let told = status(
            Code::ResourceExhausted,
            "SESSION_TOO_SLOW",
            format!("{QUEUE_MAX} messages wait for this sidecar, which does not read them"),
            "connect again; what was not read is sent again",
        );
        let _ = self.kick.send(told);
    }
}

/// No room for another message.
#[derive(Clone, Copy, Debug)]
pub struct Full;

impl Ended {
    pub async fn wait(&self) {
        self.0.closed().await;
    }
}

impl Stream for SessionStream {
    type Item = Result<v1::ConnectResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(kick) = self.kick.as_mut()
            && let Poll::Ready(kicked) = pin!(kick).poll(context)
        {
            self.kick = None;
            if let Ok(status) = kicked {
                return self.end(Some(status));
            }
        }
        match self.queue.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Frame::Body(body))) => {
                self.seq += 1;
                let ack = self.acked.load(Ordering::Relaxed);
                Poll::Ready(Some(Ok(v1::ConnectResponse { seq: self.seq, ack, body: Some(*body) })))
            }
            Poll::Ready(Some(Frame::End(status))) => self.end(Some(status)),
            Poll::Ready(None) => self.end(None),
        }
    }
}

impl SessionStream {
    fn end(&mut self, status: Option<Status>) -> Poll<Option<Result<v1::ConnectResponse, Status>>> {
        self.ended = true;
        // So that the reading side learns of it even while tonic holds on to this.
        self.queue.close();
        Poll::Ready(status.map(Err))
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;

    use super::*;

    async fn session() -> (Outbound, Ended, SessionStream) {
        let room = Arc::new(tokio::sync::Semaphore::new(1)).acquire_owned().await.unwrap();
        outbound(room)
    }

    fn ack(seq: u64) -> Body {
        Body::FactAck(v1::FactAck { seq })
    }

    #[tokio::test]
    async fn messages_are_numbered_and_carry_what_was_processed() {
        let (out, ended, mut stream) = session().await;
        out.send(ack(1)).unwrap();
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!((first.seq, first.ack), (1, 0));
        out.acknowledge(7)();
        out.acknowledge(5)();
        out.send(ack(2)).unwrap();
        out.end(Status::aborted("over"));
        let second = stream.next().await.unwrap().unwrap();
        assert_eq!((second.seq, second.ack), (2, 7));
        assert_eq!(stream.next().await.unwrap().unwrap_err().code(), Code::Aborted);
        assert!(stream.next().await.is_none());
        ended.wait().await;
    }

    #[tokio::test]
    async fn a_session_that_does_not_read_is_ended_with_the_reason() {
        let (out, _ended, mut stream) = session().await;
        for n in 0..QUEUE_MAX as u64 {
            out.send(ack(n)).unwrap();
        }
        assert!(out.send(ack(0)).is_err());
        out.end_too_slow();
        let error = stream.next().await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert!(stream.next().await.is_none());
    }
}
