//! An orchestrator that knows the stream and nothing else, driven by a test frame by frame; and the real sidecar as a
//! guarded process.
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use pitwall_proto::v1::{
    self, connect_request, connect_response,
    sidecar_service_server::{SidecarService, SidecarServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, async_trait, transport::Server};

/// Far beyond what anything here takes; only a failure waits for it.
pub const LONG: Duration = Duration::from_secs(60);

struct Service(mpsc::Sender<Session>);

#[async_trait]
impl SidecarService for Service {
    type ConnectStream = ReceiverStream<Result<v1::ConnectResponse, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (to, frames) = mpsc::channel(64);
        let session = Session { from: request.into_inner(), to, seq: 0, seen: 0, acknowledges: true };
        self.0.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}

/// Serves until it is dropped.
pub struct Orchestrator {
    pub address: SocketAddr,
    sessions: mpsc::Receiver<Session>,
    task: JoinHandle<()>,
}

impl Orchestrator {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let (sender, sessions) = mpsc::channel(8);
        let task = tokio::spawn(async move {
            let server = Server::builder().add_service(SidecarServiceServer::new(Service(sender)));
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("serving");
        });
        Self { address, sessions, task }
    }

    /// The next stream, and its hello.
    pub async fn session(&mut self) -> (Session, v1::Hello) {
        let mut session = timeout(LONG, self.sessions.recv()).await.expect("a stream in time").expect("serving");
        match session.next().await {
            connect_request::Body::Hello(hello) => (session, hello),
            other => panic!("{other:?} before a hello"),
        }
    }
}

impl Drop for Orchestrator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One stream; dropping it ends it.
pub struct Session {
    from: Streaming<v1::ConnectRequest>,
    to: mpsc::Sender<Result<v1::ConnectResponse, Status>>,
    seq: u64,
    seen: u64,
    /// Every batch of facts is acknowledged when it comes; a sidecar sends few beyond.
    pub acknowledges: bool,
}

impl Session {
    pub async fn next(&mut self) -> connect_request::Body {
        let frame =
            timeout(LONG, self.from.message()).await.expect("a frame in time").expect("a stream").expect("not ended");
        self.seen += 1;
        assert_eq!(frame.seq, self.seen, "frames are numbered without a gap");
        let body = frame.body.expect("a body");
        if let connect_request::Body::Facts(batch) = &body
            && self.acknowledges
        {
            let seq = batch.facts.last().expect("no batch is empty").seq;
            self.send(connect_response::Body::FactAck(v1::FactAck { seq })).await;
        }
        body
    }

    /// Frames until `find` accepts one.
    pub async fn until<T>(&mut self, mut find: impl FnMut(connect_request::Body) -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = find(self.next().await) {
                return found;
            }
            assert!(begin.elapsed() < LONG, "it did not come");
        }
    }

    /// Facts until `find` accepts one.
    pub async fn fact<T>(&mut self, mut find: impl FnMut(&v1::Fact) -> Option<T>) -> T {
        self.until(|body| match body {
            connect_request::Body::Facts(batch) => batch.facts.iter().find_map(&mut find),
            _ => None,
        })
        .await
    }

    /// The verdict of a check, with the number of its fact.
    pub async fn verdict(&mut self, check: &str, outcome: v1::Outcome) -> (u64, v1::VerdictFact) {
        self.fact(|fact| match &fact.kind {
            Some(v1::fact::Kind::Verdict(verdict)) if verdict.check_id == check && verdict.outcome() == outcome => {
                Some((fact.seq, verdict.clone()))
            }
            _ => None,
        })
        .await
    }

    pub async fn send(&mut self, body: connect_response::Body) {
        self.seq += 1;
        let frame = v1::ConnectResponse { seq: self.seq, ack: self.seen, body: Some(body) };
        self.to.send(Ok(frame)).await.expect("the sidecar listens");
    }

    pub async fn welcome(&mut self, plan: v1::AgentPlan, fact_acked: u64) {
        let welcome = v1::Welcome {
            session: "session".into(),
            lineage: "lineage".into(),
            epoch: 7,
            // A sidecar gives a stream up when nothing is acknowledged for some of these; tests take their time.
            heartbeat_every_ms: 60_000,
            max_message_bytes: 4 * 1024 * 1024,
            max_batch_facts: 100,
            plan: Some(plan),
            fact_acked,
            ..Default::default()
        };
        self.send(connect_response::Body::Welcome(welcome)).await;
    }

    /// Refuses the sidecar.
    pub async fn end(self, status: Status) {
        let _ = self.to.send(Err(status)).await;
    }
}

/// Where one sidecar lives.
pub struct Place {
    directory: tempfile::TempDir,
    pub url: String,
}

impl Place {
    pub fn new(orchestrator: &Orchestrator) -> Self {
        let place = Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
            url: format!("http://{}", orchestrator.address),
        };
        std::fs::create_dir(place.workspace()).expect("a workspace");
        place
    }

    pub fn workspace(&self) -> PathBuf {
        self.directory.path().join("ws")
    }

    pub fn inbox(&self) -> PathBuf {
        self.directory.path().join("inbox")
    }

    /// From now on the state directory is a copy of what it was.
    pub fn copy_state(&self) {
        let (state, old) = (self.directory.path().join("state"), self.directory.path().join("state.old"));
        std::fs::rename(&state, &old).expect("set aside");
        std::fs::create_dir(&state).expect("a directory");
        for entry in std::fs::read_dir(&old).expect("files") {
            let entry = entry.expect("a file");
            if entry.file_type().expect("a type").is_file() {
                std::fs::copy(entry.path(), state.join(entry.file_name())).expect("a copy");
            }
        }
    }

    /// How often an agent that writes a line into `starts` was started.
    pub fn starts(&self) -> usize {
        std::fs::read_to_string(self.workspace().join("starts")).map_or(0, |text| text.lines().count())
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.workspace().join(path);
        std::fs::create_dir_all(path.parent().expect("below the workspace")).expect("directories");
        std::fs::write(path, text).expect("a file");
    }

    pub fn sidecar(&self, more: &[&str]) -> Sidecar {
        self.sidecar_with_stdin(more, Stdio::null())
    }

    pub fn sidecar_with_stdin(&self, more: &[&str], stdin: Stdio) -> Sidecar {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pitwall-sidecar"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PITWALL_")) {
            command.env_remove(name);
        }
        command.args(["--agent", "backend", "--insecure", "--orchestrator", &self.url, "--workspace"]);
        command.arg(self.workspace()).arg("--inbox").arg(self.inbox());
        command.arg("--state").arg(self.directory.path().join("state")).args(more);
        command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped());
        Sidecar(command.spawn().expect("the sidecar starts"))
    }
}

/// Killed when dropped.
pub struct Sidecar(Child);

impl Sidecar {
    pub fn pid(&self) -> i32 {
        self.0.id().try_into().expect("a pid")
    }

    pub fn take_stdin(&mut self) -> std::process::ChildStdin {
        self.0.stdin.take().expect("piped")
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Waits for its end; with what it said on stderr.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        use std::io::Read as _;
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("our child") {
                let mut said = String::new();
                let _ = self.0.stderr.take().expect("piped").read_to_string(&mut said);
                return (status, said);
            }
            assert!(begin.elapsed() < LONG, "the sidecar does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        use std::io::Read as _;
        let _ = self.0.kill();
        let status = self.0.wait();
        if std::thread::panicking() {
            let mut said = String::new();
            let _ = self.0.stderr.as_mut().map(|stderr| stderr.read_to_string(&mut said));
            eprintln!("--- sidecar ({status:?}) said\n{said}");
        }
    }
}

/// A process that does nothing and ends with its guard: somebody else's agent.
pub struct Sleeper(Child);

impl Sleeper {
    pub fn start() -> Self {
        Self(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("sleep"))
    }

    pub fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn is_alive(pid: i32) -> bool {
    // A zombie has no command line any more.
    std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).is_ok_and(|words| !words.is_empty())
}

/// A plan with one deliverable, proved by one file.
pub fn plan() -> v1::AgentPlan {
    let check = v1::Check {
        id: "file:route.ts".into(),
        digest: "d1".into(),
        weight: 1.0,
        required: true,
        every_ms: 500,
        fresh_for_ms: 60_000,
        hysteresis_ms: 0,
        timeout_ms: 5_000,
        rule: Some(v1::check::Rule::File(v1::FileCheck {
            path: "app/api/talents/route.ts".into(),
            contains: vec!["export async function GET".into()],
            forbids: vec!["TODO".into()],
            ..v1::FileCheck::default()
        })),
    };
    v1::AgentPlan {
        project: "night".into(),
        agent: "backend".into(),
        generation: 1,
        deliverables: vec![v1::DeliverablePlan {
            name: "talents-api".into(),
            title: "GET /api/talents".into(),
            checks: vec![check],
        }],
        windows: Some(v1::Windows {
            stall_after_ms: 60_000,
            activity_every_ms: 1_000,
            sample_every_ms: 200,
            rescan_every_ms: 1_000,
        }),
        quotas: Vec::new(),
        needed_by: Vec::new(),
        ..Default::default()
    }
}
