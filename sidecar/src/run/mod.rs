//! The run loop: owns the core, hands it every input with `now`, and carries out what comes back, in order. Small: one
//! thread for this, one each for the state file, the workspace, the measuring and stderr, and a few that block for checks.
//!
//! Bounded: inputs ([`INPUTS`]; whoever has more waits), effects under way ([`EFFECTS`]), and the end ([`END_WITHIN`]).
use std::{
    collections::VecDeque,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use pitwall_sidecar_core::{
    Core,
    budget::Budget,
    io::{Action, Effect, EffectOutcome, Identity, Input},
    kept,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::Instant,
};

use crate::{
    act::{self, Actor, AgentTarget, Exited, Started},
    args::Args,
    clock,
    identity::Door,
    inbox::Inbox,
    log,
    probe::Prober,
    sample::Sampler,
    state_file::StateDir,
    stream::Streams,
    watch::Watch,
};

mod disk;
mod lines;
mod sampling;
mod writer;

use disk::Disk;
use sampling::Sampling;
use writer::Writer;

/// Inputs that wait for the core.
const INPUTS: usize = 256;
/// Effects that are carried out at the same time; by the core's rules fewer: 16 of commands, 32 kills, and the limit's and the
/// stop's own.
const EFFECTS: usize = 64;
/// Threads for what blocks: checks of files, effects, names to resolve.
const BLOCKING: usize = 12;
/// From the first request to stop: a core or an agent that does not come to an end is left.
const END_WITHIN: Duration = Duration::from_secs(20);
/// Between two ticks, should a deadline not move.
const TICKS_APART_MS: u64 = 5;

/// Lives until the core says `Exit`; its code.
pub fn run(args: Args) -> anyhow::Result<u8> {
    let args = args.checked()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .context("cannot start")?;
    let code = runtime.block_on(async { Shell::start(args).await?.live().await });
    // A check that hangs in the kernel must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

struct Shell {
    core: Core,
    actor: Arc<Actor>,
    inbox: Inbox,
    prober: Prober,
    streams: Streams,
    watch: Watch,
    sampling: Sampling,
    disk: Disk,
    writer: Writer,
    effects: Arc<AtomicUsize>,
    inputs: mpsc::Receiver<Input>,
    /// For tasks that answer.
    answers: mpsc::Sender<Input>,
    exits: mpsc::Receiver<Exited>,
    terminated: Signal,
    interrupted: Signal,
    hung_up: Signal,
    stdin_ended: Option<mpsc::Receiver<()>>,
    /// The agent was not started yet, as there was no workspace to start it in.
    start_when_present: bool,
    workspace: PathBuf,
    /// What carrying out an action brought about at once; handed to the core next.
    due: VecDeque<Input>,
}

impl Shell {
    async fn start(args: Args) -> anyhow::Result<Self> {
        // Before anything is started: a signal that came in between would end this process and leave the agent.
        let [terminated, interrupted, hung_up] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let state = StateDir::lock(&args.state)?;
        let door = Door::open(&args.orchestrator, &args.agent, &args.state, args.join_token_file.clone())?;
        let bytes = state.read()?;
        let read = kept::read(&bytes);
        drop(bytes);
        // Before anything is made or started for an agent that may be another's.
        read.usable_by(&args.agent)?;
        let (exited, exits) = mpsc::channel(16);
        let actor = Arc::new(Actor::new(agent(&args)?, exited)?);
        let mut sampler = Sampler::new(actor.agent()).in_workspace(args.workspace.clone());
        let mut capabilities = actor.capabilities();
        capabilities.extend(sampler.capabilities());
        let (fresh_instance, seed) = random()?;
        let place = state.place();
        let identity = Identity {
            project: args.project.clone(),
            agent: args.agent.clone(),
            fresh_instance,
            version: env!("CARGO_PKG_VERSION").into(),
            host: sampler.host(),
            capabilities,
            place,
            seed,
        };
        let valid = read.valid;
        let core = Core::recover(identity, clock::now(), read);
        let writer = Writer::start(state.open(valid as u64)?).context("cannot start the writer of the state file")?;

        let start_when_present = core.starts_agent_at_once() && !args.workspace.is_dir();
        if start_when_present {
            wait_for_workspace(&args.workspace);
        } else if core.starts_agent_at_once() {
            start_agent(&actor).await?;
        }
        let (answers, inputs) = mpsc::channel(INPUTS);
        let prober = Prober::new(args.workspace.clone());
        let watch =
            Watch::start(args.workspace.clone(), &args.inbox, answers.clone()).context("cannot watch the workspace")?;
        let budget = Budget::new(args.cpu_budget);
        let sampling = Sampling::start(sampler, budget, prober.processes.clone(), answers.clone())
            .context("cannot measure the agent")?;
        let disk = Disk::new(args.workspace.clone(), answers.clone());
        Ok(Self {
            core,
            actor,
            inbox: Inbox::new(args.inbox, args.suppress_inbox),
            streams: Streams::new(door, answers.clone()),
            prober,
            watch,
            sampling,
            disk,
            writer,
            effects: Arc::default(),
            inputs,
            answers,
            exits,
            terminated: terminated?,
            interrupted: interrupted?,
            hung_up: hung_up?,
            stdin_ended: args.until_stdin_eof.then(until_stdin_ends).transpose()?,
            start_when_present,
            workspace: args.workspace,
            due: VecDeque::new(),
        })
    }

    async fn live(mut self) -> anyhow::Result<u8> {
        let mut end_by: Option<Instant> = None;
        let mut ticked_ms = 0;
        self.due.push_back(Input::Started);
        loop {
            while let Some(input) = self.due.pop_front() {
                if let Some(code) = self.feed(input).await? {
                    return Ok(code);
                }
            }
            let tick_at = self.core.next_deadline().map(|(at, _)| at.max(ticked_ms + TICKS_APART_MS));
            let stop = tokio::select! {
                Some(input) = self.inputs.recv() => { self.due.push_back(input); None }
                answer = self.writer.answer() => { self.due.push_back(answer?); None }
                Some(Exited { root, code, signal }) = self.exits.recv() => {
                    self.due.push_back(Input::ChildExited { root, code, signal });
                    None
                }
                () = clock::until(tick_at) => {
                    ticked_ms = clock::boot_ms();
                    self.due.push_back(Input::Tick);
                    None
                }
                _ = self.terminated.recv() => Some("SIGTERM"),
                _ = self.interrupted.recv() => Some("SIGINT"),
                _ = self.hung_up.recv() => Some("SIGHUP"),
                () = ended(&mut self.stdin_ended) => Some("the end of stdin"),
                () = at(end_by) => {
                    anyhow::bail!("did not come to an end within {} s; the agent may still run", END_WITHIN.as_secs())
                }
            };
            if let Some(why) = stop {
                if end_by.is_none() {
                    log::say(false, &format!("ends on {why}"));
                    end_by = Some(Instant::now() + END_WITHIN);
                    self.due.push_back(Input::Stop);
                } else {
                    log::say(false, &format!("{why}: is ending already"));
                }
            }
        }
    }

    /// `Some`: the process ends with this code.
    async fn feed(&mut self, input: Input) -> anyhow::Result<Option<u8>> {
        if self.start_when_present && matches!(input, Input::Workspace { present: true, .. }) {
            self.start_when_present = false;
            start_agent(&self.actor).await?;
        }
        for action in self.core.handle(clock::now(), input) {
            match action {
                Action::Persist { batch, bytes } => self.writer.append(batch, bytes).await?,
                Action::Rewrite { batch, bytes } => self.writer.rewrite(batch, bytes).await?,
                Action::Connect { session, hello } => self.streams.connect(session, hello),
                Action::Send { session, frame } => self.due.extend(self.streams.send(session, frame)),
                Action::Disconnect { session } => self.streams.disconnect(session),
                Action::Probe { deliverable, check } => self.probe(deliverable, check),
                Action::Adopt { plan } => {
                    let windows = plan.windows.unwrap_or_default();
                    self.watch.rescan_every(windows.rescan_every_ms);
                    self.sampling.every(windows.sample_every_ms);
                    self.sampling.read_lines(plan.processes.iter().any(|named| !named.command.is_empty()));
                    self.disk.adopt(&plan);
                }
                Action::Do { effect, what } => self.carry_out(effect, what),
                Action::StartAgent => self.start_held().await?,
                Action::Log { severe, text } => log::say(severe, &text),
                Action::Exit { code } => return Ok(Some(code)),
            }
        }
        Ok(None)
    }

    /// What was held back at the start.
    async fn start_held(&mut self) -> anyhow::Result<()> {
        if self.workspace.is_dir() {
            start_agent(&self.actor).await
        } else {
            wait_for_workspace(&self.workspace);
            self.start_when_present = true;
            Ok(())
        }
    }

    fn probe(&self, deliverable: String, check: Box<pitwall_proto::v1::Check>) {
        let (prober, answers) = (self.prober.clone(), self.answers.clone());
        tokio::spawn(async move {
            let seen = prober.observe(deliverable, check).await;
            let _ = answers.send(Input::Observed(seen)).await;
        });
    }

    fn carry_out(&mut self, effect: u64, what: Effect) {
        let count = Counted::new(&self.effects);
        if self.effects.load(Ordering::Relaxed) > EFFECTS {
            let why = format!("{EFFECTS} other effects are under way");
            self.due.push_back(Input::Done { effect, outcome: EffectOutcome::Failed { why } });
            return;
        }
        let (actor, inbox, answers) = (self.actor.clone(), self.inbox.clone(), self.answers.clone());
        tokio::spawn(async move {
            let _count = count;
            let outcome = match what {
                Effect::PutDirective { file_name, text } => {
                    let put = tokio::task::spawn_blocking(move || inbox.put(&file_name, &text)).await;
                    put.unwrap_or_else(|e| EffectOutcome::Failed { why: format!("the write broke off: {e}") })
                }
                other => actor.carry_out(other).await,
            };
            let _ = answers.send(Input::Done { effect, outcome }).await;
        });
    }
}

fn wait_for_workspace(workspace: &Path) {
    log::say(false, &format!("waits for the workspace {}, in which the agent starts", workspace.display()));
}

async fn start_agent(actor: &Actor) -> anyhow::Result<()> {
    match actor.start().await.context("cannot start the agent")? {
        Started::Launched(root) => log::say(false, &format!("started the agent: {} (pid {})", root.name, root.pid)),
        Started::Adopted(root) => log::say(false, &format!("the agent still runs: {} (pid {})", root.name, root.pid)),
        Started::Held => log::say(false, "the agent is held until it is activated"),
        Started::Watching => {}
    }
    Ok(())
}

/// Counts down when its effect ends, however that ends.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) fn target(args: &Args) -> AgentTarget {
    match (args.pid, &args.cgroup) {
        (Some(pid), _) => AgentTarget::Pid(pid),
        (None, Some(cgroup)) => AgentTarget::Cgroup(cgroup.clone()),
        (None, None) if args.command.is_empty() => AgentTarget::Beside,
        (None, None) => AgentTarget::Command,
    }
}

pub(crate) fn agent(args: &Args) -> anyhow::Result<act::Config> {
    Ok(act::Config {
        agent: args.agent.clone(),
        target: target(args),
        launch: (!args.command.is_empty()).then(|| args.command.clone()),
        held: args.launch_on_activation,
        restarted_by: args.agent_restart,
        workspace: args.workspace.clone(),
        inbox: args.inbox.clone(),
        state_dir: args.state.clone(),
        self_exe: std::env::current_exe().context("cannot find this program's own file")?,
        own_variables: Args::variables(),
        only_looks: false,
    })
}

/// A fresh instance id, and a seed for jitter.
fn random() -> anyhow::Result<(String, u64)> {
    let read =
        || std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot get a random id from the system");
    let hex: String = read()?.chars().filter(char::is_ascii_hexdigit).collect();
    let seed = u64::from_str_radix(hex.get(..16).unwrap_or_default(), 16).context("the system's random id is none")?;
    Ok((read()?.trim().to_owned(), seed))
}

/// Says once that stdin has ended; whatever comes there before is thrown away.
fn until_stdin_ends() -> std::io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut chunk = [0; 256];
        loop {
            match std::io::stdin().read(&mut chunk) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        let _ = sender.blocking_send(());
    })?;
    Ok(receiver)
}

async fn ended(stdin: &mut Option<mpsc::Receiver<()>>) {
    if let Some(receiver) = stdin {
        receiver.recv().await;
        *stdin = None;
    } else {
        std::future::pending().await
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
