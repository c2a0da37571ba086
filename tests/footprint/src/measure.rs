//! Rows P1 to P3: what one sample of the shipped sidecar costs with its send, beside the limit program and the peers, all
//! over the same time; its memory after that; the size of its binary.
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use pitwall_proto::v1;
use prost::Message as _;
use serde_json::{Map, Value, json};

use crate::{
    accuracy::{self, Reading},
    crowd, meter,
    peers::{self, Peer},
    rows::{Row, rounded},
    sink,
    stage::{self, Binaries, Stage},
};

const CROWDS: [u32; 2] = [20, 200];
/// Of a crowd, one in so many is active.
const ACTIVE_OF: u32 = 5;
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// An operator looks so often for new readings.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Until everybody has settled: joined, read what there is, taken the memory that it needs.
const SETTLES: Duration = Duration::from_secs(3);
const AGENT: &str = "crowd";

/// Goals of the rows: times the limit, and bytes.
const P1_TIMES: f64 = 1.5;
const P1_OF_COLLECTD: f64 = 0.25;
const P2_RSS: f64 = 8e6;
const P2_PSS: f64 = 5e6;
const P3_BYTES: f64 = 6e6;

pub async fn rows(binaries: &Binaries, over: Duration) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for processes in CROWDS {
        let measured = one(binaries, processes, over).await?;
        rows.push(measured.cpu_row(processes));
        // With everything on, and the most to do.
        if processes == CROWDS[CROWDS.len() - 1] {
            rows.extend(measured.memory_rows(over));
        }
    }
    let bytes = |path: &Path| fs::metadata(path).ok().map(|m| m.len() as f64);
    rows.push(Row {
        row: "P3",
        what: "sidecar binary".into(),
        unit: "bytes",
        product: bytes(&binaries.sidecar),
        limit: None,
        goal: P3_BYTES,
        n: 1,
        why: None,
        more: Map::from_iter([("limit_program_bytes".into(), json!(bytes(&binaries.limit)))]),
    });
    Ok(rows)
}

/// The limit program while it runs. Ends with its guard.
struct Limit(Child);

impl Drop for Limit {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One that is watched for its CPU.
#[derive(Clone, Debug, Default)]
struct Used {
    begin: Option<u64>,
    end: Option<u64>,
    memory: Option<(u64, u64)>,
}

impl Used {
    /// Milliseconds of CPU for each sample.
    fn per_sample(&self, samples: f64) -> Option<f64> {
        let used = self.end?.checked_sub(self.begin?)?;
        (samples > 0.0).then(|| used as f64 / 1e6 / samples)
    }
}

struct Measured {
    /// Of the sidecar.
    samples: f64,
    /// Of everybody else: one each second.
    rounds: usize,
    sent: usize,
    sidecar: Used,
    /// `Err`: why there is none.
    limit: Result<Used, String>,
    peers: Vec<(&'static str, usize, Used)>,
    missing: Vec<String>,
    message_bytes: usize,
    seen_by_peers: usize,
}

async fn one(binaries: &Binaries, processes: u32, over: Duration) -> Result<Measured> {
    let stage = Stage::new(&[AGENT], "defaults: { sample_every: 1s }").await?;
    let part = ["crowd", &processes.to_string(), &(processes / ACTIVE_OF).to_string()];
    let (command, apart) = peers::wrap(crowd::command(&part));
    let sidecar = stage.sidecar(AGENT, &command);
    let agent = stage.measured(AGENT, processes).await;
    let root = agent.root.as_ref().and_then(|root| u32::try_from(root.pid).ok()).context("the agent has a root")?;
    let message_bytes = size(&agent);
    let limit = start_limit(binaries, &stage, root, message_bytes).await.map_err(|why| format!("{why:#}"));
    // The crowd's own root: where it is in a namespace, that is the first of it.
    let inside = apart.then(|| meter::family(root).get(1).copied()).flatten();
    let (mut peers, missing) = peers::start(peers::Place { dir: stage.dir.path(), inside });
    stage::until(Instant::now() + SETTLES).await;

    let pids = (sidecar.pid(), limit.as_ref().ok().map(|limit| limit.0.id()));
    let mut all = Measured {
        samples: 0.0,
        rounds: 0,
        sent: 0,
        sidecar: Used { begin: meter::cpu_ns(pids.0), ..Used::default() },
        limit: limit
            .as_ref()
            .map(|limit| Used { begin: meter::cpu_ns(limit.0.id()), ..Used::default() })
            .map_err(Clone::clone),
        peers: peers.iter().map(|peer| (peer.name, 0, Used { begin: peer.cpu_ns(), ..Used::default() })).collect(),
        missing,
        message_bytes,
        seen_by_peers: if inside.is_some() { processes as usize + peers.len() } else { meter::processes() },
    };
    let rounds = async {
        let begin = Instant::now();
        let mut rounds = 0;
        while SAMPLE_EVERY * (rounds + 1) <= over {
            rounds += 1;
            stage::until(begin + SAMPLE_EVERY * rounds).await;
            tokio::task::block_in_place(|| ask(&mut peers));
        }
        rounds as usize
    };
    let readings = accuracy::readings(&stage, AGENT, over, LOOK_EVERY);
    let (rounds, readings) = tokio::join!(rounds, readings);
    all.rounds = rounds;
    all.samples = samples(&readings, over);
    all.sent = readings.len();
    all.sidecar.end = meter::cpu_ns(pids.0);
    all.sidecar.memory = meter::memory(pids.0);
    if let (Ok(used), Some(pid)) = (&mut all.limit, pids.1) {
        used.end = meter::cpu_ns(pid);
        used.memory = meter::memory(pid);
    }
    for (peer, (_, samples, used)) in peers.iter().zip(&mut all.peers) {
        *samples = peer.scrapes as usize;
        used.end = peer.cpu_ns();
        used.memory = peer.memory();
    }
    Ok(all)
}

/// How many samples the sidecar made, by the time that each covers: it may make fewer than it was asked for, and where
/// nothing moves it does not send each of them.
fn samples(readings: &[Reading], over: Duration) -> f64 {
    let covers = readings.iter().map(|r| r.interval).sum::<f64>() / readings.len().max(1) as f64;
    if covers > 0.0 { over.as_secs_f64() / covers } else { 0.0 }
}

fn ask(peers: &mut [Peer]) {
    for peer in peers {
        if let Err(why) = peer.scrape() {
            eprintln!("{}: {why:#}", peer.name);
        }
    }
}

/// What a sidecar sends of such a reading.
fn size(agent: &v1::Agent) -> usize {
    let none = v1::Readout::default();
    let readout = agent.readout.as_ref().unwrap_or(&none);
    let readings = v1::Readings {
        interval_ms: readout.interval_ms,
        agent: readout.agent,
        top: readout.top.clone(),
        other: readout.other,
        sidecar: readout.sidecar,
        gpus: readout.gpus.clone(),
        ..Default::default()
    };
    // And the host, which an operator sees elsewhere.
    readings.encoded_len() + 100
}

/// The same files: each process's, the agent's cgroups', the host's.
async fn start_limit(binaries: &Binaries, stage: &Stage, root: u32, bytes: usize) -> Result<Limit> {
    anyhow::ensure!(binaries.limit.exists(), "{} is not built", binaries.limit.display());
    let identity = stage.path("limit");
    let url = sink::listen(&identity).await?;
    let mut files: Vec<String> = meter::family(root).iter().map(|pid| format!("/proc/{pid}/stat")).collect();
    files.extend(["/proc/stat", "/proc/meminfo", "/proc/loadavg"].map(str::to_owned));
    files.extend(cgroup_files(root));
    let mut command = Command::new(&binaries.limit);
    command.arg(url).arg(identity).arg(bytes.to_string()).arg(SAMPLE_EVERY.as_millis().to_string()).args(files);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
    Ok(Limit(command.spawn().context("the limit program cannot be started")?))
}

fn cgroup_files(pid: u32) -> Vec<String> {
    const V2: [&str; 6] = ["cpu.stat", "cpu.pressure", "memory.current", "memory.stat", "pids.current", "cgroup.procs"];
    const V1: [&str; 5] = ["cpuacct.usage", "cpu.stat", "memory.usage_in_bytes", "memory.stat", "cgroup.procs"];
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut files = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (folder, names): (String, &[&str]) = match controllers {
            "" => (format!("/sys/fs/cgroup{path}"), &V2),
            _ => (format!("/sys/fs/cgroup/{controllers}{path}"), &V1),
        };
        files.extend(names.iter().map(|name| format!("{folder}/{name}")).filter(|file| Path::new(file).exists()));
    }
    files
}

impl Measured {
    fn cpu_row(&self, processes: u32) -> Row {
        let own = self.sidecar.per_sample(self.samples);
        let mut more = Map::new();
        let mut table = Map::new();
        for (name, samples, used) in &self.peers {
            let per_sample = used.per_sample(*samples as f64);
            let megabytes = |bytes: u64| rounded(bytes as f64 / 1e6);
            table.insert(
                (*name).into(),
                json!({"ms": per_sample.map(rounded), "rss_mb": used.memory.map(|m| megabytes(m.0)), "pss_mb": used.memory.map(|m| megabytes(m.1))}),
            );
            eprintln!("     {name}: {:.2} ms", per_sample.unwrap_or(f64::NAN));
        }
        let collectd =
            self.peers.iter().find(|(name, ..)| *name == "collectd").and_then(|(_, n, u)| u.per_sample(*n as f64));
        let of_collectd = own.zip(collectd).map(|(own, collectd)| own / collectd);
        more.insert("of_collectd".into(), json!(of_collectd.map(rounded)));
        more.insert("goal_of_collectd".into(), json!(P1_OF_COLLECTD));
        more.insert("met_of_collectd".into(), json!(of_collectd.map(|ratio| ratio <= P1_OF_COLLECTD)));
        more.insert("peers".into(), Value::Object(table));
        more.insert("peers_missing".into(), json!(self.missing));
        more.insert("readings_sent".into(), json!(self.sent));
        more.insert("message_bytes".into(), json!(self.message_bytes));
        more.insert("processes_seen_by_peers".into(), json!(self.seen_by_peers));
        let limit = self.limit.as_ref().ok().and_then(|used| used.per_sample(self.rounds as f64));
        Row {
            row: "P1",
            what: format!("sidecar CPU per sample with its send, {processes} processes"),
            unit: "ms",
            product: own,
            limit,
            goal: P1_TIMES,
            n: self.samples.round() as usize,
            why: self.limit.as_ref().err().cloned(),
            more,
        }
    }

    fn memory_rows(&self, over: Duration) -> Vec<Row> {
        let limit = self.limit.as_ref().ok().and_then(|used| used.memory);
        let row = |what: &str, goal: f64, of: fn((u64, u64)) -> u64| Row {
            row: "P2",
            what: format!("sidecar {what} after {} s", over.as_secs()),
            unit: "bytes",
            product: self.sidecar.memory.map(|memory| of(memory) as f64),
            limit: None,
            goal,
            n: 1,
            why: self.sidecar.memory.is_none().then(|| "its smaps_rollup cannot be read".into()),
            more: Map::from_iter([("bare_client".into(), json!(limit.map(of)))]),
        };
        vec![row("RSS", P2_RSS, |m| m.0), row("PSS", P2_PSS, |m| m.1)]
    }
}
