//! Whoever has no certificate, and disks that are full: neither keeps an operator from working, and neither costs the log.
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use pitwall_proto::v1::{
    self, control_service_client::ControlServiceClient, identity_service_client::IdentityServiceClient,
    sidecar_service_client::SidecarServiceClient,
};
use pitwall_tests::{
    binaries::Server,
    client,
    identities::{self, audit, create, look, reason},
    plans, wait,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};
use tonic::{Code, codegen::http, transport::Channel};
use tower::util::MapRequest;

const SOON: Duration = Duration::from_secs(3);
/// What the product promises for a request that does not come.
const CALL_WITHIN: Duration = Duration::from_secs(20);
/// More than the server lets anybody do at the same time.
const MANY: usize = 300;

fn plan() -> String {
    plans::with("  writer:\n    deliverables: { page: { checks: [\"file: page.md\"] } }\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_whose_requests_never_come_takes_nobody_elses_place() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plan());
    let operator = server.data.join("identity/operator");
    let channel = identities::nobody(&server.url, &server.data).await;
    // A stream of requests that has none, to a call that waits for one.
    let to_enrol = |mut request: http::Request<tonic::body::Body>| {
        *request.uri_mut() = http::Uri::from_static("/pitwall.v1.IdentityService/Enrol");
        request
    };
    let mut calls = JoinSet::new();
    for _ in 0..MANY {
        let mut api = SidecarServiceClient::new(MapRequest::new(channel.clone(), to_enrol));
        calls.spawn(async move {
            let answer = api.connect(tokio_stream::pending()).await;
            let status = answer.map(|_| ()).expect_err("nothing was asked");
            (status.code(), reason(&status))
        });
    }
    let began = Instant::now();
    let first = tokio::time::timeout(SOON * wait::SLACK, calls.join_next()).await.expect("there are too many");
    let told = first.expect("there are calls").expect("no panic");
    assert_eq!(told, (Code::ResourceExhausted, "CALLS_EXHAUSTED".to_owned()));
    look(&server.url, &operator).await.expect("an operator is let in");
    let logged = wait::until_sync("it is in the audit log", SOON, || {
        audit(&server.url, &["--refused"]).into_iter().find(|entry| entry.reason == "CALLS_EXHAUSTED")
    });
    assert_eq!((logged.who.as_str(), logged.call.as_str()), ("", "IdentityService/Enrol"));
    // Those that were let in end too.
    let rest = tokio::time::timeout(CALL_WITHIN * wait::SLACK, calls.join_all()).await.expect("they end");
    let late = rest.iter().filter(|told| **told == (Code::DeadlineExceeded, "CALL_TIMEOUT".to_owned())).count();
    assert!(late > 0 && late < MANY / 2, "{late} of {MANY} were let in");
    assert!(began.elapsed() < CALL_WITHIN * 2, "{:?}", began.elapsed());
}

/// Connections from another address of this machine, with nothing said on them.
async fn silent(server: SocketAddr, from: IpAddr) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..MANY {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(from, 0)).expect("all of 127.0.0.0/8 is this machine");
        held.push(socket.connect(server).await.expect("the kernel takes it"));
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_from_one_address_hold_nobody_else_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plan());
    let address = server.address().parse().expect("an address");
    let _held = silent(address, [127, 0, 0, 2].into()).await;
    let operator = server.data.join("identity/operator");
    let looked = look(&server.url, &operator);
    tokio::time::timeout(SOON, looked).await.expect("it is not behind them").expect("it is an operator");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_identity_has_its_share_of_streams_and_connections_and_no_more() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plan());
    let [ann, bob] = ["ann", "bob"].map(|name| create(dir.path(), &server.url, name, "viewer", &[]));
    let watch = async |channel: &Channel| {
        let answer = ControlServiceClient::new(channel.clone()).watch(v1::WatchRequest::default()).await;
        answer.map(tonic::Response::into_inner)
    };
    let channel = client::channel(&server.url, Some(&ann)).await;
    let mut streams = Vec::new();
    let refused = loop {
        match watch(&channel).await {
            Ok(stream) => streams.push(stream),
            Err(status) => break status,
        }
        assert!(streams.len() < MANY);
    };
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "STREAMS_EXHAUSTED"));
    watch(&client::channel(&server.url, Some(&bob)).await).await.expect("another has streams still");
    // Given back with the stream.
    streams.pop();
    wait::until("there is one place", SOON, || async { watch(&channel).await.ok() }).await;

    let mut connections = Vec::new();
    while let Ok(channel) = client::try_channel(&server.url, Some(&ann)).await {
        // The handshake is over before the server counts it.
        if ControlServiceClient::new(channel.clone()).get_situation(v1::GetSituationRequest::default()).await.is_err() {
            break;
        }
        connections.push(channel);
        assert!(connections.len() < MANY);
    }
    look(&server.url, &bob).await.expect("another connects still");
    let told = wait::until_sync("it is in the audit log", SOON, || {
        audit(&server.url, &["--refused"]).into_iter().find(|entry| entry.reason == "CONNECTIONS_EXHAUSTED")
    });
    assert_eq!((told.who.as_str(), told.call.as_str()), ("spiffe://pitwall/operator/viewer/ann", "connect"));
}

/// So that this directory's `changes.jsonl` cannot be written: it has to be put aside, and something is in the way.
fn fill(data: &Path) -> impl Fn() + use<> {
    let audit = data.join("audit");
    let file = fs::OpenOptions::new().write(true).open(audit.join("changes.jsonl")).expect("it is there");
    file.set_len(64 * 1024 * 1024).expect("it grows");
    let in_the_way: Vec<_> = (1..=4).map(|n| audit.join(format!("changes.{n}.jsonl"))).collect();
    for directory in &in_the_way {
        fs::create_dir_all(directory.join("x")).expect("it can be made");
    }
    move || in_the_way.iter().for_each(|directory| fs::remove_dir_all(directory).expect("it was made"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_written_down_is_not_done_but_access_ends() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plan());
    let operator = server.data.join("identity/operator");
    let ann = create(dir.path(), &server.url, "ann", "viewer", &[]);
    let channel = client::channel(&server.url, Some(&operator)).await;
    let mut identities = IdentityServiceClient::new(channel.clone());
    let token = || v1::CreateTokenRequest { agent: "writer".into(), ..Default::default() };

    // The records.
    let in_the_way = server.data.join("identity/.records.json.new");
    fs::create_dir_all(in_the_way.join("x")).expect("it can be made");
    let refused = identities.create_token(token()).await.expect_err("it cannot be kept");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "RECORDS_UNWRITABLE"));
    let revoke = v1::RevokeIdentityRequest { name: "ann".into() };
    let told = identities.revoke_identity(revoke.clone()).await.expect_err("it is not written");
    assert_eq!(reason(&told), "NOT_DURABLE");
    assert_eq!(reason(&look(&server.url, &ann).await.expect_err("it holds")), "CERTIFICATE_REVOKED");
    fs::remove_dir_all(&in_the_way).expect("it was made");
    let records = server.data.join("identity/records.json");
    wait::until_sync("it is written when that can be done", SOON, || {
        let text = fs::read_to_string(&records).expect("it is always there");
        let records: serde_json::Value = serde_json::from_str(&text).expect("it is whole");
        records["identities"]["spiffe://pitwall/operator/viewer/ann"]["revoked"].as_i64()
    });

    // The audit log.
    let empty = fill(&server.data);
    let command = v1::command_spec::Kind::Directive(v1::Directive { text: "hello".into(), ..Default::default() });
    let mut control = ControlServiceClient::new(channel);
    client::issue(&mut control, "writer", command.clone()).await.expect("only now is it known");
    for _ in 0..3 {
        let refused = client::issue(&mut control, "writer", command.clone()).await.expect_err("nothing is changed");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "AUDIT_UNWRITABLE"));
        // A read of the log is a write of what waits, which there is none of.
        audit(&server.url, &[]);
    }
    identities.revoke_identity(revoke).await.expect("that is never refused");
    empty();
    wait::until("changes are made again", SOON, || {
        let (mut control, command) = (control.clone(), command.clone());
        async move { client::issue(&mut control, "writer", command).await.ok() }
    })
    .await;
    let gap =
        audit(&server.url, &[]).into_iter().find(|entry| entry.reason == "AUDIT_UNWRITABLE" && entry.call == "audit");
    assert!(gap.expect("what is missing is told").what.starts_with("2 entries"));

    // Still so after a restart.
    let data = server.data.clone();
    drop(server);
    let server = Server::serve(&dir.path().join("plan.yaml"), &data, "127.0.0.1:0");
    assert_eq!(reason(&look(&server.url, &ann).await.expect_err("it was written later")), "CERTIFICATE_REVOKED");
}
