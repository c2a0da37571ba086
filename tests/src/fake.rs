//! A sidecar that is none: it has a real one's identity, and says whatever a test wants.
use std::path::Path;

use pitwall_proto::v1::{self, connect_request::Body, sidecar_service_client::SidecarServiceClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use crate::{
    audit::Kept,
    binaries::{self, Server},
    client, identities, wait,
};

pub struct Fake {
    pub agent: String,
    pub instance: String,
    pub life: u64,
    pub channel: Channel,
}

/// Its side of an open stream.
pub struct Mouth {
    out: mpsc::Sender<v1::ConnectRequest>,
    seq: u64,
}

impl Fake {
    /// Lets a real sidecar join and end, and takes its place.
    pub async fn of(dir: &Path, server: &Server, agent: &str) -> Self {
        let mut joined = binaries::sidecar(dir, &server.url, agent, &["--launch-on-activation", "--", "true"]);
        wait::until_sync("it has a session", std::time::Duration::from_secs(5), || {
            joined.stderr().iter().any(|line| line.contains("session")).then_some(())
        });
        joined.signal(rustix::process::Signal::TERM);
        joined.ended(std::time::Duration::from_secs(5));
        let (instance, life) = Kept::read(&dir.join(agent).join("state")).life();
        let channel = client::channel(&server.url, Some(&identities::of_sidecar(dir, agent))).await;
        Self { agent: agent.into(), instance, life, channel }
    }

    /// Of its next life.
    pub fn hello(&mut self) -> v1::Hello {
        self.life += 1;
        v1::Hello {
            agent: self.agent.clone(),
            instance: self.instance.clone(),
            life: self.life,
            process: format!("fake-{}", self.life),
            capabilities: vec![v1::Capability { name: "kill".into(), available: true, ..Default::default() }],
            ..Default::default()
        }
    }

    /// A stream on which nothing was read yet.
    pub async fn connect(&mut self) -> Result<(Mouth, Streaming<v1::ConnectResponse>), Status> {
        let (out, queue) = mpsc::channel(16);
        let first = v1::ConnectRequest { seq: 1, ack: 0, body: Some(Body::Hello(self.hello())) };
        out.try_send(first).expect("there is room");
        let mut client = SidecarServiceClient::new(self.channel.clone());
        let answers = client.connect(ReceiverStream::new(queue)).await?.into_inner();
        Ok((Mouth { out, seq: 1 }, answers))
    }
}

impl Mouth {
    /// `None` is what nobody knows, and is answered so. `false`: nobody takes it any more.
    pub async fn say(&mut self, body: Option<Body>) -> bool {
        self.seq += 1;
        self.out.send(v1::ConnectRequest { seq: self.seq, ack: 0, body }).await.is_ok()
    }
}
