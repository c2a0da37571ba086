//! Work is verified, not believed: files, placeholders, claims, deletions, a workspace that comes and goes.
use std::{fs, path::PathBuf, time::Duration};

use pitwall_proto::v1::{AgentStatus, DeliverableStatus, FindingKind};
use pitwall_tests::{
    binaries::{self, Running, Server},
    client::{self, Client},
    plans,
};

/// `every` plus `hysteresis` plus a heartbeat of the plan, rounded up.
const SEEN_WITHIN: Duration = Duration::from_secs(2);
const FINISHED: &str = "export default function Page() { return null }\n";

struct Bench {
    _server: Server,
    _sidecar: Running,
    dir: tempfile::TempDir,
    client: Client,
}

impl Bench {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let server = Server::start(dir.path(), &plans::writer());
        let sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
        let client = client::connect(&server.url).await;
        client::until(&client, "the agent is active", Duration::from_secs(5), |s| {
            client::status(s, "writer") == AgentStatus::Active
        })
        .await;
        Self { _server: server, _sidecar: sidecar, dir, client }
    }

    fn workspace(&self) -> PathBuf {
        self.dir.path().join("writer/workspace")
    }

    fn page(&self) -> PathBuf {
        self.workspace().join("app/page.tsx")
    }

    fn write(&self, text: &str) {
        fs::create_dir_all(self.workspace().join("app")).expect("the folder can be made");
        fs::write(self.page(), text).expect("the page can be written");
    }

    async fn until(&self, status: DeliverableStatus) -> pitwall_proto::v1::Situation {
        client::until(&self.client, &format!("the page is {status:?}"), SEEN_WITHIN, |s| {
            client::deliverable(s, "writer", "page").status() == status
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_file_is_verified_with_its_evidence() {
    let bench = Bench::start().await;
    bench.write(FINISHED);
    let situation = bench.until(DeliverableStatus::Verified).await;
    let evidence = client::deliverable(&situation, "writer", "page").checks[0].evidence.clone().expect("evidence");
    assert_eq!(evidence.size_bytes, Some(FINISHED.len() as u64));
    assert_eq!(evidence.digest.len(), 64, "a BLAKE3 digest in hex: {evidence:?}");
    client::until(&bench.client, "the agent is done", SEEN_WITHIN, |s| {
        client::status(s, "writer") == AgentStatus::Done && s.verified == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_placeholder_file_does_not_count() {
    let bench = Bench::start().await;
    bench.write("// TODO\nexport default function Page() {}\n");
    let situation = client::until(&bench.client, "the placeholder is seen", SEEN_WITHIN, |s| {
        let checks = &client::deliverable(s, "writer", "page").checks;
        checks[0].evidence.as_ref().is_some_and(|e| e.summary.contains("TODO"))
    })
    .await;
    let page = client::deliverable(&situation, "writer", "page");
    assert_ne!(page.status(), DeliverableStatus::Verified);
    assert_eq!(page.verified, 0.0);
    bench.write(FINISHED);
    bench.until(DeliverableStatus::Verified).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_100_percent_moves_nothing() {
    let bench = Bench::start().await;
    let folder = bench.workspace().join(".pitwall");
    fs::create_dir_all(&folder).expect("the folder can be made");
    fs::write(folder.join("claim.json"), r#"{"progress": 1.0, "text": "all done", "deliverables": {"page": 1.0}}"#)
        .expect("the claim can be written");
    let situation = client::until(&bench.client, "the claim is shown", SEEN_WITHIN, |s| {
        client::agent(s, "writer").claimed == Some(1.0)
    })
    .await;
    assert_eq!(client::agent(&situation, "writer").verified, 0.0);
    assert_eq!(situation.verified, 0.0);
    assert_eq!(client::status(&situation, "writer"), AgentStatus::Active);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verified_file_that_is_deleted_has_regressed() {
    let bench = Bench::start().await;
    bench.write(FINISHED);
    bench.until(DeliverableStatus::Verified).await;
    fs::remove_file(bench.page()).expect("it was there");
    let situation = bench.until(DeliverableStatus::Regressed).await;
    assert!(client::finding(&situation, FindingKind::DeliverableRegressed, "writer/page").is_some(), "{situation:#?}");
    assert_eq!(situation.verified, 0.0);
    bench.write(FINISHED);
    let situation = bench.until(DeliverableStatus::Verified).await;
    assert!(client::finding(&situation, FindingKind::DeliverableRegressed, "writer/page").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspace_that_comes_later_is_deleted_and_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plans::writer());
    let workspace = dir.path().join("not-yet/workspace");
    let path = workspace.to_str().expect("UTF-8").to_owned();
    let _sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--workspace", &path, "--", "sleep", "600"]);
    let client = client::connect(&server.url).await;
    let absent =
        |s: &pitwall_proto::v1::Situation| client::finding(s, FindingKind::WorkspaceAbsent, "writer").is_some();
    client::until(&client, "the workspace is told absent", SEEN_WITHIN, absent).await;

    let write = || {
        fs::create_dir_all(workspace.join("app")).expect("the folder can be made");
        fs::write(workspace.join("app/page.tsx"), FINISHED).expect("the page can be written");
    };
    write();
    let verified = |s: &pitwall_proto::v1::Situation| {
        client::deliverable(s, "writer", "page").status() == DeliverableStatus::Verified && !absent(s)
    };
    client::until(&client, "the page is verified", SEEN_WITHIN, verified).await;

    fs::remove_dir_all(&workspace).expect("it was there");
    client::until(&client, "it is told absent, and nothing is green", SEEN_WITHIN, |s| {
        absent(s) && client::deliverable(s, "writer", "page").status() != DeliverableStatus::Verified
    })
    .await;
    write();
    client::until(&client, "the page is verified again", SEEN_WITHIN, verified).await;
}
