//! `Watch`, kept up: reconnects with backoff, goes on from its last revision, gives up after a bound. Runs as a task of
//! its own, so that whoever listens may drop a wait without dropping an attempt; it ends when the listener goes.
use std::time::Duration;

use pitwall_proto::v1::{self, watch_response::Body};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    args::Connect,
    client::{Client, within},
    exit::{self, CliError, Exit, Result},
};

/// Messages between the stream and its listener: a slow listener slows the stream, and the server bounds that.
const AHEAD: usize = 16;
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What a listener hears.
#[derive(Debug)]
pub enum Heard {
    /// The stream is open: whatever is listed by this client from now on, or told by a message, misses nothing.
    Connected(Client),
    Message(Box<v1::WatchResponse>),
    /// The stream ended; it is tried again.
    Lost(String),
}

/// How to go about it.
#[derive(Clone, Debug)]
pub struct Terms {
    pub connect: Connect,
    /// Where to go on; absent: with a snapshot.
    pub from: Option<v1::Revision>,
    /// So long without any connection is too long.
    pub give_up_after: Duration,
    /// Also when the very first connection fails; otherwise that is an error at once.
    pub patient: bool,
}

/// The last message is an error, if any: then it has given up.
pub fn follow(terms: Terms) -> mpsc::Receiver<Result<Heard>> {
    let (out, heard) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        if let Err(Over::Error(error)) = run(terms, &out).await {
            let _ = out.send(Err(error)).await;
        }
    });
    heard
}

enum Over {
    ListenerGone,
    Error(Box<CliError>),
}

type Out = mpsc::Sender<Result<Heard>>;

async fn tell(out: &Out, heard: Heard) -> std::result::Result<(), Over> {
    out.send(Ok(heard)).await.map_err(|_| Over::ListenerGone)
}

async fn run(mut terms: Terms, out: &Out) -> std::result::Result<(), Over> {
    let mut backoff = BACKOFF_FIRST;
    let mut down_since = Instant::now();
    let mut connected_once = terms.patient;
    loop {
        let error = match open(&terms).await {
            Ok((client, stream)) => {
                connected_once = true;
                tell(out, Heard::Connected(client)).await?;
                let error = listen(stream, &mut terms.from, out, &mut backoff).await?;
                down_since = Instant::now();
                error
            }
            Err(error) => error,
        };
        if error.exit != Exit::Unreachable || !connected_once || down_since.elapsed() >= terms.give_up_after {
            return Err(Over::Error(error));
        }
        tell(out, Heard::Lost(error.message)).await?;
        tokio::select! {
            () = out.closed() => return Err(Over::ListenerGone),
            () = sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn open(terms: &Terms) -> Result<(Client, tonic::Streaming<v1::WatchResponse>)> {
    let client = Client::connect(&terms.connect).await?;
    let request = v1::WatchRequest { project: client.project(), from: terms.from.clone() };
    let stream = within(client.api().watch(request)).await?;
    Ok((client, stream))
}

/// Until the stream ends; answers with why.
async fn listen(
    mut stream: tonic::Streaming<v1::WatchResponse>,
    from: &mut Option<v1::Revision>,
    out: &Out,
    backoff: &mut Duration,
) -> std::result::Result<Box<CliError>, Over> {
    loop {
        let message = tokio::select! {
            () = out.closed() => return Err(Over::ListenerGone),
            message = stream.message() => message,
        };
        match message {
            Ok(Some(message)) => {
                // A stream that speaks is a good one.
                *backoff = BACKOFF_FIRST;
                let revision = match &message.body {
                    Some(Body::Snapshot(situation)) => situation.revision.clone(),
                    Some(Body::Change(change)) => change.revision.clone(),
                    Some(Body::Readouts(_)) | None => None,
                };
                tell(out, Heard::Message(Box::new(message))).await?;
                // Only what the listener was given counts as heard.
                if revision.is_some() {
                    *from = revision;
                }
            }
            Ok(None) => return Ok(CliError::new(Exit::Unreachable, "the orchestrator ended the stream")),
            Err(status) => return Ok(exit::of_status(&status)),
        }
    }
}

/// The situation after a message: what the live table shows.
pub fn apply(situation: &mut v1::Situation, body: Body) {
    match body {
        Body::Snapshot(snapshot) => *situation = snapshot,
        Body::Change(change) => apply_change(situation, change),
        Body::Readouts(update) => {
            for agent in &mut situation.agents {
                // An agent that is not told has no reading that is worth showing.
                agent.readout = update.agents.get(&agent.name).cloned();
            }
            situation.hosts = update.hosts;
        }
    }
}

fn apply_change(situation: &mut v1::Situation, change: v1::Change) {
    situation.revision = change.revision.or(situation.revision.take());
    situation.at_unix_ms = change.at_unix_ms;
    situation.verified = change.verified;
    situation.claimed = change.claimed;
    situation.unknown = change.unknown;
    situation.generation = change.generation;
    situation.blockers = change.blockers;
    situation.agents.retain(|a| !change.removed_agents.contains(&a.name));
    for mut agent in change.agents {
        match situation.agents.iter_mut().find(|a| a.name == agent.name) {
            Some(known) => {
                // Changes carry no readings.
                agent.readout = agent.readout.or(known.readout.take());
                *known = agent;
            }
            None => situation.agents.push(agent),
        }
    }
    situation.agents.sort_by(|a, b| a.name.cmp(&b.name));
    for finding in change.findings {
        situation.findings.retain(|f| f.id != finding.id);
        if finding.closed_unix_ms.is_none() {
            situation.findings.push(finding);
        }
    }
    situation.findings.sort_by_key(|f| f.id);
    for intervention in change.interventions {
        match situation.interventions.iter_mut().find(|i| i.id == intervention.id) {
            Some(known) => *known = intervention,
            // Newest first.
            None => situation.interventions.insert(0, intervention),
        }
    }
    situation.interventions.truncate(INTERVENTIONS_KEPT);
}

/// A watch that runs for days keeps no more than this.
const INTERVENTIONS_KEPT: usize = 200;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::render::samples, *};

    #[test]
    fn a_change_is_applied_to_what_is_shown() {
        let mut shown = v1::Situation::default();
        apply(&mut shown, Body::Snapshot(samples::night()));
        let mut backend = shown.agents[0].clone();
        backend.readout = None;
        backend.verified = 0.5;
        let mut closed = shown.findings[0].clone();
        closed.closed_unix_ms = Some(1);
        let mut decided = shown.interventions[3].clone();
        decided.outcome = v1::InterventionOutcome::Effective as i32;
        let change = v1::Change {
            revision: Some(v1::Revision { lineage: "l".into(), sequence: 9 }),
            at_unix_ms: samples::NOW,
            agents: vec![v1::Agent { name: "ai-ml".into(), ..Default::default() }, backend],
            removed_agents: vec!["design".into()],
            findings: vec![closed, v1::Finding { id: 40, ..Default::default() }],
            interventions: vec![decided, v1::Intervention { id: "c9".into(), ..Default::default() }],
            verified: 0.6,
            unknown: 0.25,
            generation: 2,
            ..Default::default()
        };
        apply(&mut shown, Body::Change(change));
        let names: Vec<&str> = shown.agents.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, ["ai-ml", "backend", "frontend"]);
        assert!(shown.agents[1].readout.is_some(), "a change must not lose the reading");
        assert_eq!(shown.agents[1].verified, 0.5);
        assert_eq!(shown.findings.iter().map(|f| f.id).collect::<Vec<_>>(), [12, 40]);
        let ids: Vec<&str> = shown.interventions.iter().map(|i| i.id.as_str()).collect();
        assert_eq!(ids, ["c9", "c6-0a1b2c", "c5-0a1b2c", "c4-0a1b2c", "c3-0a1b2c"]);
        assert_eq!(shown.interventions[4].outcome(), v1::InterventionOutcome::Effective);
        assert!(shown.blockers.is_empty() && shown.generation == 2);
        assert_eq!((shown.verified, shown.unknown), (0.6, 0.25));
        assert_eq!(shown.revision.as_ref().map(|r| r.sequence), Some(9));
    }

    #[test]
    fn readings_replace_readings() {
        let mut shown = samples::night();
        let told = BTreeMap::from([("frontend".to_owned(), v1::Readout { age_ms: 7, ..Default::default() })]);
        apply(&mut shown, Body::Readouts(v1::ReadoutUpdate { agents: told, hosts: Vec::new() }));
        assert!(shown.agents[0].readout.is_none() && shown.hosts.is_empty());
        assert_eq!(shown.agents[1].readout.as_ref().map(|r| r.age_ms), Some(7));
    }
}
