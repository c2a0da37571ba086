//! `pitwall demo`: the night that Pitwall was made for, with real processes on this machine, and a report of what the
//! product found in it. The night (`night`) decides who misbehaves, the stage (`stage`) runs it, the operator part
//! (`operator`) answers what it is told through the public API, a second client (`record`) remembers what was received,
//! `truth` looks at what is really there, and `expect` judges the one by the other.
pub mod agent;
pub mod args;
mod cast;
mod expect;
#[cfg(test)]
mod expect_tests;
mod live;
mod night;
mod operator;
mod pace;
mod plan;
mod ports;
mod record;
mod report;
mod stage;
mod truth;

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, bail};
use pitwall_proto::v1::{
    self, InterventionOutcome, control_service_client::ControlServiceClient, watch_response::Body,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tonic::{Streaming, transport::Channel};

use self::{
    args::Demo,
    expect::{Judgement, judge},
    live::Show,
    night::Night,
    operator::Habits,
    record::{DemoMs, Recording},
    report::{Report, Told},
    stage::Stage,
    truth::Truth,
};
use crate::cli::{
    exit::{CliError, Exit},
    out::Out,
};
use crate::{cli::client::with_tls, identity::credentials::Credentials};

/// How often the demo looks at the world, and whether all is done.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// Runs one agent of the cast.
pub fn agent(part: &Path) -> crate::cli::exit::Result<()> {
    let failed = |error| CliError::internal(format!("an agent of the demo cannot do its work: {error}"));
    agent::run(part).map_err(failed)
}

/// Runs the demo to its end, whatever that is; nothing of it is left then.
pub async fn run(demo: &Demo, out: Out) -> crate::cli::exit::Result<()> {
    let failed = |error: anyhow::Error| {
        let hint = "the demo needs this machine's loopback, a temporary directory, and pitwall-sidecar beside pitwall";
        CliError::internal(format!("{error:#}")).hint(hint)
    };
    let mut end = End::listen().map_err(|error| failed(error.into()))?;
    let night = Night::new(demo.into());
    let began = (Instant::now(), unix_ms());
    // Blocking, as nothing else goes on yet; short but for the server's start, which has its own limit.
    let mut stage = Stage::set(&night).map_err(failed)?;
    let mut show = Show::new(out);
    let played = tokio::select! {
        played = play(&night, &mut stage, &mut show, began) => played,
        () = end.asked() => Ok(None),
    };
    show.close();
    let exit = match played {
        Ok(Some(played)) => {
            tell(&played, out, &mut stage);
            if demo.keep {
                explore(&night, &stage, out);
                end.asked().await;
            }
            if played.judgement.is_good() { Ok(()) } else { Err(CliError::silent(Exit::Failed)) }
        }
        Ok(None) => Err(CliError::silent(Exit::Interrupted)),
        Err(error) => {
            stage.keep_files();
            Err(failed(error.context(format!("logs are in {}", stage.places.root.join("logs").display()))))
        }
    };
    for killed in stage.end() {
        eprintln!("pitwall demo: {killed} did not end in time and was killed");
    }
    exit
}

/// Signals that ask for the end.
struct End {
    signals: [Signal; 3],
}

impl End {
    fn listen() -> std::io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [a, b, c] = kinds.map(signal);
        Ok(Self { signals: [a?, b?, c?] })
    }

    async fn asked(&mut self) {
        let [a, b, c] = &mut self.signals;
        tokio::select! { _ = a.recv() => {}, _ = b.recv() => {}, _ = c.recv() => {} }
    }
}

/// A night that was played to its end.
struct Played {
    report: Report,
    judgement: Judgement,
}

async fn play(
    night: &Night,
    stage: &mut Stage,
    show: &mut Show,
    (began, began_unix_ms): (Instant, i64),
) -> Result<Option<Played>> {
    let now = || DemoMs::try_from(began.elapsed().as_millis()).unwrap_or(DemoMs::MAX);
    let mut client = connect(stage).await?;
    let mut watch = client.watch(v1::WatchRequest::default()).await.context("cannot watch")?.into_inner();
    let told = plan_applied(&mut client, began_unix_ms).await?;
    let mut operator = Operator::start(night, stage).await?;
    let mut seen = Recording::new(began_unix_ms);
    let mut truth = Truth::default();
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    show.tell(now(), &format!("{} at {}, {} sidecars", night.cast.project, stage.url, night.watched().len()));
    let stage_ready_ms = now();
    loop {
        tokio::select! {
            body = next(&mut watch) => {
                for line in seen.take(now(), body?) {
                    show.tell(now(), &line);
                }
            }
            error = operator.failed() => return Err(error),
            _ = ticks.tick() => {
                if let Some(casualty) = stage.casualty() {
                    bail!("{casualty}");
                }
                truth.look(now(), night, &stage.places, stage.ports, &seen);
                show.draw(&seen.situation, unix_ms());
                let judgement = judge(night, &seen, &truth);
                if is_over(night, now() - stage_ready_ms, &seen, &judgement) {
                    let report = Report::new(night, told, &seen, &truth, judgement.is_good());
                    return Ok(Some(Played { report, judgement }));
                }
            }
        }
    }
}

/// Everything came, and whatever must not come had its time; or it is too late; or it is lost already.
fn is_over(night: &Night, elapsed: DemoMs, seen: &Recording, judgement: &Judgement) -> bool {
    let (elapsed, pace) = (u64::try_from(elapsed).unwrap_or(0), &night.pace);
    let decided = seen.interventions.values().all(|i| i.outcome() != InterventionOutcome::Undecided);
    let lost = !judgement.wrong.is_empty() && decided && !seen.interventions.is_empty();
    elapsed >= pace.deadline_ms || (elapsed >= pace.at_least_ms && (judgement.missing.is_empty() || lost))
}

async fn connect(stage: &Stage) -> Result<ControlServiceClient<Channel>> {
    let endpoint = Channel::from_shared(stage.url.clone()).context("the server's address is no URL")?;
    let credentials = Credentials::load(&stage.operator()).context("the operator's credential is not there")?;
    let endpoint = with_tls(endpoint, &credentials).context("the operator's credential cannot be used")?;
    let channel = endpoint.connect_timeout(CONNECT_WITHIN).connect().await.context("the server does not answer")?;
    Ok(ControlServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX))
}

async fn next(watch: &mut Streaming<v1::WatchResponse>) -> Result<Body> {
    loop {
        let message = watch.message().await.context("the watch broke")?;
        let message = message.ok_or_else(|| anyhow!("the watch ended"))?;
        if let Some(body) = message.body {
            return Ok(body);
        }
    }
}

/// When the plan took effect, by the first event of the journal.
async fn plan_applied(client: &mut ControlServiceClient<Channel>, began_unix_ms: i64) -> Result<Told> {
    let ask = v1::ListEventsRequest { limit: 10, ..Default::default() };
    let events = client.list_events(ask).await.context("cannot list events")?.into_inner().events;
    let applied = events.iter().find(|e| e.kind == "plan_applied").ok_or_else(|| anyhow!("no plan was applied"))?;
    Ok(Told { plan_applied: applied.at_unix_ms - began_unix_ms })
}

/// The operator part as a task; ended with this guard.
struct Operator {
    task: Option<tokio::task::JoinHandle<Result<()>>>,
}

impl Operator {
    async fn start(night: &Night, stage: &Stage) -> Result<Self> {
        if !night.variant.operator {
            return Ok(Self { task: None });
        }
        let pace = &night.pace;
        let habits = Habits {
            patience: Duration::from_millis(pace.patience_ms),
            throttle_for_ms: pace.throttle_for_ms,
            throttle_ttl_ms: pace.throttle_ttl_ms,
        };
        Ok(Self { task: Some(tokio::spawn(operator::run(connect(stage).await?, habits))) })
    }

    /// Never, where there is none.
    async fn failed(&mut self) -> anyhow::Error {
        match &mut self.task {
            None => std::future::pending().await,
            Some(task) => match task.await {
                Ok(Ok(())) => anyhow!("the operator part ended"),
                Ok(Err(error)) => error,
                Err(error) => anyhow!("the operator part broke: {error}"),
            },
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn tell(played: &Played, out: Out, stage: &mut Stage) {
    let report = if out.json { format!("{}\n", played.report.json()) } else { played.report.text() };
    // A reader that is gone does not change what happened.
    out.text(&report).ok();
    for missing in &played.judgement.missing {
        eprintln!("pitwall demo: did not happen: {missing}");
    }
    for wrong in &played.judgement.wrong {
        eprintln!("pitwall demo: should not be: {wrong}");
    }
    if !played.judgement.is_good() {
        stage.keep_files();
        eprintln!("pitwall demo: plan, journal and logs are in {}", stage.places.root.display());
    } else if !out.json {
        out.text("all findings and effects really happened\n").ok();
    }
}

/// What to try while everything runs on.
fn explore(night: &Night, stage: &Stage, out: Out) {
    let url = &stage.url;
    let address = url.trim_start_matches("https://");
    let identity = stage.operator();
    let identity = identity.display();
    let (frontend, backend) = (night.cast.name(cast::Role::Frontend), night.cast.name(cast::Role::Backend));
    // As it was called, so that the lines work as they stand.
    let pitwall = std::env::args().next().unwrap_or_else(|| "pitwall".into());
    let text = format!(
        "\nEverything runs on; Ctrl-C ends it. Its files are in {root}. Try:\n\n  \
         export PITWALL_ORCHESTRATOR={url} PITWALL_IDENTITY={identity}\n  \
         {pitwall} status\n  {pitwall} watch\n  {pitwall} why {frontend}\n  {pitwall} blockers\n  {pitwall} findings --all\n  \
         {pitwall} hosts\n  {pitwall} commands\n  {pitwall} events --limit 30\n  {pitwall} audit\n  \
         {pitwall} tell {backend} 'well done'\n  {pitwall} throttle {backend} --cpu 0.5 --for 1m\n  \
         grpcurl -cacert $PITWALL_IDENTITY/authority.pem -cert $PITWALL_IDENTITY/certificate.pem \\\n    \
         -key $PITWALL_IDENTITY/key.pem {address} pitwall.v1.ControlService/GetSituation\n",
        root = stage.places.root.display(),
    );
    // Standard output is one JSON document there.
    if out.json {
        eprintln!("{text}");
    } else {
        out.text(&format!("{text}\n")).ok();
    }
}

fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_millis()).ok()).unwrap_or(0)
}
