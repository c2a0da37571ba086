//! What is measured how in this place, and why the rest is not: for `doctor`.
use super::{Sampler, clocks};

/// One kind of figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Means {
    pub what: &'static str,
    /// How, or why not.
    pub how: Result<String, String>,
    /// What would change it; empty where nothing has to.
    pub change: String,
}

const BIND: &str = "bind the agent's cgroup: volumes: [\"/sys/fs/cgroup/…/AGENT:/cg:ro\"] on the sidecar, one for each controller of v1";

const PRESSURE: &str = "a cgroup of its own in the unified hierarchy, of a kernel that counts pressure (psi=1)";

impl Sampler {
    /// As of the last sample.
    pub fn means(&self) -> Vec<Means> {
        let view = self.agent.view();
        let places = if view.places.is_empty() { &self.beyond.places } else { &view.places };
        let own = !places.is_empty();
        let at = places.directories().first().map(|d| d.display().to_string()).unwrap_or_default();
        let counters = &self.counters;
        let mut all = Vec::new();
        let mut add = |what, how: Result<String, String>, change: &str| {
            let change = if how.is_ok() { String::new() } else { change.to_owned() };
            all.push(Means { what, how, change });
        };
        let by = |known: bool, file: &str, else_by: &str| {
            if known { format!("{file} of {} at {at}", places.source()) } else { else_by.to_owned() }
        };
        add("measures cpu", Ok(by(counters.cpu_usec.is_some(), "the use", "the sum of its processes")), "");
        let what_came_and_went = match counters.cpu_usec {
            Some(_) => Ok("what its cgroup counts and no process that was seen".to_owned()),
            None => {
                Err("what comes and goes between two looks is not attributed: it has no cgroup of its own here".into())
            }
        };
        add("measures short-lived", what_came_and_went, BIND);
        add("measures memory", Ok(by(counters.memory_bytes.is_some(), "the use", "the sum of its processes")), "");
        let events = match counters.events.oom_kill {
            Some(_) => Ok(format!("events of {}", places.source())),
            None if own => Err("its cgroup has no memory controller here".to_owned()),
            None => Err("it has no cgroup of its own here".into()),
        };
        add("measures out of memory", events, BIND);
        let io =
            match counters.devices {
                Some(_) => Ok(format!("by device, of {}", places.source())),
                None => Ok("the sum of those of its processes that may be looked at; no cgroup of it counts by device"
                    .to_owned()),
            };
        add("measures I/O", io, "");
        let pressure = match counters.stalled_usec.iter().any(Option::is_some) {
            true => Ok("stalls for CPU, memory and I/O that its cgroup counts".to_owned()),
            false => {
                Err("its cgroup counts none: the wait on run queues alone, of the process that waits most".to_owned())
            }
        };
        add("measures pressure", pressure, PRESSURE);
        let clocks = match (self.table.has_clocks(), clocks::usable()) {
            (true, _) => "a CPU clock for each, and the rest of those that moved".to_owned(),
            (false, Err(why)) => format!("each one's stat, at ten times the price: {why}"),
            (false, Ok(())) => "each one's stat".to_owned(),
        };
        add("measures processes", Ok(clocks), "");
        let network = match &self.network.absent {
            None if self.stats.is_empty() => Err("no process of it is seen".to_owned()),
            None => Ok("the devices of its own network namespace".to_owned()),
            Some(why) => Err(why.clone()),
        };
        add("measures network", network, "a network namespace of its own, as each container has");
        all
    }
}
