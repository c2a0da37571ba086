//! One compose project of the files in `deploy/`, up for as long as its guard lives; one at a time.
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicU32, atomic::Ordering},
    time::Duration,
};

use pitwall_proto::v1;
use pitwall_tests::{
    binaries,
    client::{self, Client},
    identities, wait,
};

use crate::engine::{self, Compose, docker, done, root};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static NUMBER: AtomicU32 = AtomicU32::new(0);
/// What a start of an engine may take.
pub const SOON: Duration = Duration::from_secs(6);

/// A failed test leaves nothing that the next could trip over.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Stack {
    compose: Compose,
    pub project: String,
    files: Vec<PathBuf>,
    pub home: tempfile::TempDir,
    pub port: u16,
    pub client: Client,
    _one: MutexGuard<'static, ()>,
}

impl Stack {
    /// `deploy/compose.yaml` and `compose.local.yaml`, with these besides.
    pub async fn up(compose: Compose, more: &[&str]) -> Self {
        let mut files = vec!["deploy/compose.yaml", "deploy/compose.local.yaml"];
        files.extend(more);
        Self::up_with(compose, &files.iter().map(|f| root().join(f)).collect::<Vec<_>>()).await
    }

    #[expect(
        clippy::await_holding_lock,
        reason = "one stack at a time is the point; each test has a runtime of its own"
    )]
    pub async fn up_with(compose: Compose, files: &[PathBuf]) -> Self {
        let one = one_at_a_time();
        let project = format!("pitwalltest{}n{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let home = tempfile::tempdir().expect("a folder");
        // Free a moment ago: whoever takes it meanwhile makes this test fail, and no other.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let url = format!("https://127.0.0.1:{port}");
        let down = Down {
            compose,
            project: project.clone(),
            files: files.to_vec(),
            secrets: home.path().join("secrets"),
            port,
        };
        done(down.command().args(["run", "--rm", "setup"]));
        done(down.command().args(["up", "-d"]));
        let client = {
            let operator = home.path().join("operator");
            let orchestrator = container_of(&project, "orchestrator");
            docker(&["cp", &format!("{orchestrator}:/data/identity/operator"), operator.to_str().expect("UTF-8")]);
            binaries::introduce(&url, &operator);
            wait::until("the orchestrator answers", SOON, || async {
                client::try_channel(&url, Some(&operator)).await.ok()
            })
            .await;
            client::connect(&url).await
        };
        std::mem::forget(down);
        Self { compose, project, files: files.to_vec(), home, port, client, _one: one }
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    fn down(&self) -> Down {
        let secrets = self.home.path().join("secrets");
        Down {
            compose: self.compose,
            project: self.project.clone(),
            files: self.files.clone(),
            secrets,
            port: self.port,
        }
    }

    /// Compose with the files of this stack.
    pub fn compose(&self, args: &[&str]) -> String {
        let down = self.down();
        let said = done(down.command().args(args));
        std::mem::forget(down);
        said
    }

    pub fn container(&self, service: &str) -> String {
        container_of(&self.project, service)
    }

    pub fn inspect(&self, service: &str, format: &str) -> String {
        docker(&["inspect", "-f", format, &self.container(service)])
    }

    /// Of its first process, as the host knows it.
    pub fn pid(&self, service: &str) -> i32 {
        self.inspect(service, "{{.State.Pid}}").parse().expect("a pid")
    }

    /// Pid and start: another life has another.
    pub fn life(&self, service: &str) -> String {
        self.inspect(service, "{{.Id}} {{.State.StartedAt}}")
    }

    /// Waits until the engine knows another life of a service: it learns of a start after the kernel does.
    pub fn another_life(&self, service: &str, than: &str) -> String {
        let what = format!("another life of {service} than {than}");
        wait::until_sync(&what, SOON, || Some(self.life(service)).filter(|life| life != than))
    }

    /// In a service, as its own user.
    pub fn exec(&self, service: &str, script: &str) -> (bool, String) {
        engine::tried(&["exec", &self.container(service), "/bin/sh", "-c", script])
    }

    /// As the operator on this machine; it must succeed.
    pub fn pitwall(&self, args: &[&str]) -> String {
        identities::done(&self.url(), args)
    }

    pub async fn until(&self, what: &str, promised: Duration, fits: impl Fn(&v1::Situation) -> bool) -> v1::Situation {
        client::until(&self.client, what, promised, fits).await
    }

    pub async fn agent(&self, name: &str) -> v1::Agent {
        client::agent(&client::situation(&mut self.client.clone()).await, name).clone()
    }

    /// All that happened, oldest first.
    pub async fn events(&self) -> Vec<v1::Event> {
        let request = v1::ListEventsRequest { limit: 2000, ..Default::default() };
        self.client.clone().list_events(request).await.expect("events").into_inner().events
    }

    /// The folder of a service's container in a hierarchy of version 1.
    pub fn cgroup(&self, service: &str, controller: &str) -> PathBuf {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", self.pid(service))).expect("it runs");
        let path = text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            (parts.next()?.split(',').any(|c| c == controller)).then(|| parts.next()).flatten()
        });
        Path::new("/sys/fs/cgroup").join(controller).join(path.expect("a path").trim_start_matches('/'))
    }

    /// The host's pid of what a service's namespace knows as `inner`.
    pub fn host_pid(&self, service: &str, inner: i32) -> Option<i32> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let wanted = namespace(self.pid(service));
        fs::read_dir("/proc").expect("/proc").flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).find(
            |pid| {
                namespace(*pid) == wanted
                    && fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|text| {
                        let line = text.lines().find_map(|l| l.strip_prefix("NSpid:"));
                        line.and_then(|l| l.split_whitespace().last()?.parse().ok()) == Some(inner)
                    })
            },
        )
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for service in ["orchestrator", "backend-sidecar", "frontend-sidecar", "design-sidecar", "backend"] {
                let (_, log) = engine::tried(&["logs", "--tail", "30", &self.container(service)]);
                eprintln!("--- {service}\n{log}");
            }
        }
        drop(self.down());
    }
}

/// Takes a project down when dropped, also where it never came up.
struct Down {
    compose: Compose,
    project: String,
    files: Vec<PathBuf>,
    secrets: PathBuf,
    port: u16,
}

impl Down {
    fn command(&self) -> Command {
        let mut command = self.compose.command();
        command.current_dir(root()).arg("-p").arg(&self.project);
        for file in &self.files {
            command.arg("-f").arg(file);
        }
        command
            .env("PITWALL_IMAGE", format!("pitwall:{}", engine::TAG))
            .env("PITWALL_SIDECAR_IMAGE", format!("pitwall-sidecar:{}", engine::TAG))
            .env("PITWALL_AGENT_IMAGE", format!("pitwall-example-agent:{}", engine::TAG))
            .env("PITWALL_PLAN_FILE", root().join("tests/containers/plan.yaml"))
            .env("PITWALL_SECRETS", &self.secrets)
            .env("PITWALL_PORT", self.port.to_string());
        command
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        let said = self.command().args(["down", "-v", "-t", "2", "--remove-orphans"]).output();
        if let Ok(said) = said
            && !said.status.success()
        {
            eprintln!("{} is not down: {}", self.project, String::from_utf8_lossy(&said.stderr));
        }
    }
}

pub fn container_of(project: &str, service: &str) -> String {
    let [project, service] =
        [("project", project), ("service", service)].map(|(k, v)| format!("label=com.docker.compose.{k}={v}"));
    let all = docker(&[
        "ps",
        "-aq",
        "--filter",
        &project,
        "--filter",
        &service,
        "--filter",
        "label=com.docker.compose.oneoff=False",
    ]);
    all.lines().next().unwrap_or_default().to_owned()
}
