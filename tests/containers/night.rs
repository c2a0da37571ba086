//! The night in containers, by the one command that brings it up and the one that takes it down: the same findings as on a
//! laptop, and what helps, helps.
use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};

use pitwall_proto::v1::{self, AgentStatus, FindingKind, InterventionOutcome};
use pitwall_tests::{binaries, client, identities, wait};

use crate::{
    engine::{Compose, TAG, docker, have, proven, root},
    stack::{self, SOON},
};

struct Night {
    project: String,
    home: tempfile::TempDir,
    port: u16,
}

impl Night {
    fn run(&self, script: &str) -> Output {
        let script: PathBuf = root().join("deploy/night").join(script);
        Command::new(&script)
            .env("COMPOSE", "docker compose")
            .env("COMPOSE_PROJECT_NAME", &self.project)
            .env("DOCKER_BUILDKIT", "0")
            .env("PITWALL_IMAGE", format!("pitwall:{TAG}"))
            .env("PITWALL_SIDECAR_IMAGE", format!("pitwall-sidecar:{TAG}"))
            .env("PITWALL_NIGHT_IMAGE", format!("pitwall-night:{TAG}"))
            .env("PITWALL_SECRETS", self.home.path().join("secrets"))
            .env("PITWALL_PORT", self.port.to_string())
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", script.display()))
    }
}

impl Drop for Night {
    fn drop(&mut self) {
        let said = self.run("down.sh");
        if !said.status.success() {
            eprintln!("the night is not down: {}", identities::told(&said));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::await_holding_lock, reason = "one stack at a time is the point; each test has a runtime of its own")]
async fn the_night_in_containers_is_found_out_and_helped() {
    const TEST: &str = "the_night_in_containers_is_found_out_and_helped";
    if !have(TEST, Compose::Two) {
        return;
    }
    let _one = stack::one_at_a_time();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let night = Night {
        project: format!("pitwallnight{}", std::process::id()),
        home: tempfile::tempdir().expect("a folder"),
        port,
    };
    let began = Instant::now();
    let up = night.run("up.sh");
    assert!(up.status.success(), "{}", identities::told(&up));
    let up = began.elapsed();
    let url = format!("https://127.0.0.1:{port}");
    let operator = night.home.path().join("operator");
    let orchestrator = stack::container_of(&night.project, "orchestrator");
    docker(&["cp", &format!("{orchestrator}:/data/identity/operator"), operator.to_str().expect("UTF-8")]);
    binaries::introduce(&url, &operator);
    wait::until("the orchestrator answers", SOON, || async { client::try_channel(&url, Some(&operator)).await.ok() })
        .await;
    let api = client::connect(&url).await;

    let runaway = |s: &v1::Situation| client::finding(s, FindingKind::QuotaExceeded, "frontend/cpu")?.process.clone();
    let found = client::until(&api, "the night's findings", Duration::from_secs(30), |s| {
        let missing = |agent| client::finding(s, FindingKind::AgentMissing, agent).is_some();
        client::finding(s, FindingKind::MissingDeliverable, "backend/talents-api").is_some()
            && client::finding(s, FindingKind::Misdirected, "backend/talents-api").is_some()
            && missing("design")
            && missing("docs")
            && runaway(s).is_some_and(|p| p.name == "next-server")
            && client::status(s, "frontend") == AgentStatus::Blocked
            && client::status(s, "testing") == AgentStatus::Idle
    })
    .await;
    let process = runaway(&found).expect("just seen");
    let top = docker(&["top", &stack::container_of(&night.project, "frontend"), "-eo", "pid,comm"]);
    assert!(top.contains("next-server"), "{top}");

    let note = "create `app/api/talents/route.ts` first";
    identities::done(&url, &["tell", "backend", "--about", "talents-api", "--priority", "urgent", note]);
    identities::done(&url, &["kill", "frontend", "--pid", &process.pid.to_string()]);
    identities::done(&url, &["activate", "design"]);
    let helped = client::until(&api, "what helps, helps", Duration::from_secs(20), |s| {
        let effective = |kind: &str| {
            s.interventions.iter().any(|i| i.kind == kind && i.outcome() == InterventionOutcome::Effective)
        };
        effective("directive")
            && effective("kill")
            && effective("activate")
            && client::status(s, "frontend") == AgentStatus::Done
            && client::status(s, "design") == AgentStatus::Done
    })
    .await;
    assert!(!helped.blockers.iter().any(|b| b.root.as_ref().is_some_and(|r| r.agent == "backend")), "{helped:?}");
    let top = docker(&["top", &stack::container_of(&night.project, "frontend"), "-eo", "pid,comm"]);
    assert!(!top.contains("next-server"), "{top}");
    let project = night.project.clone();
    let began = Instant::now();
    drop(night);
    let left = docker(&["ps", "-aq", "--filter", &format!("label=com.docker.compose.project={project}")]);
    assert_eq!(left, "");
    proven(
        "the night in containers",
        TEST,
        &format!(
            "up {:.1} s, down {:.1} s; docker top frontend without next-server: {}",
            up.as_secs_f64(),
            began.elapsed().as_secs_f64(),
            top.lines().skip(1).collect::<Vec<_>>().join(", ")
        ),
    );
}
