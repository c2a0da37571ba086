//! What these tests share: a plan, servers in this process or as the real binary, a sidecar that is only its stream,
//! and skips that are told.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
pub mod peer;
pub mod process;
pub mod stores;

use std::{env, fs, future::Future, io::Write as _, path::Path, time::Duration};

use pitwall::serve::{Config, Server};
use pitwall_proto::v1::{self, control_service_client::ControlServiceClient};
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

/// Beyond a deadline that the product itself sets, on a busy machine.
pub const SLACK: Duration = Duration::from_secs(20);

pub const PLAN: &str = "\
project: shell
windows: { heartbeat_every: 1s, start_grace: 5s, command_expiry: 60s, result_grace: 5s }
defaults: { expected_within: 60s }
agents:
  backend:
    deliverables:
      talents-api: { checks: [ { file: { path: app/route.ts } } ] }
  frontend:
    deliverables:
      page: { needs: [backend/talents-api], checks: [ { file: { path: app/page.tsx } } ] }
";

pub fn config(dir: &Path) -> Config {
    let plan = dir.join("plan.yaml");
    fs::write(&plan, PLAN).unwrap();
    Config {
        plan,
        data: dir.join("data"),
        listen: "127.0.0.1:0".parse().unwrap(),
        insecure: true,
        names: Vec::new(),
        lives: pitwall::identity::keeper::Lives::default(),
        until_stdin_eof: false,
    }
}

pub async fn serve(dir: &Path) -> Server {
    Server::start(&config(dir)).await.unwrap()
}

pub async fn operator(url: &str) -> ControlServiceClient<Channel> {
    let channel = Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
    ControlServiceClient::new(channel).max_decoding_message_size(64 * 1024 * 1024)
}

/// A directive, which waits in the ledger where no sidecar is there.
pub fn tell(agent: &str, text: &str, key: &str) -> v1::IssueCommandRequest {
    let directive = v1::Directive { text: text.into(), ..Default::default() };
    v1::IssueCommandRequest {
        agent: agent.into(),
        spec: Some(v1::CommandSpec { kind: Some(v1::command_spec::Kind::Directive(directive)) }),
        idempotency_key: key.into(),
        origin: "test".into(),
        ..Default::default()
    }
}

pub fn reason(status: &tonic::Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// Asks until the answer is there.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut seen: impl FnMut() -> F) -> T {
    let end = tokio::time::Instant::now() + SLACK;
    loop {
        if let Some(seen) = seen().await {
            return seen;
        }
        assert!(tokio::time::Instant::now() < end, "not seen in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Fails instead of hanging.
pub async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SLACK, happens).await {
        Ok(happened) => happened,
        Err(_) => panic!("not seen in time: {what}"),
    }
}

/// The surroundings of a test are not there: told, and a failure where they are required.
pub fn skip(test: &str, surrounding: &str, why: &str) {
    let required = env::var("PITWALL_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|r| r.trim() == surrounding), "{test} needs {surrounding}: {why}");
    println!("skipped {test}: {why}");
    if let Ok(path) = env::var("PITWALL_SKIPS") {
        let file = fs::OpenOptions::new().append(true).create(true).open(path);
        writeln!(file.unwrap(), "{test}: needs {surrounding}: {why}").unwrap();
    }
}
