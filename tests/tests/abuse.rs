//! Whoever has an identity and means ill: each attack is bounded in memory, ends with a reason where there is somebody to
//! tell it to, and beside it an honest sidecar goes on and a kill gets through.
use std::{net::SocketAddr, path::Path, time::Duration};

use pitwall_proto::v1::{self, control_service_client::ControlServiceClient};
use pitwall_tests::{
    audit::Journal,
    binaries::Server,
    client,
    fake::Fake,
    honest::{self, Honest},
    identities,
    memory::Bound,
    raw, wait,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tonic::{Code, Status, codegen::http};

const SOON: Duration = Duration::from_secs(3);
/// What the product promises for a handshake that does not come.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;
const CONNECT: &str = "/pitwall.v1.SidecarService/Connect";

struct Stage {
    dir: tempfile::TempDir,
    server: Server,
    honest: Honest,
    noisy: Fake,
}

impl Stage {
    async fn set() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let server = Server::start(dir.path(), &honest::plan());
        let honest = Honest::start(dir.path(), &server).await;
        let noisy = Fake::of(dir.path(), &server, "noisy").await;
        Self { dir, server, honest, noisy }
    }

    fn bound(&self, what: &'static str, mib: u64) -> Bound {
        Bound::of(self.server.process.pid(), what, mib * MIB)
    }

    fn identity(&self) -> std::path::PathBuf {
        identities::of_sidecar(self.dir.path(), "noisy")
    }

    /// Says so much of this for each stream on a connection of its own, until it is cut off or has said all; whether it was.
    async fn pour(&self, identity: &Path, streams: u32, what: impl Fn(u32) -> Vec<u8>) -> bool {
        let (mut hears, mut says) = tokio::io::split(raw::connect(self.server.address(), identity).await);
        // Whoever does not listen would be stopped by that alone.
        let hearing = tokio::spawn(async move {
            let mut heard = [0; 4_096];
            while hears.read(&mut heard).await.is_ok_and(|heard| heard > 0) {}
        });
        let saying = async {
            says.write_all(&raw::preface()).await?;
            for n in 0..streams {
                says.write_all(&what(2 * n + 1)).await?;
            }
            says.flush().await
        };
        let said = timeout(SOON * wait::SLACK, saying).await;
        let ended = timeout(Duration::from_secs(1), hearing).await.is_ok();
        ended || !matches!(said, Ok(Ok(())))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_end_their_connection_and_nothing_else() {
    let stage = Stage::set().await;
    let bound = stage.bound("rapid resets", 32);
    let identity = stage.identity();
    for _ in 0..4 {
        let given_up = |stream| [raw::call(stream, CONNECT), raw::reset(stream)].concat();
        let cut_off = stage.pour(&identity, 20_000, given_up).await;
        println!("cut off: {cut_off}");
        assert!(cut_off, "it takes any number of them");
    }
    stage.honest.is_killed().await;
    bound.holds();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_streams_on_one_connection_are_refused_beyond_a_share() {
    let stage = Stage::set().await;
    let bound = stage.bound("thousands of streams", 32);
    let identity = stage.identity();
    let cut_off = stage.pour(&identity, 10_000, |stream| raw::call(stream, CONNECT)).await;
    println!("cut off: {cut_off}");
    stage.honest.is_killed().await;
    bound.holds();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_hellos_is_held_to_a_pace_and_does_not_fill_the_journal() {
    const HELLOS: usize = 300;
    let mut stage = Stage::set().await;
    let bound = stage.bound("hellos", 32);
    let (mut taken, mut refused) = (0, None);
    for _ in 0..HELLOS {
        match stage.noisy.connect().await {
            Ok(_) => taken += 1,
            Err(told) => refused = Some(told),
        }
    }
    let refused = refused.expect("there is a limit");
    assert_eq!((refused.code(), identities::reason(&refused).as_str()), (Code::ResourceExhausted, "STREAMS_TOO_OFTEN"));
    println!("{taken} of {HELLOS} hellos were taken");
    stage.honest.is_killed().await;
    bound.holds();
    let data = stage.server.data.clone();
    stage.server.process.kill();
    let lives = Journal::read(&data).lives("noisy");
    assert!(lives < HELLOS / 2, "{lives} lives are in the journal");
}

/// One message of these bytes, and the answer to it.
async fn say(stage: &Stage, bytes: Vec<u8>) -> Result<Vec<u8>, Status> {
    let mut grpc = tonic::client::Grpc::new(stage.noisy.channel.clone());
    grpc.ready().await.expect("it is connected");
    let path = http::uri::PathAndQuery::from_static(CONNECT);
    let request = tonic::Request::new(tokio_stream::once(bytes));
    let mut answers = grpc.streaming(request, path, raw::Bytes).await?.into_inner();
    let answer = timeout(SOON * wait::SLACK, answers.message()).await.expect("it is answered")?;
    answer.ok_or_else(|| Status::unknown("it ended without a word"))
}

/// Groups inside each other, which a reader has to follow to skip them.
fn nested(depth: usize) -> Vec<u8> {
    // Field 99 as a group, which this version does not have.
    let (begins, ends) = ([0x9b, 0x06], [0x9c, 0x06]);
    [begins.repeat(depth), ends.repeat(depth)].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversize_and_deeply_nested_messages_are_refused_with_the_reason() {
    let stage = Stage::set().await;
    let bound = stage.bound("oversize and nested", 48);
    for _ in 0..4 {
        let told = say(&stage, vec![0; 5 * MIB as usize]).await.expect_err("it is too large");
        assert_eq!(identities::reason(&told), "MESSAGE_TOO_LARGE", "{told:?}");
    }
    let told = say(&stage, nested(500_000)).await.expect_err("it is nested too deeply");
    assert_eq!(identities::reason(&told), "MESSAGE_MALFORMED", "{told:?}");

    // A plan, which is text of another kind.
    let mut operator = stage.honest.client.clone();
    for (opens, closes) in [("[", "]"), ("{a: ", "}"), ("- ", "")] {
        let yaml = format!("project: e2e\nagents: {}{}", opens.repeat(100_000), closes.repeat(100_000));
        let request = v1::ApplyPlanRequest { plan_yaml: yaml, ..Default::default() };
        let told = operator.apply_plan(request).await.expect_err("it is no plan");
        assert_eq!(told.code(), Code::InvalidArgument, "{told:?}");
    }
    // And what an agent says of itself.
    let folder = stage.dir.path().join("writer/workspace/.pitwall");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("claim.json"), "[".repeat(60_000)).expect("a claim");
    stage.honest.is_killed().await;
    bound.holds();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_trickle_in_are_ended_in_time_and_hold_nobody_up() {
    let stage = Stage::set().await;
    let bound = stage.bound("slow handshakes", 32);
    let server: SocketAddr = stage.server.address().parse().expect("an address");
    let mut slow = Vec::new();
    for n in 0..60 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 3], 0))).expect("all of 127.0.0.0/8 is this machine");
        slow.push((n, socket.connect(server).await.expect("the kernel takes it")));
    }
    let ended = slow.into_iter().map(|(_, stream)| tokio::spawn(trickle(stream)));
    let ended: Vec<_> = ended.collect();
    let identity = pitwall_tests::binaries::operator(&stage.server.url);
    let channel = client::channel(&stage.server.url, identity.as_deref());
    let channel = timeout(SOON, channel).await.expect("it is not behind them");
    let asked = ControlServiceClient::new(channel).get_situation(v1::GetSituationRequest::default()).await;
    asked.expect("it is an operator");
    for handshake in ended {
        timeout(HANDSHAKE_WITHIN * wait::SLACK, handshake).await.expect("it is ended").expect("no panic");
    }
    stage.honest.is_killed().await;
    bound.holds();
}

/// A hello of TLS, a byte at a time, until the other side has had enough.
async fn trickle(mut stream: TcpStream) {
    let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 400]].concat();
    for byte in hello {
        if stream.write_all(&[byte]).await.is_err() {
            return;
        }
        let mut heard = [0; 64];
        if let Ok(Ok(0) | Err(_)) = timeout(Duration::from_millis(200), stream.read(&mut heard)).await {
            return;
        }
    }
}
