//! What really happened, seen with the demo's own eyes and not through the product: files, HTTP answers, processes.
//! A reading of the world that fails says "not there"; the judgement then says what is missing.
use std::{fs, path::Path};

use pitwall_proto::v1::{FindingKind, ProcessIdentity};

use super::{
    agent,
    cast::Role,
    night::{Night, Places},
    plan::Ports,
    record::{DemoMs, Recording},
};

/// Use is compared over at least so long.
const SPAN_MS: DemoMs = 1_000;
/// Kernel ticks of CPU time per second, as `/proc/PID/stat` counts on Linux.
const TICKS_PER_S: f64 = 100.0;
const SAMPLES_MAX: usize = 2_000;

#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// The route as it stands in backend's workspace.
    pub route: Option<String>,
    /// Status and body of a GET.
    pub answer: Option<(u16, String)>,
    pub page: bool,
    /// Files that design made.
    pub design_files: usize,
    pub runaway: Option<Watched>,
    /// By the runaway's own log.
    pub cpu_crossed: Option<DemoMs>,
    pub memory_crossed: Option<DemoMs>,
}

/// One process, by identity, and the CPU seconds that it had used at each look.
#[derive(Clone, Debug)]
pub struct Watched {
    pub process: ProcessIdentity,
    pub samples: Vec<(DemoMs, f64)>,
    pub gone: bool,
}

impl Truth {
    pub fn look(&mut self, now: DemoMs, night: &Night, places: &Places, ports: Ports, seen: &Recording) {
        let cast = &night.cast;
        let workspace = |role| places.of(cast.name(role), "workspace");
        self.route = fs::read_to_string(workspace(Role::Backend).join(cast.route_path())).ok();
        self.answer =
            agent::get(ports.host_of(cast.name(Role::Backend)), ports.api, &format!("/api/{}", cast.resource)).ok();
        self.page = workspace(Role::Frontend).join(cast.page_path()).is_file();
        self.design_files = fs::read_dir(workspace(Role::Design).join(&cast.tokens)).map_or(0, Iterator::count);
        let named = seen.findings.values().find(|f| f.kind == FindingKind::QuotaExceeded && f.process.is_some());
        if let (None, Some(process)) = (&self.runaway, named.and_then(|f| f.process.clone())) {
            self.runaway = Some(Watched { process, samples: Vec::new(), gone: false });
        }
        if let Some(watched) = &mut self.runaway {
            watched.look(now);
        }
        let log = fs::read_to_string(places.log(&cast.runaway)).unwrap_or_default();
        (self.cpu_crossed, self.memory_crossed) = (crossed(&log, "cpu", seen), crossed(&log, "memory", seen));
    }

    /// The route is there, has a real handler, and answers with rows.
    pub fn route_answers(&self, resource: &str) -> bool {
        let handler = self.route.as_ref().is_some_and(|r| r.contains("export async function GET"));
        let Some((200, body)) = &self.answer else { return false };
        let rows = serde_json::from_str::<serde_json::Value>(body).ok();
        handler && rows.is_some_and(|rows| rows.pointer(&format!("/{resource}/0/id")).is_some())
    }
}

impl Watched {
    fn look(&mut self, now: DemoMs) {
        if self.gone || self.samples.len() >= SAMPLES_MAX {
            return;
        }
        match cpu_seconds(Path::new("/proc"), &self.process) {
            Some(seconds) => self.samples.push((now, seconds)),
            None => self.gone = true,
        }
    }

    /// The most and the least that it used over a span that begins after `from` and ends before `to`, in cores.
    pub fn use_between(&self, from: DemoMs, to: DemoMs) -> Option<(f64, f64)> {
        let inside: Vec<_> = self.samples.iter().filter(|(at, _)| (from..=to).contains(at)).collect();
        let mut found: Option<(f64, f64)> = None;
        for (i, (at, seconds)) in inside.iter().enumerate() {
            let Some((end, later)) = inside[i..].iter().find(|(end, _)| end - at >= SPAN_MS) else { break };
            let cores = (later - seconds) / ((end - at) as f64 / 1_000.0);
            found = Some(found.map_or((cores, cores), |(most, least)| (most.max(cores), least.min(cores))));
        }
        found
    }
}

fn crossed(log: &str, what: &str, seen: &Recording) -> Option<DemoMs> {
    let line = log.lines().find_map(|line| line.strip_prefix(what))?;
    Some(seen.demo_ms(line.trim().parse().ok()?))
}

/// CPU seconds of a process; `None` where it is gone, is a zombie, or is another one of the same pid.
fn cpu_seconds(proc: &Path, process: &ProcessIdentity) -> Option<f64> {
    let stat = fs::read_to_string(proc.join(process.pid.to_string()).join("stat")).ok()?;
    // The name may hold spaces and brackets: what follows begins after the last one.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok());
    let alive = !matches!(fields.first(), Some(&("Z" | "X" | "x")) | None);
    let same = number(19)? == process.start_ticks;
    (alive && same).then_some((number(11)? + number(12)?) as f64 / TICKS_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(samples: &[(DemoMs, f64)]) -> Watched {
        Watched { process: ProcessIdentity::default(), samples: samples.to_vec(), gone: false }
    }

    #[test]
    fn use_is_taken_over_whole_spans_inside_the_bounds() {
        let samples = [(0, 0.0), (500, 0.45), (1_000, 0.9), (1_500, 1.05), (2_000, 1.2), (2_500, 1.35)];
        let all = watched(&samples);
        let (most, least) = all.use_between(0, 3_000).expect("spans");
        assert!((most - 0.9).abs() < 1e-9 && (least - 0.3).abs() < 1e-9, "{most} {least}");
        let (most, _) = all.use_between(1_000, 3_000).expect("spans");
        assert!((most - 0.3).abs() < 1e-9, "{most}");
        assert_eq!(all.use_between(2_000, 3_000), None, "too short to say");
    }

    #[test]
    fn a_process_is_known_by_pid_and_start() {
        let proc = tempfile::tempdir().expect("a folder");
        fs::create_dir(proc.path().join("7")).expect("made");
        let stat = |state: &str| format!("7 (next (x) y) {state} 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 4242 0 0");
        let process = |start_ticks| ProcessIdentity { pid: 7, start_ticks, name: String::new() };
        fs::write(proc.path().join("7/stat"), stat("R")).expect("written");
        assert_eq!(cpu_seconds(proc.path(), &process(4_242)), Some(2.0));
        assert_eq!(cpu_seconds(proc.path(), &process(1)), None);
        fs::write(proc.path().join("7/stat"), stat("Z")).expect("written");
        assert_eq!(cpu_seconds(proc.path(), &process(4_242)), None);
    }

    #[test]
    fn the_log_tells_when_a_limit_was_crossed() {
        let seen = Recording::new(1_000);
        assert_eq!(crossed("cpu 1500\nmemory 2500\n", "memory", &seen), Some(1_500));
        assert_eq!(crossed("cpu 1500\n", "memory", &seen), None);
    }
}
