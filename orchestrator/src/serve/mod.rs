//! The orchestrator's server: one task per project owns its core, tonic carries bytes, nothing here holds a rule.
//!
//! [`Server::start`] builds and spawns, [`Server::drain`] ends; [`run`] is both with signals in between. Each step that
//! fails before the first client could connect is one message and an exit code; later failures of the journal are the
//! project task's (`project`).
mod calls;
mod clock;
mod control;
mod door;
mod history;
mod hub;
mod identity;
mod listen;
mod mailbox;
mod outbound;
mod project;
mod retention;
mod sidecar;
mod signals;
mod status;
mod upkeep;
mod watching;

use std::{
    fs,
    io::{self, IsTerminal as _, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use pitwall_core::{
    io::Reply,
    plan::{self, Parsed},
};
use pitwall_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        control_service_server::ControlServiceServer, identity_service_server::IdentityServiceServer,
        sidecar_service_server::SidecarServiceServer,
    },
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{server::NamedService, transport::Server as Transport};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing_subscriber::EnvFilter;

use self::{
    control::Operators,
    door::{audited::AuditLayer, auth::AuthLayer, connection::Connection, tls::Door},
    identity::Identities,
    mailbox::ProjectHandle,
    project::Task,
    sidecar::Sidecars,
};
use crate::{
    cli::exit::{self, CliError, Exit},
    discovery::{self, Announced},
    identity::{
        IdentityError,
        audit::Audit,
        authority,
        keeper::{Keeper, Lives},
    },
    store::{DataDir, LockError, Ownership, SqliteStore, Store, StoreError, journal::Journal, replace},
};

/// As the core's welcome tells sidecars.
const SIDECAR_MESSAGE_MAX: usize = 4 * 1024 * 1024;
/// A plan is the largest thing that an operator sends.
const REQUEST_MAX: usize = 2 * 1024 * 1024;
/// A token and a signing request.
const IDENTITY_REQUEST_MAX: usize = 64 * 1024;
/// A situation of a large project is the largest thing that an operator is sent.
const ANSWER_MAX: usize = 16 * 1024 * 1024;
const STREAMS_PER_CONNECTION: u32 = 1_024;
/// What may be on its way on one stream: no more than this is ahead of a command's result on a slow link.
const STREAM_WINDOW: u32 = 32 * 1024;
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(20);
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// The steps of a drain; together below `signals::EXIT_WITHIN`.
const FLUSH_WITHIN: Duration = Duration::from_secs(4);
const STREAMS_WITHIN: Duration = Duration::from_secs(2);
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// What `pitwall serve` was told.
#[derive(Clone, Debug)]
pub struct Config {
    pub plan: PathBuf,
    pub data: PathBuf,
    pub listen: SocketAddr,
    /// Plaintext, without any identity: on loopback only.
    pub insecure: bool,
    /// Names and addresses under which clients reach this server, besides loopback and the machine's own name.
    pub names: Vec<String>,
    /// How long the certificates count that this server makes.
    pub lives: Lives,
    /// End when standard input does, so that no server outlives whoever started it.
    pub until_stdin_eof: bool,
}

/// `pitwall serve`: until a signal, the end of standard input, or a journal that can never be written again.
pub async fn run(config: Config) -> exit::Result<()> {
    tell_log();
    let end_asked = signals::end_asked(config.until_stdin_eof)
        .map_err(|error| CliError::internal(format!("cannot listen for signals: {error}")))?;
    let mut server = Server::start(&config).await?;
    let line = format!(
        "pitwall: serving {} on {} (data {}, lineage {}, epoch {})",
        server.project.name,
        server.url(),
        server.data.path().display(),
        server.owner.lineage,
        server.owner.epoch
    );
    // A reader that is gone does not end a server.
    let _ = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
    tokio::select! {
        reason = end_asked => {
            signals::arm_deadline();
            tracing::info!(reason, "ending");
            server.drain(reason).await
        }
        error = server.failed() => {
            signals::arm_deadline();
            tracing::error!(%error, "ending");
            // The reason to end is worth more than what the end itself says.
            let _ = server.drain("the orchestrator failed").await;
            Err(error)
        }
    }
}

/// To standard error, by `PITWALL_LOG` (for example `debug` or `pitwall=trace`).
fn tell_log() {
    let filter = EnvFilter::try_from_env("PITWALL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    // One that is there already, as in a test, is as good.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour).try_init();
}

/// A server that runs.
pub struct Server {
    address: SocketAddr,
    data: DataDir,
    owner: Ownership,
    project: ProjectHandle,
    health: HealthReporter,
    task: JoinHandle<Result<(), StoreError>>,
    transport: JoinHandle<Result<(), tonic::transport::Error>>,
    stop_transport: oneshot::Sender<()>,
    announced: Option<Announced>,
    insecure: bool,
    /// Renews the server's own certificates; `None`: `--insecure`.
    upkeep: Option<AbortOnDrop>,
    retention: AbortOnDrop,
}

impl Server {
    pub async fn start(config: &Config) -> exit::Result<Self> {
        Self::start_on(config, |path| Ok(Box::new(SqliteStore::open(path)?))).await
    }

    /// The same over another store, which is opened once the data directory is this process's.
    pub async fn start_on(
        config: &Config,
        open: impl FnOnce(&Path) -> Result<Box<dyn Store>, StoreError>,
    ) -> exit::Result<Self> {
        listen::permitted(config.listen, config.insecure)?;
        let plan = read_plan(&config.plan)?;
        // Before the journal: a port that is taken must not fence anybody.
        let listener = listen::bind(config.listen).await?;
        let data = DataDir::take(&config.data).map_err(|error| lock_failed(&error))?;
        let path = data.journal();
        if replace::recover(&path).map_err(|error| store_failed(&error))? {
            tracing::warn!(
                "a `pitwall journal restore` was not completed: what it left is removed; run it again if it is wanted"
            );
        }
        let store = open(&path).map_err(|error| store_failed(&error))?;
        let opened = Opened { plan, listener, data, store, path };
        Self::build(config, opened).await
    }

    async fn build(config: &Config, opened: Opened) -> exit::Result<Self> {
        let Opened { plan, listener, data, store, path } = opened;
        let audit = Arc::new(Audit::open(data.path()).map_err(|error| identity_failed(&error))?);
        let keeper = if config.insecure {
            None
        } else {
            let keeper = Keeper::open(data.path(), config.lives).map_err(|error| identity_failed(&error))?;
            Some(Arc::new(keeper))
        };
        let address = listener.local_addr().map_err(|error| CliError::internal(error.to_string()))?;
        let journal = Journal::start(store, path)
            .map_err(|error| CliError::internal(format!("cannot start the journal's thread: {error}")))?;
        let name = plan.parsed.plan.project.clone();
        refuse_other_project(&journal, &name, data.path()).await?;
        let (project, mailbox) = ProjectHandle::new(&name, journal.clone());
        let task = Task::start(&name, journal, mailbox).await.map_err(|error| store_failed(&error))?;
        let owner = task.owner().clone();
        let ready = task.ready();
        let (applied, told) = oneshot::channel();
        let task = tokio::spawn(task.run(plan.parsed.plan, plan.text, applied));
        tell_generation(told.await)?;
        let upkeep = match &keeper {
            None => None,
            Some(keeper) => {
                let started = upkeep::start(keeper.clone(), names(&config.names, address));
                Some(started.map_err(|error| identity_failed(&error))?)
            }
        };
        let door = match (&keeper, &upkeep) {
            (Some(keeper), Some(upkeep)) => door::tls::door(keeper.clone(), upkeep.own.clone(), audit.clone())
                .map_err(|error| identity_failed(&error))?,
            _ => Door::Plaintext,
        };
        let identities = Identities::new(keeper, audit.clone(), project.clone());
        let (health, transport, stop_transport) =
            serve(door::tls::accept(listener, door), &project, identities, audit).await?;
        tokio::spawn(tell_health(health.clone(), ready));
        let retention = AbortOnDrop(tokio::spawn(retention::look_after(project.clone())));
        let url = url(address, config.insecure);
        let operator = upkeep.as_ref().map(|upkeep| upkeep.operator.as_path());
        let announced = discovery::announce(&url, &name, data.path(), operator)
            .inspect_err(
                |error| tracing::warn!(%error, "clients on this machine will not find this server by themselves"),
            )
            .ok();
        let insecure = config.insecure;
        let upkeep = upkeep.map(|upkeep| upkeep.task);
        Ok(Self {
            address,
            data,
            owner,
            project,
            health,
            task,
            transport,
            stop_transport,
            announced,
            insecure,
            upkeep,
            retention,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        url(self.address, self.insecure)
    }

    /// Completes when the server cannot go on.
    async fn failed(&mut self) -> Box<CliError> {
        tokio::select! {
            ended = &mut self.task => match ended {
                Ok(Ok(())) => CliError::internal("the project's task ended by itself"),
                Ok(Err(error)) => store_failed(&error),
                Err(error) => CliError::internal(format!("the project's task failed: {error}")),
            },
            ended = &mut self.transport => match ended {
                Ok(Ok(())) => CliError::internal("the server ended by itself"),
                Ok(Err(error)) => CliError::internal(format!("the server failed: {error}")),
                Err(error) => CliError::internal(format!("the server failed: {error}")),
            },
        }
    }

    /// Tells everybody, makes durable what was decided, ends. Every step is bounded.
    pub async fn drain(self, reason: &str) -> exit::Result<()> {
        let Self {
            project, health, mut task, mut transport, stop_transport, announced, data, upkeep, retention, ..
        } = self;
        drop((announced, upkeep, retention));
        tell_services(&health, ServingStatus::NotServing).await;
        if !task.is_finished() {
            let flushed = async {
                project.shut_down(reason.to_owned()).await;
                let _ = (&mut task).await;
            };
            if timeout(FLUSH_WITHIN, flushed).await.is_err() {
                tracing::error!("the project did not end in time; what was not acknowledged may be lost");
                task.abort();
            }
        }
        let _ = stop_transport.send(());
        if !transport.is_finished() && timeout(STREAMS_WITHIN, &mut transport).await.is_err() {
            tracing::warn!("connections are still open: cut");
            transport.abort();
        }
        let closed = timeout(CLOSE_WITHIN, project.journal.close()).await;
        // Only now may another one have the directory.
        drop(data);
        match closed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(store_failed(&error)),
            Err(_) => Err(CliError::internal("the journal did not close in time; it is recovered at the next start")),
        }
    }
}

type Transported = (HealthReporter, JoinHandle<Result<(), tonic::transport::Error>>, oneshot::Sender<()>);

/// Where a client on this machine finds the server.
fn url(address: SocketAddr, insecure: bool) -> String {
    let scheme = if insecure { "http" } else { "https" };
    let reached = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("{scheme}://{}", SocketAddr::new(reached, address.port()))
}

/// What the certificate is for: what was told, and where the server listens.
fn names(told: &[String], address: SocketAddr) -> Vec<String> {
    let mut names = authority::names(told);
    let own = address.ip().to_string();
    if !address.ip().is_unspecified() && !names.contains(&own) {
        names.push(own);
    }
    names
}

/// A task that ends with its owner.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a start has opened.
struct Opened {
    plan: PlanFile,
    listener: TcpListener,
    data: DataDir,
    store: Box<dyn Store>,
    path: PathBuf,
}

async fn serve(
    incoming: mpsc::Receiver<io::Result<Connection>>,
    project: &ProjectHandle,
    identities: Identities,
    audit: Arc<Audit>,
) -> exit::Result<Transported> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let sidecars = SidecarServiceServer::new(Sidecars::new(project.clone(), HELLO_WITHIN))
        .max_decoding_message_size(SIDECAR_MESSAGE_MAX)
        .max_encoding_message_size(SIDECAR_MESSAGE_MAX);
    let operators = ControlServiceServer::new(Operators::new(project.clone()))
        .max_decoding_message_size(REQUEST_MAX)
        .max_encoding_message_size(ANSWER_MAX);
    let identities = IdentityServiceServer::new(identities)
        .max_decoding_message_size(IDENTITY_REQUEST_MAX)
        .max_encoding_message_size(ANSWER_MAX);
    tell_services(&health, ServingStatus::Serving).await;
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that a client without our code can read the details of an error.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let failed = |error| CliError::internal(format!("the protocol cannot be described: {error}"));
    // Some clients ask the one, some the other.
    let v1 = described().build_v1().map_err(failed)?;
    let v1alpha = described().build_v1alpha().map_err(failed)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let router = Transport::builder()
        .layer(AuditLayer::new(audit))
        .layer(AuthLayer)
        .layer(calls::CallLayer::default())
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_WITHIN))
        .initial_stream_window_size(STREAM_WINDOW)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .add_service(health_service)
        .add_service(v1)
        .add_service(v1alpha)
        .add_service(sidecars)
        .add_service(operators)
        .add_service(identities);
    let transport = tokio::spawn(router.serve_with_incoming_shutdown(ReceiverStream::new(incoming), async {
        // Dropped means the same.
        let _ = stopped.await;
    }));
    Ok((health, transport, stop))
}

/// Not serving while the journal fails. Ends with the project's task.
async fn tell_health(health: HealthReporter, mut ready: watch::Receiver<bool>) {
    while ready.changed().await.is_ok() {
        let serving = *ready.borrow_and_update();
        tell_services(&health, if serving { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
    }
    tell_services(&health, ServingStatus::NotServing).await;
}

async fn tell_services(health: &HealthReporter, status: ServingStatus) {
    let sidecars = <SidecarServiceServer<Sidecars> as NamedService>::NAME;
    let operators = <ControlServiceServer<Operators> as NamedService>::NAME;
    let identities = <IdentityServiceServer<Identities> as NamedService>::NAME;
    for service in ["", sidecars, operators, identities] {
        health.set_service_status(service, status).await;
    }
}

struct PlanFile {
    parsed: Parsed,
    text: String,
}

/// Every mistake at once, as a compiler tells them.
fn read_plan(path: &Path) -> exit::Result<PlanFile> {
    let unreadable =
        |error: io::Error| CliError::bad_input(format!("cannot read the plan {}: {error}", path.display()));
    let mut text = String::new();
    let limit = plan::TEXT_MAX as u64 + 1;
    fs::File::open(path).map_err(unreadable)?.take(limit).read_to_string(&mut text).map_err(unreadable)?;
    match plan::parse(&text, &path.display().to_string()) {
        Ok(parsed) => {
            for warning in &parsed.warnings {
                tracing::warn!("{}: {warning}", path.display());
            }
            Ok(PlanFile { parsed, text })
        }
        Err(mistakes) => Err(CliError::bad_input(mistakes.render(io::stderr().is_terminal()).trim_end())),
    }
}

/// One directory is one project's: a renamed plan must not begin an empty history beside the old one unnoticed.
async fn refuse_other_project(journal: &Journal, name: &str, data: &Path) -> exit::Result<()> {
    let held = journal.projects().await.map_err(|error| store_failed(&error))?;
    match held.iter().find(|project| *project != name) {
        None => Ok(()),
        Some(other) => Err(CliError::bad_input(format!(
            "the data directory {} belongs to project {other}, the plan is for {name}",
            data.display()
        ))
        .hint("give another --data directory, or the plan its old name")),
    }
}

fn tell_generation(told: Result<Result<Reply, tonic::Status>, oneshot::error::RecvError>) -> exit::Result<()> {
    match told {
        Ok(Ok(Reply::Plan { generation, differences })) => {
            for difference in &differences {
                tracing::info!("generation {generation}: {difference}");
            }
            if differences.is_empty() {
                tracing::info!("the plan is as it was: generation {generation}");
            }
            Ok(())
        }
        Ok(Ok(Reply::Command(_) | Reply::Adopted(_))) => {
            Err(CliError::internal("the plan was answered with something else"))
        }
        Ok(Err(refused)) => {
            Err(CliError::new(Exit::Internal, format!("the plan was not applied: {}", refused.message())))
        }
        Err(_) => Err(CliError::internal("the project's task ended before the plan was applied")),
    }
}

pub(crate) fn lock_failed(error: &LockError) -> Box<CliError> {
    let told = CliError::new(Exit::Failed, error.to_string());
    match error {
        LockError::Held { .. } => told.hint("stop that one first, or give another --data directory"),
        LockError::Io { .. } => told,
    }
}

fn store_failed(error: &StoreError) -> Box<CliError> {
    CliError::internal(error.to_string())
}

pub(crate) fn identity_failed(error: &IdentityError) -> Box<CliError> {
    match error {
        IdentityError::Denied(denied) => CliError::bad_input(denied.message.as_str()).hint(denied.hint.as_str()),
        IdentityError::File { .. } | IdentityError::NotDurable { .. } | IdentityError::Crypto { .. } => {
            CliError::new(Exit::Failed, error.to_string())
        }
    }
}
