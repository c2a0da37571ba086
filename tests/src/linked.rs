//! A real server and a real sidecar over TLS with a link between them that can be hurt, and what must be true of both when
//! it is well again.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use pitwall_proto::v1::{self, AgentStatus, CommandState, DeliverableStatus, SidecarStatus, command_spec::Kind};
use rustix::process::Signal;

use crate::{
    audit::{Journal, Kept, is_end},
    binaries::{self, Running, Server},
    cgroup,
    client::{self, Client},
    faked::WallClock,
    plans,
    proxy::Proxy,
    surroundings, wait,
};

/// A try that hangs in a dead handshake, and the longest wait before the next one.
const BACK_WITHIN: Duration = Duration::from_secs(25);
const FILES: usize = 64;

pub struct Linked {
    pub dir: tempfile::TempDir,
    pub server: Server,
    pub proxy: Proxy,
    pub sidecar: Running,
    pub client: Client,
    agent: &'static str,
    asked: Vec<v1::Command>,
}

fn serve(dir: &Path, listen: &str, clock: Option<&WallClock>) -> Server {
    let (plan, data) = (dir.join("plan.yaml"), dir.join("data"));
    let mut command = Command::new(binaries::path("pitwall"));
    command.arg("serve").arg("--plan").arg(plan).arg("--data").arg(&data).args(["--listen", listen]);
    if let Some(clock) = clock {
        clock.rules(&mut command);
    }
    Server::spawn(command, &data)
}

fn begin(dir: &Path, proxy: &Proxy, agent: &str, clock: Option<&WallClock>) -> Running {
    binaries::sidecar_as(dir, &proxy.url(), "writer", &["--", "sh", "-c", agent], |command| {
        if let Some(clock) = clock {
            clock.rules(command);
        }
    })
}

/// The kernel has no limit any more.
pub async fn is_undone(pid: i32, within: Duration) {
    wait::until("the kernel has no limit", within, || async { (cgroup::cpu_limit(pid) == Ok(None)).then_some(()) })
        .await;
}

/// A plan of one agent that owes many files.
pub fn plan(windows: &str) -> String {
    let pages: String = (0..FILES).map(|n| format!("      p{n}: {{ checks: [\"file: app/p{n}\"] }}\n")).collect();
    format!("{windows}agents:\n  writer:\n    deliverables:\n{pages}")
}

impl Linked {
    pub async fn start() -> Self {
        Self::with(&plan(plans::WINDOWS)).await
    }

    pub async fn with(plan: &str) -> Self {
        Self::of(plan, "exec sleep 600").await
    }

    /// With a shell's command as the agent.
    pub async fn of(plan: &str, agent: &'static str) -> Self {
        Self::by_clocks(plan, agent, None, None).await
    }

    /// With wall clocks of their own.
    pub async fn by_clocks(
        plan: &str,
        agent: &'static str,
        server: Option<&WallClock>,
        sidecar: Option<&WallClock>,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("plan.yaml"), plan).expect("the plan can be written");
        let server = serve(dir.path(), "127.0.0.1:0", server);
        let proxy = Proxy::before(server.address()).await;
        binaries::introduce(&proxy.url(), &server.data.join("identity/operator"));
        // It makes its token itself, not through the link, which this runtime carries.
        fs::create_dir_all(dir.path().join("writer")).expect("a folder");
        binaries::token(&server.url, "writer", &dir.path().join("writer/token"));
        let sidecar = begin(dir.path(), &proxy, agent, sidecar);
        let client = client::connect(&server.url).await;
        let linked = Self { dir, server, proxy, sidecar, client, agent, asked: Vec::new() };
        linked.is_live().await;
        linked
    }

    /// Another process on the same port and journal.
    pub async fn serve_again(&mut self, clock: Option<&WallClock>) {
        let address = self.server.address().to_owned();
        self.server.process.signal(Signal::KILL);
        self.server.process.stands_still(true);
        self.server = serve(self.dir.path(), &address, clock);
        self.client = client::connect(&self.server.url).await;
    }

    /// The next life, which adopts the agent.
    pub fn live_again(&mut self, clock: Option<&WallClock>) {
        self.sidecar.signal(Signal::KILL);
        self.sidecar.stands_still(true);
        let next = begin(self.dir.path(), &self.proxy, self.agent, clock);
        if let Some(left) = std::mem::replace(&mut self.sidecar, next).kill() {
            left.is_anothers_now();
        }
    }

    /// A limit in the agent's own cgroup, and the agent; `None`: it has none here, which was told.
    pub async fn limited(&self, test: &str, for_ms: u32, ttl_ms: u32) -> Option<(v1::Command, i32)> {
        let seen = client::situation(&mut self.client.clone()).await;
        let pid = client::agent(&seen, "writer").root.as_ref().expect("it was seen").pid;
        if !surroundings::have(test, "cgroup", cgroup::cpu_limit(pid).map(|_| ())) {
            return None;
        }
        let throttle = Kind::Throttle(v1::Throttle { cpu_cores: 0.3, for_ms, ttl_ms, ..Default::default() });
        let held = client::issue(&mut self.client.clone(), "writer", throttle).await.expect("it is taken");
        let within = Duration::from_secs(15);
        let held = client::until_state(&self.client, &held.id, within, &[CommandState::Succeeded]).await;
        assert_eq!(cgroup::cpu_limit(pid), Ok(Some(0.3)));
        Some((held, pid))
    }

    pub async fn is_live(&self) {
        let live = |s: &v1::Situation| {
            client::agent(s, "writer").sidecar() == SidecarStatus::Live
                && client::status(s, "writer") == AgentStatus::Active
        };
        client::until(&self.client, "the sidecar is live", BACK_WITHIN, live).await;
    }

    pub async fn is(&self, status: SidecarStatus, within: Duration) {
        let fits = |s: &v1::Situation| client::agent(s, "writer").sidecar() == status;
        client::until(&self.client, &format!("the sidecar is {status:?}"), within, fits).await;
    }

    /// How often the sidecar has said so.
    pub fn said(&self, words: &str) -> usize {
        self.sidecar.stderr().iter().filter(|line| line.contains(words)).count()
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join("writer").join(name)
    }

    /// A file, a claim and a directive that belong to this number.
    pub async fn work(&mut self, n: usize) {
        self.change(n);
        let kind = Kind::Directive(v1::Directive { text: format!("directive {n}."), ..Default::default() });
        self.asked.push(client::issue(&mut self.client, "writer", kind).await.expect("it is taken"));
    }

    pub fn change(&self, n: usize) {
        for folder in ["app", ".pitwall"] {
            fs::create_dir_all(self.folder("workspace").join(folder)).expect("a folder");
        }
        fs::write(self.folder("workspace").join(format!("app/p{n}")), "x").expect("a file");
        let claim = format!("{{\"progress\": 0.5, \"text\": \"claim {n}\"}}");
        fs::write(self.folder("workspace/.pitwall/claim.json"), claim).expect("a claim");
    }

    /// Everything of this number, and whatever came before it, is where it belongs.
    pub async fn has_converged(&self, n: usize) {
        let all = |s: &v1::Situation| {
            let agent = client::agent(s, "writer");
            agent.sidecar() == SidecarStatus::Live
                && agent.claim_text == format!("claim {n}")
                && client::deliverable(s, "writer", &format!("p{n}")).status() == DeliverableStatus::Verified
        };
        client::until(&self.client, &format!("the facts of {n} are there"), BACK_WITHIN, all).await;
        for command in &self.asked {
            let now = wait::until(&format!("{} ends", command.id), BACK_WITHIN, || {
                let mut client = self.client.clone();
                async move {
                    let now = client::command(&mut client, &command.id).await;
                    is_end(now.state()).then_some(now)
                }
            })
            .await;
            self.happened_as_told(&now);
        }
    }

    fn happened_as_told(&self, command: &v1::Command) {
        let Some(v1::CommandSpec { kind: Some(Kind::Directive(directive)) }) = &command.spec else { return };
        let notes = fs::read_dir(self.folder("inbox")).into_iter().flatten().flatten();
        let happened =
            notes.filter(|e| fs::read_to_string(e.path()).is_ok_and(|n| n.contains(&directive.text))).count();
        match command.state() {
            CommandState::Succeeded => assert_eq!(happened, 1, "{command:#?}"),
            CommandState::Expired => assert_eq!(happened, 0, "{command:#?}"),
            _ => assert!(happened <= 1, "{command:#?}"),
        }
        assert_eq!(command.history.iter().filter(|s| is_end(s.state())).count(), 1, "{command:#?}");
    }

    /// Nothing waits anywhere, and the journal holds together with each claim once. The last thing that is asked of both.
    pub async fn audit(self) -> Journal {
        let state = self.folder("state");
        wait::until("nothing waits at the sidecar", BACK_WITHIN, || async {
            let kept = Kept::read(&state);
            (kept.facts_waiting() == 0 && kept.results_waiting().is_empty()).then_some(())
        })
        .await;
        let Self { dir, server, sidecar, .. } = self;
        drop(sidecar);
        let data = server.data.clone();
        server.process.kill();
        let journal = Journal::read(&data);
        journal.holds_together();
        let claims = journal.claims();
        assert!(claims.values().all(|times| *times == 1), "each claim once: {claims:#?}");
        drop(dir);
        journal
    }
}
