//! The stream of a sidecar that does not renew ends with its certificate; a renewal on its connection moves that end.
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use pitwall_proto::v1::{
    self, identity_service_client::IdentityServiceClient, sidecar_service_client::SidecarServiceClient,
};
use pitwall_tests::{binaries::Server, client, identities, plans, wait};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

/// What the product promises for a stream whose identity counts no more.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
const LIFE: Duration = Duration::from_secs(6);
/// Certificates count whole seconds.
const ROUNDED: Duration = Duration::from_secs(1);

/// Joins as an agent with a key of openssl's making: the identity as a directory, and the request for that key.
async fn join(dir: &Path, server: &Server, agent: &str) -> (PathBuf, Vec<u8>) {
    let own = dir.join(agent);
    fs::create_dir(&own).expect("the folder can be made");
    let token = identities::done(&server.url, &["token", "create", "--agent", agent]);
    let request = identities::request(&own, "/", &[]);
    let made = identities::enrol(&server.url, &server.data, &token, request.clone()).await.expect("the token is new");
    fs::rename(own.join("request.key"), own.join("key.pem")).expect("openssl wrote it");
    fs::write(own.join("certificate.pem"), made.certificate_pem).expect("it can be written");
    fs::write(own.join("authority.pem"), made.authority_pem).expect("it can be written");
    (own, request)
}

/// A stream that was welcomed; it stays open from this side as long as the sender lives.
async fn stream(
    channel: Channel,
    agent: &str,
) -> (mpsc::Sender<v1::ConnectRequest>, tonic::Streaming<v1::ConnectResponse>) {
    let (sender, outbound) = mpsc::channel(4);
    let hello = v1::Hello { agent: agent.into(), instance: agent.into(), life: 1, ..Default::default() };
    let first = v1::ConnectRequest { seq: 1, ack: 0, body: Some(v1::connect_request::Body::Hello(hello)) };
    sender.send(first).await.expect("there is room");
    let mut api = SidecarServiceClient::new(channel);
    let mut frames = api.connect(ReceiverStream::new(outbound)).await.expect("the certificate counts").into_inner();
    frames.message().await.expect("the certificate counts").expect("a welcome");
    (sender, frames)
}

async fn end(mut frames: tonic::Streaming<v1::ConnectResponse>) -> (Status, Instant) {
    loop {
        match frames.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a reason"),
            Err(status) => return (status, Instant::now()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_certificate_and_a_renewal_moves_that_end() {
    const TEST: &str = "a_stream_ends_with_its_certificate_and_a_renewal_moves_that_end";
    if !identities::have_openssl(TEST) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let agent = |name| format!("  {name}: {{ deliverables: {{ page: {{ checks: [\"file: page.md\"] }} }} }}\n");
    // Its streams say nothing: that must not end them first.
    let plan = plans::with(&(agent("writer") + &agent("reader")));
    let plan = plan.replace("heartbeat_every: 500ms", "heartbeat_every: 30s");
    let life = format!("{}s", LIFE.as_secs());
    let server = Server::start_with(dir.path(), &plan, &["--certificate-life", &life]);

    let (writer, _) = join(dir.path(), &server, "writer").await;
    let (reader, request) = join(dir.path(), &server, "reader").await;
    let joined = Instant::now();
    let (_kept, left) = stream(client::channel(&server.url, Some(&writer)).await, "writer").await;
    let channel = client::channel(&server.url, Some(&reader)).await;
    let (_kept_too, renewed) = stream(channel.clone(), "reader").await;
    let (left, renewed) = (tokio::spawn(end(left)), tokio::spawn(end(renewed)));
    let half = || async { (joined.elapsed() > LIFE / 2).then_some(()) };
    wait::until("half of their life is over", LIFE, half).await;
    let mut api = IdentityServiceClient::new(channel);
    api.renew(v1::RenewRequest { signing_request: request }).await.expect("half of its life is left");
    let again = Instant::now();

    let expired = |status: &Status| {
        (status.code(), identities::reason(status)) == (Code::Unauthenticated, "CERTIFICATE_EXPIRED".into())
    };
    let (status, at) = left.await.expect("it has a reason");
    assert!(expired(&status), "{status:?}");
    let took = at.duration_since(joined);
    assert!(took > LIFE - ROUNDED && took < LIFE + ROUNDED + ENDS_WITHIN, "{took:?}");
    assert!(!renewed.is_finished(), "the other one was renewed");
    let (status, at) = renewed.await.expect("it has a reason");
    assert!(expired(&status), "{status:?}");
    let took = at.duration_since(again);
    assert!(took > LIFE - ROUNDED && took < LIFE + ROUNDED + ENDS_WITHIN, "{took:?}");
}
