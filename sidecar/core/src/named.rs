//! Services inside an agent: which of its processes they are, what these use together, and whether one that was killed
//! came back. A process is matched by its command name (the kernel keeps 15 bytes of it), by what its command line
//! holds, or by both; one whose command line nobody could read does not match by it.
use std::collections::{BTreeMap, BTreeSet};

use pitwall_proto::v1;

use crate::{
    io::Sample,
    quota::{self, Scope},
};

const NAME_BYTES: usize = 15;
/// So long a killed process is waited for.
const WATCH_MS: u64 = 600_000;
/// Killed ones that are watched at once, of one name.
const WATCHED_MAX: usize = 16;

/// Pid and start time: no later process is taken for it.
pub type Id = (i32, u64);

pub fn id(process: &v1::ProcessIdentity) -> Id {
    (process.pid, process.start_ticks)
}

/// Command lines by process, as the shell read them last.
pub type Lines = BTreeMap<Id, String>;

/// Does the kernel's name for it say this command?
pub fn is_called(process: &v1::ProcessIdentity, name: &str) -> bool {
    let short = |text: &str| text.as_bytes().iter().take(NAME_BYTES).copied().collect::<Vec<u8>>();
    !name.is_empty() && short(&process.name) == short(name)
}

fn matches(spec: &v1::NamedProcess, process: &v1::ProcessIdentity, lines: &Lines) -> bool {
    let by_name = spec.process.is_empty() || is_called(process, &spec.process);
    let by_line = spec.command.is_empty() || lines.get(&id(process)).is_some_and(|line| line.contains(&spec.command));
    (!spec.process.is_empty() || !spec.command.is_empty()) && by_name && by_line
}

/// Those of the sample that are this service.
pub fn processes<'a>(
    spec: &'a v1::NamedProcess,
    sample: &'a Sample,
    lines: &'a Lines,
) -> impl Iterator<Item = &'a v1::ProcessUsage> {
    sample.processes.iter().filter(|p| p.identity.as_ref().is_some_and(|identity| matches(spec, identity, lines)))
}

/// The sum of what is known; `None` where nothing is.
fn sum<T: std::ops::Add<Output = T>>(values: impl Iterator<Item = Option<T>>) -> Option<T> {
    values.flatten().reduce(|a, b| a + b)
}

fn usage(processes: &[&v1::ProcessUsage]) -> v1::Usage {
    v1::Usage {
        cpu_cores: sum(processes.iter().map(|p| p.cpu_cores)),
        memory_bytes: sum(processes.iter().map(|p| p.memory_bytes)),
        processes: u32::try_from(processes.len()).ok(),
        threads: sum(processes.iter().map(|p| p.threads)),
        read_bytes_per_s: sum(processes.iter().map(|p| p.read_bytes_per_s)),
        write_bytes_per_s: sum(processes.iter().map(|p| p.write_bytes_per_s)),
        ..v1::Usage::default()
    }
}

/// Each service's own use, held against its own quotas.
pub fn scope<'a>(spec: &'a v1::NamedProcess, sample: &'a Sample, lines: &'a Lines) -> Scope<'a> {
    let found: Vec<_> = processes(spec, sample, lines).collect();
    Scope {
        named: &spec.name,
        quotas: &spec.quotas,
        usage: usage(&found),
        none: found.is_empty(),
        processes: found,
        interval_ms: sample.interval_ms,
        gpus_tell: quota::gpus_tell(sample),
        ..Scope::default()
    }
}

/// May a quota of the agent kill it?
pub fn is_protected(plan: &v1::AgentPlan, process: &v1::ProcessIdentity, lines: &Lines) -> bool {
    plan.protect.iter().any(|name| is_called(process, name))
        || plan.processes.iter().any(|spec| spec.protect && matches(spec, process, lines))
}

#[derive(Debug)]
struct Killed {
    process: v1::ProcessIdentity,
    at: u64,
    /// What was there at that moment is no return of it.
    beside: BTreeSet<Id>,
}

/// Killed processes that may come back.
#[derive(Debug, Default)]
pub struct Returns {
    killed: BTreeMap<String, Vec<Killed>>,
}

impl Returns {
    /// One that was one of these services has been killed; `sample` is the last in which it was.
    pub fn killed(
        &mut self,
        now: u64,
        plan: &v1::AgentPlan,
        process: &v1::ProcessIdentity,
        sample: &Sample,
        lines: &Lines,
    ) {
        for spec in plan.processes.iter().filter(|spec| matches(spec, process, lines)) {
            let beside = processes(spec, sample, lines).filter_map(|p| p.identity.as_ref()).map(id).collect();
            let killed = self.killed.entry(spec.name.clone()).or_default();
            if killed.len() < WATCHED_MAX && !killed.iter().any(|k| id(&k.process) == id(process)) {
                killed.push(Killed { process: process.clone(), at: now, beside });
            }
        }
    }

    /// Those that came back. One return stands for one that was killed.
    pub fn sampled(
        &mut self,
        now: u64,
        plan: &v1::AgentPlan,
        sample: &Sample,
        lines: &Lines,
    ) -> Vec<v1::ProcessReturned> {
        let mut returned = Vec::new();
        self.killed.retain(|name, _| plan.processes.iter().any(|spec| spec.name == *name));
        for (name, killed) in &mut self.killed {
            killed.retain(|k| now.saturating_sub(k.at) < WATCH_MS);
            let Some(spec) = plan.processes.iter().find(|spec| spec.name == *name) else { continue };
            for process in processes(spec, sample, lines).filter_map(|p| p.identity.as_ref()) {
                let Some(at) = killed.iter().position(|k| !k.beside.contains(&id(process))) else { continue };
                let of = killed.remove(at);
                // The others that were killed do not wait for this one any more.
                killed.iter_mut().for_each(|k| {
                    k.beside.insert(id(process));
                });
                returned.push(v1::ProcessReturned {
                    named: name.clone(),
                    process: Some(process.clone()),
                    after_ms: now.saturating_sub(of.at),
                    killed: Some(of.process),
                });
            }
        }
        self.killed.retain(|_, killed| !killed.is_empty());
        returned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, name: &str, memory: u64) -> v1::ProcessUsage {
        v1::ProcessUsage {
            identity: Some(v1::ProcessIdentity { pid, start_ticks: pid as u64, name: name.into() }),
            memory_bytes: Some(memory),
            ..Default::default()
        }
    }

    fn sample(processes: &[(i32, &str, u64)]) -> Sample {
        Sample { processes: processes.iter().map(|(p, n, m)| process(*p, n, *m)).collect(), ..Default::default() }
    }

    fn spec(process: &str, command: &str) -> v1::NamedProcess {
        v1::NamedProcess { name: "web".into(), process: process.into(), command: command.into(), ..Default::default() }
    }

    #[test]
    fn by_name_by_command_line_or_by_both() {
        let all = sample(&[(1, "node", 10), (2, "node", 20), (3, "a-very-long-com", 40), (4, "sh", 80)]);
        let lines: Lines = [((1, 1), "node server.js"), ((2, 2), "node build.js"), ((4, 4), "sh -c server.js")]
            .map(|(id, line)| (id, line.to_owned()))
            .into();
        for (name, command, sum) in [
            ("node", "", Some(30)),
            ("", "server.js", Some(90)),
            ("node", "server.js", Some(10)),
            ("a-very-long-command", "", Some(40)),
            ("", "elsewhere", None),
            // Nothing is said of it: that is nobody, not everybody.
            ("", "", None),
        ] {
            let spec = spec(name, command);
            let scope = scope(&spec, &all, &lines);
            assert_eq!((scope.usage.memory_bytes, scope.none), (sum, sum.is_none()), "{name:?} {command:?}");
        }
    }

    #[test]
    fn protected_by_command_name_or_as_a_named_process() {
        let named = v1::NamedProcess { protect: true, ..spec("", "server.js") };
        let plan = v1::AgentPlan { protect: vec!["postgres".into()], processes: vec![named], ..Default::default() };
        let lines = Lines::from([((2, 2), "node server.js".to_owned())]);
        let all = sample(&[(1, "postgres", 1), (2, "node", 1), (3, "node", 1)]);
        let protected = all.processes.iter().filter_map(|p| p.identity.as_ref());
        let protected: Vec<_> = protected.map(|p| is_protected(&plan, p, &lines)).collect();
        assert_eq!(protected, [true, true, false]);
    }

    #[test]
    fn one_that_was_killed_is_told_when_it_is_back() {
        let plan = v1::AgentPlan { processes: vec![spec("web", "")], ..Default::default() };
        let (mut returns, lines) = (Returns::default(), Lines::default());
        let before = sample(&[(10, "web", 1), (11, "web", 1), (12, "sh", 1)]);
        let victim = process(10, "web", 1).identity.unwrap();
        returns.killed(5_000, &plan, &victim, &before, &lines);
        assert!(returns.sampled(6_000, &plan, &before, &lines).is_empty(), "it is not gone yet");
        assert!(returns.sampled(7_000, &plan, &sample(&[(11, "web", 1), (13, "sh", 1)]), &lines).is_empty());
        let back = returns.sampled(8_000, &plan, &sample(&[(11, "web", 1), (14, "web", 1)]), &lines);
        let told: Vec<_> = back.iter().map(|r| (r.process.as_ref().unwrap().pid, r.after_ms)).collect();
        assert_eq!(told, [(14, 3_000)]);
        assert!(returns.sampled(9_000, &plan, &sample(&[(15, "web", 1)]), &lines).is_empty(), "told once");
    }

    #[test]
    fn two_that_were_killed_are_not_both_back_with_one() {
        let plan = v1::AgentPlan { processes: vec![spec("web", "")], ..Default::default() };
        let (mut returns, lines) = (Returns::default(), Lines::default());
        let before = sample(&[(10, "web", 1), (11, "web", 1)]);
        for (pid, at) in [(10, 1_000), (11, 2_000)] {
            returns.killed(at, &plan, &process(pid, "web", 1).identity.unwrap(), &before, &lines);
        }
        let one = sample(&[(20, "web", 1)]);
        assert_eq!(returns.sampled(3_000, &plan, &one, &lines).len(), 1);
        assert!(returns.sampled(4_000, &plan, &one, &lines).is_empty());
        assert_eq!(returns.sampled(5_000, &plan, &sample(&[(20, "web", 1), (21, "web", 1)]), &lines).len(), 1);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let plan = v1::AgentPlan { processes: vec![spec("web", "")], ..Default::default() };
        let (mut returns, lines) = (Returns::default(), Lines::default());
        let before = sample(&[(10, "web", 1)]);
        returns.killed(0, &plan, &process(10, "web", 1).identity.unwrap(), &before, &lines);
        assert!(returns.sampled(WATCH_MS, &plan, &sample(&[(11, "web", 1)]), &lines).is_empty());
        returns.killed(0, &plan, &process(10, "web", 1).identity.unwrap(), &before, &lines);
        assert!(returns.sampled(1, &v1::AgentPlan::default(), &sample(&[(11, "web", 1)]), &lines).is_empty());
    }
}
