//! A sidecar reduced to its stream: it says what a test wants it to say.
use pitwall_proto::v1::{
    self, connect_request::Body as Said, connect_response::Body, sidecar_service_client::SidecarServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::soon;

pub struct Peer {
    pub out: mpsc::Sender<v1::ConnectRequest>,
    pub incoming: Streaming<v1::ConnectResponse>,
    seq: u64,
}

pub fn hello(agent: &str, instance: &str) -> v1::Hello {
    v1::Hello {
        agent: agent.into(),
        instance: instance.into(),
        life: 1,
        host: Some(v1::HostUsage { boot_id: "boot".into(), hostname: "host".into(), ..Default::default() }),
        version: "test".into(),
        ..Default::default()
    }
}

impl Peer {
    /// Opens the stream and says nothing yet.
    pub async fn silent(url: &str) -> Self {
        let channel = Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
        let mut client = SidecarServiceClient::new(channel).max_encoding_message_size(64 * 1024 * 1024);
        let (out, said) = mpsc::channel(1_024);
        let incoming = client.connect(ReceiverStream::new(said)).await.unwrap().into_inner();
        Self { out, incoming, seq: 0 }
    }

    pub async fn hello(url: &str, agent: &str, instance: &str) -> Self {
        let mut peer = Self::silent(url).await;
        peer.say(Said::Hello(hello(agent, instance))).await;
        peer
    }

    pub async fn welcomed(url: &str, agent: &str, instance: &str) -> (Self, v1::Welcome) {
        let mut peer = Self::hello(url, agent, instance).await;
        match peer.hears().await.unwrap().body {
            Some(Body::Welcome(welcome)) => (peer, welcome),
            other => panic!("not welcomed: {other:?}"),
        }
    }

    pub async fn say(&mut self, body: Said) {
        self.say_maybe(Some(body)).await;
    }

    pub async fn say_maybe(&mut self, body: Option<Said>) {
        self.seq += 1;
        let request = v1::ConnectRequest { seq: self.seq, ack: 0, body };
        // A stream that ended is seen by what is heard.
        let _ = self.out.send(request).await;
    }

    /// The next message; `Err`: how the stream ended.
    pub async fn hears(&mut self) -> Result<v1::ConnectResponse, Status> {
        soon("a message from the orchestrator", self.incoming.message())
            .await?
            .ok_or_else(|| Status::ok("ended without an error"))
    }

    /// How the stream ends, whatever comes before.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.hears().await {
                return status;
            }
        }
    }

    pub async fn hears_fact_ack(&mut self) -> Result<u64, Status> {
        loop {
            if let Some(Body::FactAck(ack)) = self.hears().await?.body {
                return Ok(ack.seq);
            }
        }
    }

    pub async fn claim(&mut self, seq: u64, text: &str) {
        let claim = v1::Claim { progress: Some(0.5), text: text.into(), ..Default::default() };
        let fact = v1::Fact { seq, kind: Some(v1::fact::Kind::Claim(claim)), ..Default::default() };
        self.say(Said::Facts(v1::FactBatch { facts: vec![fact] })).await;
    }
}
