//! The real binary: killed in the middle, and asked to end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod support;

use std::time::Duration;

use pitwall_proto::v1;
use support::{
    config, operator,
    peer::Peer,
    process::{Serving, serve_command},
    reason, soon, tell,
};

/// Issues commands until the server is gone; answers with those that were acknowledged.
async fn issue_until_gone(url: &str, round: usize) -> Vec<String> {
    let mut client = operator(url).await;
    let mut acknowledged = Vec::new();
    for n in 0..100_000 {
        match client.issue_command(tell("backend", "go", &format!("{round}-{n}"))).await {
            Ok(answer) => acknowledged.push(answer.into_inner().command.unwrap().id),
            Err(_) => break,
        }
    }
    acknowledged
}

/// Sends facts until the server is gone; answers with the last that was acknowledged.
async fn claim_until_gone(url: &str) -> u64 {
    let (mut peer, _) = Peer::welcomed(url, "frontend", "i1").await;
    let mut acknowledged = 0;
    for n in 1..100_000 {
        peer.claim(n, &format!("step {n}")).await;
        match peer.hears_fact_ack().await {
            Ok(seq) => acknowledged = seq,
            Err(_) => break,
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let mut commands: Vec<String> = Vec::new();
    let mut claims = 0;
    let mut lineage = String::new();
    let mut epoch = 0;
    for round in 0..3 {
        let mut serving = Serving::start(&config.plan, &config.data);
        let mut client = operator(&serving.url).await;
        // Everything of the rounds before is there, each once.
        let request = v1::ListCommandsRequest { limit: 1_000, ..Default::default() };
        let listed = client.list_commands(request).await.unwrap().into_inner().commands;
        let mut ids: Vec<&String> = listed.iter().map(|c| &c.id).collect();
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all);
        for command in &commands {
            assert!(ids.contains(&command), "command {command} was acknowledged and is lost");
        }
        let (peer, welcome) = Peer::welcomed(&serving.url, "frontend", "i1").await;
        assert!(welcome.fact_acked >= claims, "fact {claims} was acknowledged and is lost");
        assert!(welcome.epoch > epoch);
        assert!(round == 0 || welcome.lineage == lineage);
        (lineage, epoch) = (welcome.lineage, welcome.epoch);
        drop(peer);

        let url = serving.url.clone();
        let issuing = tokio::spawn({
            let url = url.clone();
            async move { issue_until_gone(&url, round).await }
        });
        let claiming = tokio::spawn(async move { claim_until_gone(&url).await });
        let mut watch = client.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
        for _ in 0..40 {
            soon("changes before the kill", watch.message()).await.unwrap().unwrap();
        }
        serving.kill();
        commands.extend(soon("the end of the commands", issuing).await.unwrap());
        claims = claims.max(soon("the end of the claims", claiming).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_to_end_it_ends_in_time_with_streams_open() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let mut serving = Serving::start(&config.plan, &config.data);
    assert!(serving.line.starts_with("pitwall: serving shell on http://127.0.0.1:"), "{}", serving.line);
    assert!(serving.line.contains("lineage") && serving.line.contains("epoch"), "{}", serving.line);
    let (mut peer, _) = Peer::welcomed(&serving.url, "backend", "i1").await;
    let mut client = operator(&serving.url).await;
    let _unread = client.watch(v1::WatchRequest::default()).await.unwrap();
    let _silent = Peer::silent(&serving.url).await;
    serving.terminate();
    assert_eq!(reason(&peer.end().await), "SHUTTING_DOWN");
    let status = serving.ended_within(Duration::from_secs(10));
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_in_time_though_a_stream_is_stalled_and_loses_nothing_that_it_promised() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let mut serving = Serving::start(&config.plan, &config.data);
    let (stalled, _) = Peer::welcomed(&serving.url, "backend", "i1").await;
    let mut client = operator(&serving.url).await;
    // More than the window of a stream that nobody reads: the server's end of it waits.
    let mut promised = Vec::new();
    for n in 0..8 {
        let request = tell("backend", &"x".repeat(60_000), &n.to_string());
        promised.push(client.issue_command(request).await.unwrap().into_inner().command.unwrap().id);
    }
    serving.terminate();
    let status = serving.ended_within(Duration::from_secs(10));
    assert!(status.success(), "{status}");
    drop(stalled);
    let serving = Serving::start(&config.plan, &config.data);
    let mut client = operator(&serving.url).await;
    let listed = client.list_commands(v1::ListCommandsRequest::default()).await.unwrap().into_inner().commands;
    for id in promised {
        assert!(listed.iter().any(|c| c.id == id), "{id} was promised and is lost");
    }
}

#[test]
fn it_ends_with_standard_input_where_it_was_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let mut command = serve_command(&config.plan, &config.data, "127.0.0.1:0");
    command.arg("--until-stdin-eof");
    // Which is at its end already.
    let mut serving = Serving::spawn(command);
    let status = serving.ended_within(Duration::from_secs(10));
    assert!(status.success(), "{status}");
}

#[test]
fn what_is_refused_exits_by_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let run = |listen: &str| serve_command(&config.plan, &config.data, listen).output().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = run(&taken.local_addr().unwrap().to_string());
    assert_eq!(in_use.status.code(), Some(1));
    let told = String::from_utf8_lossy(&in_use.stderr).into_owned();
    assert!(told.contains("is in use") && told.contains("--listen"), "{told}");
    assert_eq!(run("0.0.0.0:0").status.code(), Some(2));
    std::fs::write(&config.plan, "project: x\nagnets: {}\n").unwrap();
    let wrong = run("127.0.0.1:0");
    assert_eq!(wrong.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("agnets"));
}

#[test]
fn a_second_one_is_told_who_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let serving = Serving::start(&config.plan, &config.data);
    let second = serve_command(&config.plan, &config.data, "127.0.0.1:0").output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(told.contains(&format!("(pid {})", serving.pid())), "{told}");
}
