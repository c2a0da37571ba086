//! Compose itself: both versions bring the example up and take it down without a trace, and what `compose print` says fits
//! beside somebody else's file.
use std::{fs, process::Command, time::Instant};

use pitwall_proto::v1::{AgentStatus, SidecarStatus};
use pitwall_tests::{binaries, client};

use crate::{
    engine::{self, Compose, docker, done, have, have_cgroup1, proven, root},
    stack::{SOON, Stack},
};

async fn up_and_down(test: &str, compose: Compose, more: &[&str]) {
    let began = Instant::now();
    let stack = Stack::up(compose, more).await;
    let up = began.elapsed();
    stack
        .until("all three sidecars are live", SOON * 2, |s| {
            s.agents.iter().all(|a| a.sidecar() == SidecarStatus::Live)
                && client::status(s, "design") == AgentStatus::Expected
                && client::agent(s, "frontend").verified > 0.0
        })
        .await;
    let project = stack.project.clone();
    let containers =
        docker(&["ps", "-q", "--filter", &format!("label=com.docker.compose.project={project}")]).lines().count();
    assert_eq!(containers, 10);
    let began = Instant::now();
    drop(stack);
    let down = began.elapsed();
    let label = format!("label=com.docker.compose.project={project}");
    for (what, args) in [
        ("container", vec!["ps", "-aq", "--filter", &label]),
        ("volume", vec!["volume", "ls", "-q", "--filter", &label]),
        ("network", vec!["network", "ls", "-q", "--filter", &label]),
    ] {
        assert_eq!(docker(&args), "", "no {what} is left");
    }
    let version = compose.version().expect("it answered before");
    proven(
        "both compose versions",
        test,
        &format!(
            "{version}: up {:.1} s, down {:.1} s, {containers} containers, nothing left",
            up.as_secs_f64(),
            down.as_secs_f64()
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_compose_1_brings_the_example_up_and_leaves_nothing() {
    const TEST: &str = "docker_compose_1_brings_the_example_up_and_leaves_nothing";
    if have(TEST, Compose::One) {
        up_and_down(TEST, Compose::One, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_compose_2_brings_the_example_up_and_leaves_nothing() {
    const TEST: &str = "docker_compose_2_brings_the_example_up_and_leaves_nothing";
    if !have(TEST, Compose::Two) || !have_cgroup1(TEST) {
        return;
    }
    up_and_down(TEST, Compose::Two, &["deploy/compose.cgroup1.yaml"]).await;
    let left = engine::remove_cgroup_folders();
    assert!(left.contains("No such file"), "{left}");
    proven("down leaves nothing, cgroup folders by the line in README", TEST, &left);
}

#[test]
fn every_file_is_understood_by_both_versions() {
    const TEST: &str = "every_file_is_understood_by_both_versions";
    for compose in [Compose::One, Compose::Two] {
        if !have(TEST, compose) {
            continue;
        }
        for more in ["local", "cgroup1", "cgroup2", "gpu", "remote"] {
            let more = format!("deploy/compose.{more}.yaml");
            let mut command = compose.command();
            command.current_dir(root()).args(["-f", "deploy/compose.yaml", "-f", &more, "config"]);
            command.env("PITWALL_REMOTE_NAME", "pitwall.example").env("PITWALL_REMOTE_ADDRESS", "192.0.2.7");
            let merged = done(&mut command);
            assert!(merged.contains("backend-sidecar"), "{more}: {merged}");
            let file = tempfile::NamedTempFile::new().expect("a file");
            fs::write(file.path(), &merged).expect("written");
            // Also as the two versions merge and write it, nothing is wrong with it.
            let mut check = Command::new(binaries::path("pitwall"));
            done(check.args(["compose", "check"]).arg(file.path()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_printed_fits_beside_somebody_elses_file() {
    const TEST: &str = "what_is_printed_fits_beside_somebody_elses_file";
    for compose in [Compose::One, Compose::Two] {
        if !have(TEST, compose) {
            continue;
        }
        let home = tempfile::tempdir().expect("a folder");
        let path = |name: &str| home.path().join(name);
        let plan =
            "project: foreign\nagents:\n  worker: { deliverables: { report: { checks: [ { file: report.txt } ] } } }\n";
        fs::write(path("plan.yaml"), plan).expect("written");
        let printed = done(Command::new(binaries::path("pitwall")).args(["compose", "print", "--service", "worker"]));
        fs::write(path("pitwall-worker.yml"), &printed).expect("written");
        fs::copy(root().join("tests/containers/foreign.yml"), path("docker-compose.yml")).expect("copied");
        let stack = foreign::Foreign {
            home: home.path().to_owned(),
            compose,
            project: format!("pitwallforeign{}", std::process::id()),
        };
        // The secrets that the printed file names.
        fs::create_dir(path("secrets")).expect("made");
        done(
            stack
                .command()
                .args(["run", "--rm", "-T", "--user", "0:0", "-v"])
                .arg(format!("{}:/secrets", path("secrets").display()))
                .args(["hub", "setup", "--secrets", "/secrets"]),
        );
        done(stack.command().args(["up", "-d"]));
        let hub = stack.container("hub");
        let verified = pitwall_tests::wait::until_sync("the foreign service is verified", SOON * 2, || {
            let (_, said) = engine::tried(&["exec", &hub, "/usr/local/bin/pitwall", "status"]);
            said.contains("DONE").then_some(said)
        });
        let row = verified.lines().find(|l| l.starts_with("worker")).expect("its row").to_owned();
        proven("compose print pasted beside a foreign file", TEST, &format!("{compose:?}: {row}"));
    }
}

mod foreign {
    use std::{path::PathBuf, process::Command};

    use crate::engine::{Compose, TAG, docker};

    pub struct Foreign {
        pub home: PathBuf,
        pub compose: Compose,
        pub project: String,
    }

    impl Foreign {
        pub fn command(&self) -> Command {
            let mut command = self.compose.command();
            command.current_dir(&self.home).args([
                "-p",
                &self.project,
                "-f",
                "docker-compose.yml",
                "-f",
                "pitwall-worker.yml",
            ]);
            command
                .env("PITWALL_IMAGE", format!("pitwall:{TAG}"))
                .env("PITWALL_SIDECAR_IMAGE", format!("pitwall-sidecar:{TAG}"))
                .env("PITWALL_AGENT_IMAGE", format!("pitwall-example-agent:{TAG}"))
                .env("FOREIGN_PLAN", self.home.join("plan.yaml"))
                .env("PITWALL_PORT", "0");
            command
        }

        pub fn container(&self, service: &str) -> String {
            let [project, service] = [("project", self.project.as_str()), ("service", service)]
                .map(|(k, v)| format!("label=com.docker.compose.{k}={v}"));
            docker(&["ps", "-q", "--filter", &project, "--filter", &service])
        }
    }

    impl Drop for Foreign {
        fn drop(&mut self) {
            let _ = self.command().args(["down", "-v", "-t", "2", "--remove-orphans"]).output();
        }
    }
}
