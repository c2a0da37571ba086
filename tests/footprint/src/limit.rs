//! The limit: reads the files that must be read once a second through descriptors that it keeps, and sends one message
//! of the same size over mTLS. Nothing else: no rates, no rules, no journal. What the sidecar takes is held against this.
//!
//! `pitwall-footprint-limit URL IDENTITY BYTES EVERY_MS FILE…`; ends when its standard input does.
use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use pitwall_proto::v1::{self, connect_request::Body, sidecar_service_client::SidecarServiceClient};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let mut word = |what: &str| words.next().with_context(|| format!("{what} is missing"));
    let (url, identity) = (word("URL")?, word("IDENTITY")?);
    let bytes: usize = word("BYTES")?.parse()?;
    let every = Duration::from_millis(word("EVERY_MS")?.parse()?);
    let files: Vec<File> = words.filter_map(|path| File::open(path).ok()).collect();
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });

    let (out, queue) = mpsc::channel(4);
    let mut client = SidecarServiceClient::new(channel(&url, Path::new(&identity)).await?);
    let message = of_size(bytes);
    out.send(message.clone()).await?;
    let _answers = client.connect(ReceiverStream::new(queue)).await?;
    let mut tick = tokio::time::interval(every);
    let mut text = vec![0_u8; 16 * 1024];
    let mut read = 0_usize;
    loop {
        tick.tick().await;
        for file in &files {
            read = read.wrapping_add(file.read_at(&mut text, 0).unwrap_or(0));
        }
        std::hint::black_box(read);
        out.send(message.clone()).await?;
    }
}

async fn channel(url: &str, identity: &Path) -> Result<Channel> {
    let read = |name: &str| fs::read(identity.join(name)).with_context(|| format!("{name} of the identity"));
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("authority.pem")?))
        .identity(Identity::from_pem(read("certificate.pem")?, read("key.pem")?));
    Ok(Channel::from_shared(url.to_owned())?.tls_config(tls)?.connect().await?)
}

/// Readings of about so many bytes.
fn of_size(bytes: usize) -> v1::ConnectRequest {
    let mut readings = v1::Readings { interval_ms: 1_000, ..Default::default() };
    let mut message = v1::ConnectRequest { seq: 1, ack: 0, body: Some(Body::Readings(readings.clone())) };
    for pid in 0..10_000 {
        if message.encoded_len() >= bytes {
            break;
        }
        let identity = v1::ProcessIdentity { pid, start_ticks: 1_000_000, name: "process".into() };
        readings.top.push(v1::ProcessUsage {
            identity: Some(identity),
            cpu_cores: Some(0.5),
            memory_bytes: Some(1 << 30),
            ..Default::default()
        });
        message.body = Some(Body::Readings(readings.clone()));
    }
    message
}
