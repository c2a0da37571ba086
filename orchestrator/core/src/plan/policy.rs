//! What the sidecar may do by itself, every default filled in: from `raw_policy.rs` to the plan's own types. What would
//! never act as it is written is a mistake here, not a surprise at night.
use std::collections::BTreeMap;

use super::{
    mistake::Mistakes,
    node::Place,
    raw,
    raw_policy::{self, Limit},
    read::{At, Count, Duration, OneOrMany, Positive, Size, Table, Text},
    resolve::{check_name, ms},
    rules::{self, CheckWindows},
    types::{Health, NamedProcess, OnExceed, Quota, Resource, RestartOn, RestartPolicy},
};

const QUOTA_FOR_MS: u64 = 30_000;
const COOLDOWN_MS: u64 = 120_000;
/// Never below 10 % of a core.
const CPU_FLOOR: f64 = 0.1;
const NAMED_MAX: usize = 32;
const HEALTH_MAX: usize = 32;
const PROTECT_MAX: usize = 64;

/// What an agent says, as it was written.
pub struct Written {
    pub quota: Option<At<raw_policy::Quota>>,
    pub protect: Option<At<OneOrMany<Text>>>,
    pub processes: Option<At<Table<raw_policy::NamedProcess>>>,
    pub restart: Option<At<raw_policy::Restart>>,
    pub health: Option<At<Table<raw_policy::Health>>>,
}

pub struct Policy {
    pub quotas: Vec<Quota>,
    pub protect: Vec<String>,
    pub processes: BTreeMap<String, NamedProcess>,
    pub restart: Option<RestartPolicy>,
    pub health: BTreeMap<String, Health>,
}

pub fn resolve(own: Written, defaults: &raw::AgentDefaults, windows: CheckWindows, mistakes: &mut Mistakes) -> Policy {
    let quotas = quotas([own.quota.as_ref(), defaults.quota.as_ref()], None, mistakes);
    let mut protect: Vec<String> = Vec::new();
    for at in [own.protect, defaults.protect.clone()].into_iter().flatten().flat_map(|at| at.value.0) {
        if command_name(&at, mistakes) && !protect.contains(&at.value.0) {
            protect.push(at.value.0);
        }
    }
    if protect.len() > PROTECT_MAX {
        let message = format!("{} protected processes", protect.len());
        mistakes.add(Place::START, message, format!("an agent has at most {PROTECT_MAX}"));
    }
    let processes = table(own.processes, NAMED_MAX, "process", mistakes)
        .into_iter()
        .map(|(name, at)| {
            let named = named(&name, at, mistakes);
            (name, named)
        })
        .collect();
    let restart = restart([own.restart.as_ref(), defaults.restart.as_ref()], mistakes);
    let health = table(own.health, HEALTH_MAX, "health check", mistakes)
        .into_iter()
        .filter_map(|(name, at)| Some((name, health(at.value, windows, mistakes)?)))
        .collect();
    Policy { quotas, protect, processes, restart, health }
}

/// At most so many, each with a name that is one.
fn table<T>(table: Option<At<Table<T>>>, max: usize, what: &str, mistakes: &mut Mistakes) -> BTreeMap<String, At<T>> {
    let Some(At { value: Table(all), place }) = table else { return BTreeMap::new() };
    if all.len() > max {
        mistakes.add(place, format!("{} of them", all.len()), format!("an agent has at most {max}"));
    }
    all.iter().for_each(|(name, at)| check_name(name, at.place, what, mistakes));
    all
}

/// As the kernel keeps it.
fn command_name(at: &At<Text>, mistakes: &mut Mistakes) -> bool {
    let good = !at.value.0.is_empty() && !at.value.0.contains('/');
    if !good {
        let help = "as `ps -o comm` shows it, for example next-server";
        mistakes.add(at.place, "expected a command name", help);
    }
    good
}

trait Amount {
    fn amount(&self) -> f64;
}

impl Amount for Positive {
    fn amount(&self) -> f64 {
        self.0
    }
}

impl Amount for Size {
    fn amount(&self) -> f64 {
        self.0 as f64
    }
}

impl Amount for Count {
    fn amount(&self) -> f64 {
        self.0 as f64
    }
}

/// A limit whose unit no longer matters.
struct Said {
    place: Place,
    soft: Option<(f64, Place)>,
    hard: Option<(f64, Place)>,
    r#for: Option<At<Duration>>,
    on_exceed: Option<At<OnExceed>>,
    cooldown: Option<At<Duration>>,
}

fn said<T: Amount>(at: &At<Limit<T>>) -> Said {
    let one = |value: &Option<At<T>>| value.as_ref().map(|at| (at.value.amount(), at.place));
    let limit = &at.value;
    Said {
        place: at.place,
        soft: one(&limit.soft),
        hard: one(&limit.hard),
        r#for: limit.r#for.clone(),
        on_exceed: limit.on_exceed.clone(),
        cooldown: limit.cooldown.clone(),
    }
}

fn word(resource: Resource) -> &'static str {
    match resource {
        Resource::Cpu => "cpu",
        Resource::Memory => "memory",
        Resource::Pids => "pids",
        Resource::Disk => "disk",
        Resource::GpuMemory => "gpu_memory",
    }
}

/// Each limit on its own: an agent that sets its CPU keeps the default for memory. What a limit does not say, its quota
/// says, then the defaults' quota.
fn quotas(from: [Option<&At<raw_policy::Quota>>; 2], named: Option<&Named>, mistakes: &mut Mistakes) -> Vec<Quota> {
    let from: Vec<&raw_policy::Quota> = from.into_iter().flatten().map(|at| &at.value).collect();
    let found = [
        (Resource::Cpu, from.iter().find_map(|q| q.cpu.as_ref()).map(said)),
        (Resource::Memory, from.iter().find_map(|q| q.memory.as_ref()).map(said)),
        (Resource::Pids, from.iter().find_map(|q| q.pids.as_ref()).map(said)),
        (Resource::Disk, from.iter().find_map(|q| q.disk.as_ref()).map(said)),
        (Resource::GpuMemory, from.iter().find_map(|q| q.gpu_memory.as_ref()).map(said)),
    ];
    let mut quotas = Vec::new();
    for (resource, said) in found {
        let Some(said) = said else { continue };
        let for_ms = ms(&said.r#for).or_else(|| from.iter().find_map(|q| ms(&q.r#for))).unwrap_or(QUOTA_FOR_MS);
        let general = || from.iter().find_map(|q| q.on_exceed.as_ref());
        let wanted = said.on_exceed.as_ref().or_else(general).map(|at| (at.value, at.place));
        let wanted = wanted.or_else(|| named.and_then(|n| n.on_exceed));
        // A soft limit alone is told, unless it says itself that it acts.
        let told_only = said.hard.is_none() && said.on_exceed.is_none() && said.soft.is_some();
        let wanted = wanted.filter(|_| !told_only);
        let on_exceed = wanted.map_or(OnExceed::Warn, |(what, _)| what);
        let cooldown = ms(&said.cooldown).or_else(|| from.iter().find_map(|q| ms(&q.cooldown))).unwrap_or(COOLDOWN_MS);
        let cooldown_ms = if on_exceed == OnExceed::Warn { 0 } else { cooldown };
        if let (Some((soft, place)), Some((hard, _))) = (said.soft, said.hard) {
            if soft >= hard {
                let message = format!("the soft limit for {} is not below the hard one", word(resource));
                mistakes.add(place, message, "the soft one is told first, the hard one acts");
                continue;
            }
            quotas.push(Quota { resource, limit: soft, for_ms, on_exceed: OnExceed::Warn, cooldown_ms: 0, soft: true });
        }
        let Some((limit, place)) = said.hard.or(said.soft) else { continue };
        // Said for all limits at once: the one that it does not fit is what stands wrong.
        let own = said.on_exceed.is_some();
        let at = wanted.filter(|_| own).map_or(said.place, |(_, place)| place);
        if !fits(resource, limit, on_exceed, named, at, place, mistakes) {
            continue;
        }
        quotas.push(Quota { resource, limit, for_ms, on_exceed, cooldown_ms, soft: false });
    }
    quotas
}

fn fits(
    resource: Resource,
    limit: f64,
    on_exceed: OnExceed,
    named: Option<&Named>,
    at: Place,
    limit_at: Place,
    mistakes: &mut Mistakes,
) -> bool {
    let what = word(resource);
    let named_restart = named.is_some() && on_exceed == OnExceed::Restart;
    let (place, message, help) = match (resource, on_exceed) {
        (Resource::Cpu, OnExceed::Throttle) if limit < CPU_FLOOR => {
            (limit_at, format!("nothing is ever held below {CPU_FLOOR} cores"), "raise the limit, or only warn")
        }
        (Resource::Disk | Resource::GpuMemory, OnExceed::Throttle) => {
            (at, format!("{what} cannot be throttled"), "use warn, restart or freeze")
        }
        (Resource::Disk, OnExceed::KillProcess) => {
            (at, "nobody knows which process fills the disk".into(), "use warn, restart or freeze")
        }
        (Resource::Disk, _) if named.is_some() => {
            (limit_at, "the disk is the agent's, not a process's".into(), "put it into the agent's quota")
        }
        (_, OnExceed::Restart) if named_restart => {
            (at, "one process alone cannot be restarted".into(), "use kill_process, if something starts it again")
        }
        (_, OnExceed::KillProcess) if named.is_some_and(|n| n.protect) => {
            (at, "it is protected, and its own quota would kill it".into(), "take out one of the two")
        }
        _ => return true,
    };
    mistakes.add(place, message, help);
    false
}

/// What a named process says beside its quota.
struct Named {
    on_exceed: Option<(OnExceed, Place)>,
    protect: bool,
}

fn named(name: &str, at: At<raw_policy::NamedProcess>, mistakes: &mut Mistakes) -> NamedProcess {
    let raw = at.value;
    let own = Named {
        on_exceed: raw.on_exceed.as_ref().map(|at| (at.value, at.place)),
        protect: raw.protect.is_some_and(|at| at.value.0),
    };
    let quotas = quotas([raw.quota.as_ref(), None], Some(&own), mistakes);
    if let Some((_, place)) = own.on_exceed.filter(|_| raw.quota.is_none()) {
        mistakes.add(place, format!("{name} has no quota that could be exceeded"), "add `quota: { memory: 1GiB }`");
    }
    let (process, command) = match raw.r#match {
        None => (name.to_owned(), String::new()),
        Some(At { value, place }) => {
            let good = value.name.as_ref().is_none_or(|at| command_name(at, mistakes));
            let text = |at: Option<At<Text>>| at.map(|at| at.value.0).unwrap_or_default();
            let (process, command) = (text(value.name), text(value.command));
            if good && process.is_empty() && command.is_empty() {
                mistakes.add(place, format!("nothing says which processes are {name}"), "give `name:` or `command:`");
            }
            (process, command)
        }
    };
    NamedProcess { process, command, quotas, protect: own.protect }
}

fn restart(from: [Option<&At<raw_policy::Restart>>; 2], mistakes: &mut Mistakes) -> Option<RestartPolicy> {
    let from: Vec<&At<raw_policy::Restart>> = from.into_iter().flatten().collect();
    let place = from.first()?.place;
    let span = |of: fn(&raw_policy::Restart) -> &Option<At<Duration>>, default| {
        from.iter().find_map(|at| ms(of(&at.value))).unwrap_or(default)
    };
    let max = from.iter().find_map(|at| at.value.max.as_ref());
    if let Some(max) = max.filter(|at| at.value.0 == 0 || at.value.0 > 1_000) {
        let message = format!("{} restarts in a row", max.value.0);
        mistakes.add(max.place, message, "1 to 1000; to have none, write `on: never`");
    }
    let policy = RestartPolicy {
        on: from.iter().find_map(|at| at.value.on.as_ref()).map_or(RestartOn::Never, |at| at.value),
        backoff_ms: span(|r| &r.backoff, 1_000),
        backoff_max_ms: span(|r| &r.backoff_max, 300_000),
        stable_after_ms: span(|r| &r.stable_after, 600_000),
        max: max.map_or(5, |at| u32::try_from(at.value.0).unwrap_or(u32::MAX)),
    };
    if policy.backoff_ms > policy.backoff_max_ms {
        mistakes.add(place, "backoff is above backoff_max", "the first wait is the shortest");
    }
    Some(policy)
}

fn health(raw: raw_policy::Health, windows: CheckWindows, mistakes: &mut Mistakes) -> Option<Health> {
    let mut count = |at: &Option<At<Count>>, default| match at {
        Some(at) if at.value.0 == 0 || at.value.0 > 1_000 => {
            mistakes.add(at.place, format!("{} in a row", at.value.0), "1 to 1000");
            default
        }
        Some(at) => u32::try_from(at.value.0).unwrap_or(default),
        None => default,
    };
    let (failures, successes) = (count(&raw.failures, 3), count(&raw.successes, 1));
    let startup = raw.startup.as_ref().and_then(|at| ms(&at.value.within));
    Some(Health {
        rule: rules::rule(raw.rule, raw.place, mistakes)?,
        every_ms: ms(&raw.every).unwrap_or(10_000),
        timeout_ms: ms(&raw.timeout).unwrap_or(windows.timeout_ms),
        startup_within_ms: startup.unwrap_or(30_000),
        failures,
        successes,
        on_failure: raw.on_failure.map(|at| at.value).unwrap_or_default(),
    })
}
