//! The table rung × way of undoing. Each cell is a real orchestrator, a real sidecar and a real agent: a limit is asked
//! for, and the raw value is read from outside before, while it holds, and after it was undone in one of six ways.
//!
//! `value` knows where each rung's value stands, `way` what undoes it. A cell is good when the value was changed as asked
//! and is afterwards what it was before; with a foreign writer, when that one's value was left alone.
use std::{fs, path::Path, time::Duration};

use anyhow::Result;
use pitwall_proto::v1::Resource;
use serde_json::{Value, json};

use crate::stage::Stage;

mod value;
mod way;

use value::Kind;
use way::{Cell, Play, Way};

/// Short windows; no clock is scaled.
const WINDOWS: &str = "windows: { heartbeat_every: 1s, start_grace: 5s, command_expiry: 60s, result_grace: 10s }\n\
                       defaults: { expected_within: 60s, stall_after: 600s, misdirected_after: 600s, sample_every: 1s }";
/// Two processes: a shell, and its child that always wants the CPU.
const AGENT: [&str; 4] = ["--", "sh", "-c", "(while :; do :; done) & wait"];

/// Which cgroups a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    V1,
    V2,
}

impl Machine {
    fn here() -> Self {
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { Self::V2 } else { Self::V1 }
    }
}

/// One limit, in one way of setting it.
#[derive(Clone, Copy, Debug)]
pub struct Rung {
    pub name: &'static str,
    pub resource: Resource,
    /// `Err`: why there is no such limit to be tried here.
    pub kind: Result<Kind, &'static str>,
    pub via: &'static str,
    pub amount: f64,
    /// One process alone.
    pub alone: bool,
    pub on: Option<Machine>,
}

const fn rung(name: &'static str, resource: Resource, kind: Kind, via: &'static str, amount: f64) -> Rung {
    Rung { name, resource, kind: Ok(kind), via, amount, alone: false, on: None }
}

const fn only_on(mut rung: Rung, on: Machine) -> Rung {
    rung.on = Some(on);
    rung
}

const fn alone(mut rung: Rung) -> Rung {
    rung.alone = true;
    rung
}

const fn absent(name: &'static str, resource: Resource, why: &'static str) -> Rung {
    Rung { name, resource, kind: Err(why), via: "nvml", amount: 0.0, alone: false, on: None }
}

const NO_GPU: &str = "no GPU here; tested with a stand-in for the driver's library";

/// All of them; what a kernel of the other kind has is not in its table.
fn all() -> Vec<Rung> {
    use Machine::{V1, V2};
    const MIB: f64 = 1_048_576.0;
    vec![
        only_on(rung("cpu by cgroup1", Resource::Cpu, Kind::CpuV1, "cgroup1", 0.3), V1),
        only_on(rung("cpu by cgroup2", Resource::Cpu, Kind::CpuV2, "cgroup2", 0.3), V2),
        only_on(rung("weight by cgroup1", Resource::CpuWeight, Kind::WeightV1, "cgroup1", 50.0), V1),
        only_on(rung("weight by cgroup2", Resource::CpuWeight, Kind::WeightV2, "cgroup2", 50.0), V2),
        only_on(rung("pids by cgroup1", Resource::Pids, Kind::PidsV1, "cgroup1", 64.0), V1),
        only_on(rung("pids by cgroup2", Resource::Pids, Kind::PidsV2, "cgroup2", 64.0), V2),
        only_on(rung("io by cgroup1", Resource::Io, Kind::IoV1, "cgroup1", 20e6), V1),
        only_on(rung("io by cgroup2", Resource::Io, Kind::IoV2, "cgroup2", 20e6), V2),
        only_on(rung("memory by cgroup1", Resource::Memory, Kind::MemoryV1, "cgroup1", 512.0 * MIB), V1),
        only_on(rung("memory by cgroup2", Resource::Memory, Kind::MemoryV2, "cgroup2", 512.0 * MIB), V2),
        only_on(rung("freeze by cgroup1", Resource::Freeze, Kind::FreezeV1, "cgroup1", 1.0), V1),
        only_on(rung("freeze by cgroup2", Resource::Freeze, Kind::FreezeV2, "cgroup2", 1.0), V2),
        only_on(alone(rung("one process by cgroup1", Resource::Cpu, Kind::CpuV1, "cgroup1", 0.3)), V1),
        only_on(alone(rung("one process by cgroup2", Resource::Cpu, Kind::CpuV2, "cgroup2", 0.3)), V2),
        rung("affinity", Resource::Cpu, Kind::Affinity, "affinity", 1.0),
        rung("nice", Resource::CpuWeight, Kind::Nice, "nice", 10.0),
        rung("duty-cycle", Resource::Cpu, Kind::DutyCycle, "duty-cycle", 0.3),
        absent("GPU power", Resource::GpuPower, NO_GPU),
        absent("GPU clock", Resource::GpuClock, NO_GPU),
    ]
}

/// The kernel's release.
pub fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

#[derive(Default)]
pub struct Table(Vec<Cell>);

/// `only`: what has one of these in its name.
pub async fn table(only: &[String], quick: bool) -> Result<Table> {
    let machine = Machine::here();
    let mut table = Table::default();
    let wanted = |rung: &Rung| {
        let named = only.is_empty() || only.iter().any(|text| rung.name.contains(text.as_str()));
        named && rung.on.is_none_or(|on| on == machine)
    };
    for rung in all().into_iter().filter(wanted) {
        let kind = match rung.kind {
            Ok(kind) => kind,
            Err(why) => {
                table.0.extend(Way::ALL.map(|way| Cell::absent(&rung, way, why)));
                continue;
            }
        };
        let stage = Stage::new(&[way::AGENT_NAME], WINDOWS).await?;
        let command = AGENT.map(str::to_owned);
        let mut play = Play::begin(&stage, &rung, kind, &command).await?;
        // The last leaves an orchestrator that was away.
        for way in Way::ALL.into_iter().filter(|way| !quick || *way == Way::Unthrottle) {
            let cell = play.cell(way).await;
            eprintln!("{}", cell.line());
            table.0.push(cell);
        }
        drop(play);
    }
    Ok(table)
}

impl Table {
    /// Each limit was set and undone as it should; a GPU may be missing.
    pub fn good(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|cell| cell.good != Some(false))
    }

    pub fn json(&self) -> Vec<Value> {
        let kernel = kernel();
        let row = |cell: &Cell| {
            let mut row = json!({
                "row": "rungs", "what": cell.rung, "way": cell.way.name(), "kernel": kernel, "place": cell.place,
                "before": cell.before, "during": cell.during, "after": cell.after, "met": cell.good,
            });
            if let Value::Object(map) = &mut row {
                for (key, value) in [("dead", &cell.dead), ("adopted", &cell.adopted)] {
                    map.extend(value.as_ref().map(|value| (key.to_owned(), json!(value))));
                }
                if !cell.why.is_empty() {
                    map.insert("why".into(), json!(cell.why));
                }
            }
            row
        };
        self.0.iter().map(row).collect()
    }

    pub fn text(&self) -> String {
        let mut text = format!("kernel {}\n{:<24}", kernel(), "");
        for way in Way::ALL {
            text.push_str(&format!("{:<22}", way.name()));
        }
        text.push('\n');
        let mut names: Vec<&str> = self.0.iter().map(|cell| cell.rung).collect();
        names.dedup();
        for name in names {
            text.push_str(&format!("{name:<24}"));
            for way in Way::ALL {
                let cell = self.0.iter().find(|cell| cell.rung == name && cell.way == way);
                let word = match cell.map(|cell| cell.good) {
                    Some(Some(true)) => "undone",
                    Some(Some(false)) => "NOT",
                    Some(None) => "null",
                    None => "-",
                };
                text.push_str(&format!("{word:<22}"));
            }
            text.push('\n');
        }
        text
    }
}

/// What may take how long, natively; waits are given `pitwall_tests::wait::SLACK` times this.
pub const SET_WITHIN: Duration = Duration::from_secs(10);
pub const UNDONE_WITHIN: Duration = Duration::from_secs(6);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_each_resource_and_only_a_gpu_may_be_missing() {
        for machine in [Machine::V1, Machine::V2] {
            let here: Vec<Rung> = all().into_iter().filter(|rung| rung.on.is_none_or(|on| on == machine)).collect();
            for resource in [
                Resource::Cpu,
                Resource::CpuWeight,
                Resource::Pids,
                Resource::Io,
                Resource::Memory,
                Resource::Freeze,
                Resource::GpuPower,
                Resource::GpuClock,
            ] {
                assert!(here.iter().any(|rung| rung.resource == resource), "{machine:?} {resource:?}");
            }
            assert!(here.iter().any(|rung| rung.alone));
            assert!(here.iter().all(|rung| rung.kind.is_ok() || rung.name.starts_with("GPU")));
        }
    }
}
