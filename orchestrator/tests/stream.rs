//! The sidecar's stream over the wire: what ends it, with which reason, and what does not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod support;

use std::time::Duration;

use pitwall_proto::v1::{self, connect_request::Body as Said, connect_response::Body};
use prost::bytes::{Buf, BufMut};
use support::{SLACK, operator, peer::Peer, reason, serve, soon, tell};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{
    Code, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

#[tokio::test]
async fn a_stream_without_a_hello_is_ended_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let mut peer = Peer::silent(&server.url()).await;
    let ended = peer.end().await;
    assert_eq!((ended.code(), reason(&ended)), (Code::DeadlineExceeded, "HELLO_TIMEOUT".into()));
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn the_first_message_is_a_hello_and_only_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let mut peer = Peer::silent(&server.url()).await;
    peer.say(Said::Heartbeat(v1::Heartbeat::default())).await;
    let ended = peer.end().await;
    assert_eq!((ended.code(), reason(&ended)), (Code::InvalidArgument, "HELLO_MISSING".into()));

    let (mut peer, _) = Peer::welcomed(&server.url(), "backend", "i1").await;
    peer.say(Said::Hello(support::peer::hello("backend", "i1"))).await;
    let ended = peer.end().await;
    assert_eq!((ended.code(), reason(&ended)), (Code::InvalidArgument, "HELLO_AGAIN".into()));
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn an_unknown_agent_or_project_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let ended = Peer::hello(&server.url(), "bakend", "i1").await.end().await;
    assert_eq!((ended.code(), reason(&ended)), (Code::NotFound, "AGENT_UNKNOWN".into()));
    let mut peer = Peer::silent(&server.url()).await;
    peer.say(Said::Hello(v1::Hello { project: "other".into(), ..support::peer::hello("backend", "i1") })).await;
    let ended = peer.end().await;
    assert_eq!((ended.code(), reason(&ended)), (Code::NotFound, "PROJECT_UNKNOWN".into()));
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn a_second_instance_is_refused_and_the_same_instance_again_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let (mut first, welcome) = Peer::welcomed(&server.url(), "backend", "i1").await;
    let ended = Peer::hello(&server.url(), "backend", "i2").await.end().await;
    assert_eq!((ended.code(), reason(&ended)), (Code::AlreadyExists, "SECOND_INSTANCE".into()));
    let (mut second, again) = Peer::welcomed(&server.url(), "backend", "i1").await;
    assert_ne!(again.session, welcome.session);
    let ended = first.end().await;
    assert_eq!((ended.code(), reason(&ended)), (Code::Aborted, "SESSION_SUPERSEDED".into()));
    second.claim(1, "still here").await;
    assert_eq!(second.hears_fact_ack().await.unwrap(), 1);
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn messages_are_numbered_and_acknowledged_and_an_unknown_one_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let (mut peer, _) = Peer::welcomed(&server.url(), "backend", "i1").await;
    peer.say_maybe(None).await;
    let answer = peer.hears().await.unwrap();
    assert_eq!(answer.seq, 2);
    match answer.body {
        Some(Body::Unsupported(unsupported)) => assert_eq!(unsupported.seq, 2),
        other => panic!("not answered: {other:?}"),
    }
    peer.claim(1, "goes on").await;
    assert_eq!(peer.hears_fact_ack().await.unwrap(), 1);
    peer.claim(2, "and on").await;
    let later = peer.hears().await.unwrap();
    assert!(later.ack >= 3, "message 3 was processed before this one was answered: {later:?}");
    // A number that does not grow is a broken rule.
    peer.out.send(v1::ConnectRequest { seq: 2, ack: 0, body: None }).await.unwrap();
    assert_eq!(reason(&peer.end().await), "SEQUENCE_BROKEN");
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn oversized_message_is_out_of_range() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let (mut peer, welcome) = Peer::welcomed(&server.url(), "backend", "i1").await;
    peer.claim(1, &"x".repeat(welcome.max_message_bytes as usize + 1)).await;
    let ended = peer.end().await;
    assert_eq!((ended.code(), reason(&ended)), (Code::OutOfRange, "MESSAGE_TOO_LARGE".into()));
    // Just this stream: the same sidecar may come back, an operator is not disturbed.
    let (mut peer, _) = Peer::welcomed(&server.url(), "backend", "i1").await;
    peer.claim(1, "small").await;
    assert_eq!(peer.hears_fact_ack().await.unwrap(), 1);
    let mut client = operator(&server.url()).await;
    let refused = client.issue_command(tell("backend", &"x".repeat(3 * 1024 * 1024), "k")).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let refused = client.issue_command(tell("backend", &"x".repeat(100_000), "k")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn malformed_messages_end_their_stream_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let channel = tonic::transport::Channel::from_shared(server.url()).unwrap().connect().await.unwrap();
    for garbage in [&b"\xff\xff\xff\xff"[..], b"\x52\x7f", b"\x0a"] {
        let mut raw = tonic::client::Grpc::new(channel.clone());
        raw.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/pitwall.v1.SidecarService/Connect");
        let request = tonic::Request::new(tokio_stream::iter([garbage.to_vec()]));
        let mut answers = raw.streaming(request, path, Raw).await.unwrap().into_inner();
        let ended = soon("the end of the stream", answers.message()).await.unwrap_err();
        assert_eq!((ended.code(), reason(&ended)), (Code::InvalidArgument, "MESSAGE_MALFORMED".into()), "{garbage:?}");
    }
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn malformed_frames_cost_their_connection_only() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let (mut peer, _) = Peer::welcomed(&server.url(), "backend", "i1").await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let attacks: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0; 64],
        &[&preface[..], &[0xff; 64]].concat(),
        // A settings frame, then a data frame on a stream that was never opened.
        &[&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 0, 1, 0, 0, 0, 0, 0, 9, 1]].concat(),
    ];
    for attack in attacks {
        let mut socket = tokio::net::TcpStream::connect(server.address()).await.unwrap();
        socket.write_all(attack).await.unwrap();
        let mut rest = Vec::new();
        // Closed by the server, with or without saying why.
        let _ = soon("the end of the connection", socket.read_to_end(&mut rest)).await;
    }
    peer.claim(1, "undisturbed").await;
    assert_eq!(peer.hears_fact_ack().await.unwrap(), 1);
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn a_drain_tells_sidecars_to_come_back_and_ends_in_time_with_streams_open() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let url = server.url();
    let (mut peer, _) = Peer::welcomed(&url, "backend", "i1").await;
    let _never_says_hello = Peer::silent(&url).await;
    let mut client = operator(&url).await;
    let mut watch = client.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    // Opened and never read.
    let _unread = client.watch(v1::WatchRequest::default()).await.unwrap();
    let begun = std::time::Instant::now();
    let draining = tokio::spawn(server.drain("a test"));
    let away = loop {
        match peer.hears().await.unwrap().body {
            Some(Body::GoAway(away)) => break away,
            _ => continue,
        }
    };
    assert_eq!(away.reason, "a test");
    assert!(away.reconnect_within_ms > 0);
    assert_eq!(reason(&peer.end().await), "SHUTTING_DOWN");
    let ended = loop {
        if let Err(ended) = soon("the end of the watch", watch.message()).await {
            break ended;
        }
    };
    assert_eq!((ended.code(), reason(&ended)), (Code::Unavailable, "SHUTTING_DOWN".into()));
    soon("the end of the server", draining).await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10) + SLACK);
    // The directory is free again, and so is the port.
    let server = serve(dir.path()).await;
    server.drain("test").await.unwrap();
}

/// Bytes as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; from.remaining()];
        from.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}
