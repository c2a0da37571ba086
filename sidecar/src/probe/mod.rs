//! Makes one check once and tells what was seen. Files beneath the workspace (`file`, `directory`, opened through
//! [`beneath`]), HTTP and TCP (`net`, `http`), and processes of the agent, as the last sample had them.
//!
//! `passed` and `failed` need something that was seen; what could not be observed is `unknown`, with the reason. Every
//! check ends within its timeout. File work runs on a bounded number of threads, and a hung file system holds at most
//! those.
use std::{
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pitwall_proto::v1::{self, Evidence, Outcome, check::Rule};
use pitwall_sidecar_core::io::{Observation, Sample};
use tokio::{sync::Semaphore, time::timeout};

pub mod beneath;
pub mod directory;
pub mod file;
pub mod grpc;
pub mod http;
pub mod net;
pub mod walk;

/// File checks at the same time.
const FILE_WORKERS: usize = 4;
/// Connections at the same time.
const CONNECTIONS: usize = 32;
/// A check waits so long for its turn at least, whatever its timeout.
const TURN: Duration = Duration::from_secs(10);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// A process list older than this says nothing.
const PROCESSES_FRESH: Duration = Duration::from_secs(10);
/// Bytes of an excerpt; the protocol's.
pub const EXCERPT_MAX: usize = 240;

/// What a check came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub outcome: Outcome,
    pub evidence: Evidence,
}

impl Seen {
    #[must_use]
    pub fn passed(summary: impl Into<String>) -> Self {
        Self::new(Outcome::Passed, summary)
    }

    #[must_use]
    pub fn failed(summary: impl Into<String>) -> Self {
        Self::new(Outcome::Failed, summary)
    }

    #[must_use]
    pub fn unknown(summary: impl Into<String>) -> Self {
        Self::new(Outcome::Unknown, summary)
    }

    fn new(outcome: Outcome, summary: impl Into<String>) -> Self {
        Self { outcome, evidence: Evidence { summary: summary.into(), ..Evidence::default() } }
    }
}

impl From<beneath::Refusal> for Seen {
    fn from(refusal: beneath::Refusal) -> Self {
        if refusal.is_unknown() { Self::unknown(refusal.to_string()) } else { Self::failed(refusal.to_string()) }
    }
}

/// At most [`EXCERPT_MAX`] bytes of text, without control characters.
#[must_use]
pub fn excerpt(bytes: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(&bytes[..bytes.len().min(4 * EXCERPT_MAX)]).trim().chars() {
        let c = if c.is_control() { ' ' } else { c };
        if text.len() + c.len_utf8() > EXCERPT_MAX {
            break;
        }
        text.push(c);
    }
    text
}

/// The agent's processes as the last sample had them.
#[derive(Clone, Debug, Default)]
pub struct Processes(Arc<Mutex<Option<Listed>>>);

#[derive(Debug)]
struct Listed {
    at: Instant,
    processes: Vec<v1::ProcessIdentity>,
}

impl Processes {
    pub fn set(&self, sample: &Sample) {
        let now = sample.processes.iter().filter_map(|process| process.identity.clone()).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Listed { at: Instant::now(), processes: now });
    }

    fn running(&self, name: &str) -> Seen {
        // The kernel keeps 15 bytes of a command's name.
        let short = |text: &str| text.as_bytes().iter().take(15).copied().collect::<Vec<u8>>();
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Listed { at, processes }) = &*last else {
            return Seen::unknown("the agent's processes were not measured yet");
        };
        if at.elapsed() > PROCESSES_FRESH {
            return Seen::unknown(format!("the agent's processes were last measured {} s ago", at.elapsed().as_secs()));
        }
        let found: Vec<_> = processes.iter().filter(|process| short(&process.name) == short(name)).collect();
        match found.first() {
            Some(first) => Seen::passed(match found.len() {
                1 => format!("{name} runs as pid {}", first.pid),
                n => format!("{name} runs {n} times, pid {} and others", first.pid),
            }),
            None => Seen::failed(format!("no process {name} among {} of the agent", processes.len())),
        }
    }
}

/// Makes checks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Prober {
    workspace: PathBuf,
    pub processes: Processes,
    files: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Prober {
    #[must_use]
    pub fn new(workspace: PathBuf) -> Self {
        Self {
            workspace,
            processes: Processes::default(),
            files: Arc::new(Semaphore::new(FILE_WORKERS)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }

    /// Always answers.
    pub async fn observe(self, deliverable: String, check: Box<v1::Check>) -> Observation {
        let began = Instant::now();
        let limit = match check.timeout_ms {
            0 => TIMEOUT_DEFAULT,
            ms => Duration::from_millis(ms.into()),
        };
        let mut seen = match check.rule {
            Some(Rule::File(rule)) => self.on_files(limit, move |root, by| file::check(root, &rule, by)).await,
            Some(Rule::Directory(rule)) => {
                self.on_files(limit, move |root, by| directory::check(root, &rule, by)).await
            }
            Some(Rule::Http(rule)) => self.connected(limit, http::check(&rule)).await,
            Some(Rule::Tcp(rule)) => self.connected(limit, net::check(&rule.address)).await,
            Some(Rule::Grpc(rule)) => self.connected(limit, grpc::check(&rule)).await,
            Some(Rule::Process(rule)) => self.processes.running(&rule.name),
            None => Seen::unknown("this sidecar does not know this kind of check; update it"),
        };
        seen.evidence.latency_ms = Some(u32::try_from(began.elapsed().as_millis()).unwrap_or(u32::MAX));
        Observation {
            deliverable,
            check_id: check.id,
            check_digest: check.digest,
            outcome: seen.outcome,
            evidence: seen.evidence,
        }
    }

    async fn on_files(
        &self,
        limit: Duration,
        work: impl FnOnce(&beneath::Root, Deadline) -> Seen + Send + 'static,
    ) -> Seen {
        let Ok(turn) = timeout(limit.max(TURN), self.files.clone().acquire_owned()).await else {
            return Seen::unknown(format!("not tried: {FILE_WORKERS} other file checks hang"));
        };
        let workspace = self.workspace.clone();
        let by = Deadline(Instant::now() + limit);
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            match beneath::Root::open(&workspace) {
                Ok(root) => work(&root, by),
                Err(refusal) => refusal.into(),
            }
        });
        // The thread looks at the deadline itself; this is for one that hangs in the kernel.
        match timeout(limit + Duration::from_millis(100), done).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) => Seen::unknown(format!("the check broke off: {error}")),
            Err(_) => timed_out(limit),
        }
    }

    async fn connected(&self, limit: Duration, work: impl Future<Output = Seen>) -> Seen {
        let Ok(_turn) = timeout(limit.max(TURN), self.connections.acquire()).await else {
            return Seen::unknown(format!("not tried: {CONNECTIONS} other connections are under way"));
        };
        match timeout(limit, work).await {
            Ok(seen) => seen,
            Err(_) => Seen::failed(format!("no answer in {}", millis(limit))),
        }
    }
}

/// When a check that blocks has to give up.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

impl Deadline {
    #[must_use]
    pub fn passed(self) -> bool {
        Instant::now() >= self.0
    }
}

fn timed_out(limit: Duration) -> Seen {
    Seen::unknown(format!("not finished in {}", millis(limit)))
}

fn millis(limit: Duration) -> String {
    match limit.as_millis() {
        ms if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        ms => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: Option<Rule>, timeout_ms: u32) -> Box<v1::Check> {
        Box::new(v1::Check { id: "c".into(), digest: "d".into(), timeout_ms, rule, ..v1::Check::default() })
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_observation_names_its_check_and_what_is_not_known_stays_unknown() {
        let workspace = tempfile::tempdir().unwrap();
        let prober = Prober::new(workspace.path().join("not yet"));
        let rule = Rule::File(v1::FileCheck { path: "x".into(), ..v1::FileCheck::default() });
        let seen = prober.clone().observe("api".into(), check(Some(rule), 1_000)).await;
        assert_eq!((seen.deliverable.as_str(), seen.check_id.as_str(), seen.check_digest.as_str()), ("api", "c", "d"));
        assert_eq!(seen.outcome, Outcome::Unknown, "{seen:?}");
        assert!(seen.evidence.latency_ms.is_some());
        assert_eq!(prober.observe("api".into(), check(None, 0)).await.outcome, Outcome::Unknown);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_process_is_looked_for_among_the_agents_own() {
        let prober = Prober::new("/".into());
        let rule = || Some(Rule::Process(v1::ProcessCheck { name: "a-very-long-command".into() }));
        assert_eq!(prober.clone().observe("d".into(), check(rule(), 0)).await.outcome, Outcome::Unknown);
        let mut sample = Sample::default();
        prober.processes.set(&sample);
        assert_eq!(prober.clone().observe("d".into(), check(rule(), 0)).await.outcome, Outcome::Failed);
        let identity = Some(v1::ProcessIdentity { pid: 7, start_ticks: 1, name: "a-very-long-com".into() });
        sample.processes = vec![v1::ProcessUsage { identity, ..v1::ProcessUsage::default() }];
        prober.processes.set(&sample);
        assert_eq!(prober.observe("d".into(), check(rule(), 0)).await.outcome, Outcome::Passed);
    }

    #[test]
    fn an_excerpt_is_short_and_one_line() {
        let text = excerpt("ä\n".repeat(400).as_bytes());
        assert!(text.len() <= EXCERPT_MAX && !text.contains('\n'), "{text}");
    }
}
