//! How true readings are: loads of a known size as agents of real sidecars; what an operator reads, added up, against what
//! the kernel charged the load itself (its children included) between the same two moments.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::time::ClockId;
use serde_json::{Value, json};

use crate::{
    crowd::{self, Notes, nanoseconds},
    meter,
    rows::rounded,
    stage::{self, Stage},
};

/// An operator looks so often, to see when each reading was made.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Two readings are not closer than this.
const APART_NS: u64 = 300_000_000;
const SETTLES: Duration = Duration::from_secs(2);

struct Load {
    agent: &'static str,
    what: &'static str,
    part: [&'static str; 2],
    of: Of,
    /// Off by so much at most, as a share.
    within: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Cores,
    Bytes,
}

const LOADS: [Load; 5] = [
    Load { agent: "tenth", what: "10 % of a core", part: ["cpu", "10"], of: Of::Cores, within: 0.02 },
    Load { agent: "half", what: "50 % of a core", part: ["cpu", "50"], of: Of::Cores, within: 0.02 },
    Load { agent: "more", what: "150 % of a core, two threads", part: ["cpu", "150"], of: Of::Cores, within: 0.02 },
    Load { agent: "large", what: "300 MiB held", part: ["memory", "300"], of: Of::Bytes, within: 0.02 },
    Load { agent: "forks", what: "50 forks a second", part: ["forks", "50"], of: Of::Cores, within: 0.05 },
];

/// One line of the table.
pub struct Line {
    what: &'static str,
    unit: &'static str,
    reported: f64,
    own: f64,
    within: f64,
    seconds: f64,
    readings: usize,
    cgroup: bool,
    why: Option<String>,
}

impl Line {
    fn off(&self) -> f64 {
        self.reported / self.own - 1.0
    }

    fn met(&self) -> Option<bool> {
        self.why.is_none().then(|| self.off().abs() <= self.within)
    }

    pub fn json(&self) -> Value {
        let mut value = json!({
            "row": "accuracy", "what": self.what, "product": rounded(self.reported), "limit": rounded(self.own),
            "ratio": self.reported / self.own, "unit": self.unit, "goal": self.within, "met": self.met(),
            "n": self.readings, "seconds": rounded(self.seconds), "own_cgroup": self.cgroup,
        });
        if let (Value::Object(map), Some(why)) = (&mut value, &self.why) {
            map.insert("why".into(), json!(why));
        }
        value
    }

    pub fn text(&self) -> String {
        let met = match self.met() {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "not measured",
        };
        format!(
            "{:<30} reported {:>10.4} {}, own {:>10.4}, off {:+.2} % (within {} %), {} readings over {:.1} s: {met}{}",
            self.what,
            self.reported,
            self.unit,
            self.own,
            self.off() * 100.0,
            self.within * 100.0,
            self.readings,
            self.seconds,
            self.why.as_ref().map(|why| format!("; {why}")).unwrap_or_default()
        )
    }
}

pub async fn lines(over: Duration) -> Result<Vec<Line>> {
    let names: Vec<&str> = LOADS.iter().map(|load| load.agent).collect();
    let stage = Stage::new(&names, "defaults: { sample_every: 1s }").await?;
    let mut lines = Vec::new();
    for load in &LOADS {
        lines.push(one(&stage, load, over).await.with_context(|| load.what)?);
    }
    Ok(lines)
}

async fn one(stage: &Stage, load: &Load, over: Duration) -> Result<Line> {
    let path = stage.path(&format!("{}.notes", load.agent));
    let noted = path.to_str().context("a path in UTF-8")?;
    let part = [load.part[0], load.part[1], noted];
    let _sidecar = stage.sidecar(load.agent, &crowd::command(&part));
    let agent = stage.measured(load.agent, 1).await;
    let root = agent.root.as_ref().and_then(|root| u32::try_from(root.pid).ok()).context("the agent has a root")?;
    let cgroup = std::fs::read_to_string(format!("/proc/{root}/cgroup")).is_ok_and(|own| own.contains("/pitwall-"));
    stage::until(Instant::now() + SETTLES).await;
    let readings = readings(stage, load.agent, over, LOOK_EVERY).await;
    let covered: f64 = readings.iter().map(|r| r.interval).sum();
    let (reported, own) = match load.of {
        // Each reading against what the load used in the time that this one covers: not every one is sent.
        Of::Cores => {
            let notes = Notes::read(&path)?;
            let at = |moment| notes.cpu_at(moment).context("the load noted nothing then");
            let mut own = 0.0;
            for reading in &readings {
                own += at(reading.at)? - at(reading.at.saturating_sub((reading.interval * 1e9) as u64))?;
            }
            (readings.iter().map(|r| r.cores * r.interval).sum::<f64>() / covered, own / 1e9 / covered)
        }
        Of::Bytes => {
            let own = meter::written_memory(root).context("its memory cannot be read")?;
            // Where nothing moves there may be no second one.
            (readings.last().map_or(0.0, |r| r.bytes), own as f64)
        }
    };
    let why = readings.is_empty().then(|| "no reading was seen".to_owned());
    let unit = if load.of == Of::Cores { "cores" } else { "bytes" };
    Ok(Line {
        what: load.what,
        unit,
        reported,
        own,
        within: load.within,
        seconds: covered,
        readings: readings.len(),
        cgroup,
        why,
    })
}

pub struct Reading {
    /// When it was made, on the boot-time clock.
    pub at: u64,
    /// What it covers, in seconds.
    pub interval: f64,
    cores: f64,
    bytes: f64,
}

/// Each reading of an agent once, as an operator sees them who looks so often.
pub async fn readings(stage: &Stage, agent: &str, over: Duration, look_every: Duration) -> Vec<Reading> {
    let until = Instant::now() + over;
    let mut all: Vec<Reading> = Vec::new();
    while Instant::now() < until {
        let asked = nanoseconds(ClockId::Boottime);
        let agent = stage.agent(agent).await;
        let half_way = u64::midpoint(asked, nanoseconds(ClockId::Boottime));
        if let Some((readout, usage)) = agent.readout.as_ref().and_then(|r| Some((r, r.agent.as_ref()?))) {
            let at = half_way.saturating_sub(u64::from(readout.age_ms) * 1_000_000);
            if all.last().is_none_or(|last| at.saturating_sub(last.at) > APART_NS) {
                all.push(Reading {
                    at,
                    interval: f64::from(readout.interval_ms) / 1_000.0,
                    cores: usage.cpu_cores.unwrap_or(0.0),
                    bytes: usage.memory_bytes.unwrap_or(0) as f64,
                });
            }
        }
        tokio::time::sleep(look_every).await;
    }
    all
}
