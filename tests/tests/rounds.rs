//! Either side killed with -9 at random instants, round after round, while commands, claims and files flow. Then what the
//! ledger, the sidecar's memory and the journal say is held against what really happened: each start of an agent leaves
//! its pid and start time in a witness file, each directive a note. `--rounds 300` by hand, which fails when one of the steps
//! of a command was never the one that was cut short; the seed of a run is printed, `--seed` repeats it.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pitwall_proto::v1::{self, AgentStatus, CommandState, SidecarStatus, command_spec::Kind};
use pitwall_tests::{
    audit::{Journal, Kept, is_end},
    binaries::{self, Running, Server},
    client::{self, Client},
    plans,
    steps::{Cut, Seen, Side},
    wait,
};
use rustix::process::Signal;

const ROUNDS: u64 = 20;
/// So many must meet every step.
const ENOUGH: u64 = 300;
/// The plan's expiry, its grace for results, and the restart of either side.
const ENDS_WITHIN: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(3);
/// A command has ended long before.
const LONGEST_US: u64 = 60_000;
/// One round in so many activates an agent that was never started.
const ACTIVATES: u64 = 6;
const AGENT: [&str; 4] =
    ["--", "sh", "-c", "echo \"$$ $(cut -d' ' -f22 /proc/$$/stat)\" >> ../witness; exec sleep 600"];

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        // Steele and others' SplitMix64: any seed is a good one.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn within(&mut self, (from, to): (u64, u64)) -> u64 {
        from + self.below((to - from).max(1))
    }
}

/// What any test takes, and what only this one does.
#[derive(clap::Parser)]
struct Options {
    #[command(flatten)]
    any: libtest_mimic::Arguments,
    /// So many kills.
    #[arg(long, default_value_t = ROUNDS, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    rounds: u64,
    /// Repeats a run.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() {
    let Options { any, rounds, seed } = <Options as clap::Parser>::parse();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    let killed = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.map_err(|e| e.to_string())?.block_on(all(rounds, seed.unwrap_or(now)));
        Ok(())
    };
    let name = "whoever_is_killed_whenever_nothing_is_lost_and_nothing_happens_twice";
    libtest_mimic::run(&any, vec![libtest_mimic::Trial::test(name, killed)]).exit();
}

fn plan(rounds: u64) -> String {
    let held =
        (0..rounds).map(|n| format!("  held-{n}: {{ deliverables: {{ page: {{ checks: [\"file: p\"] }} }} }}\n"));
    plans::writer() + &held.collect::<String>()
}

/// Everything that lives through all rounds.
struct Stage {
    dir: tempfile::TempDir,
    server: Server,
    address: String,
    client: Client,
    writer: Option<Running>,
    /// Claims that were durable at the sidecar when it was stopped.
    claimed: BTreeSet<String>,
    keys: Vec<String>,
    /// Of each agent that was to be started or restarted: how often, and how often the ledger says that it was.
    started: BTreeMap<String, (usize, usize)>,
}

/// One command that is under way.
#[derive(Clone)]
struct Asked {
    agent: String,
    what: &'static str,
    key: String,
    kind: Kind,
    /// Starts of the agent before.
    starts: usize,
}

impl Stage {
    async fn set(rounds: u64) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let server = Server::start(dir.path(), &plan(rounds));
        let writer = Some(binaries::sidecar(dir.path(), &server.url, "writer", &AGENT));
        let client = client::connect(&server.url).await;
        let (address, claimed, keys) = (server.address().to_owned(), BTreeSet::new(), Vec::new());
        // At its sidecar's first start.
        let started = BTreeMap::from([("writer".to_owned(), (1, 1))]);
        let stage = Self { dir, server, address, client, writer, claimed, keys, started };
        stage.in_order().await;
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn starts(&self, agent: &str) -> usize {
        fs::read_to_string(self.path(agent).join("witness")).unwrap_or_default().lines().count()
    }

    fn happened(&self, asked: &Asked) -> usize {
        match asked.what {
            "directive" => notes(&self.path("writer"), &asked.key),
            _ => self.starts(&asked.agent) - asked.starts,
        }
    }

    fn begin(&self, agent: &str, activated: bool) -> Running {
        let held = if activated { &["--launch-on-activation"][..] } else { &[] };
        binaries::sidecar(self.dir.path(), &self.server.url, agent, &[held, &AGENT].concat())
    }

    async fn in_order(&self) {
        let active = |s: &v1::Situation| client::status(s, "writer") == AgentStatus::Active;
        client::until(&self.client, "the agent is active", ENDS_WITHIN, active).await;
    }

    /// The workspace changes, and the agent says something.
    fn work(&self, round: u64) {
        let workspace = self.path("writer/workspace");
        for folder in ["app", ".pitwall"] {
            fs::create_dir_all(workspace.join(folder)).expect("a folder");
        }
        fs::write(workspace.join(format!("app/page-{round}.tsx")), "x").expect("a file");
        let claim = format!("{{\"progress\": {}, \"text\": \"claim {round}\"}}", round % 100);
        fs::write(workspace.join(".pitwall/claim.json"), claim).expect("a claim");
    }

    fn kept(&self, agent: &str) -> Kept {
        Kept::read(&self.path(agent).join("state"))
    }

    async fn serve_again(&mut self) {
        let (plan, data) = (self.path("plan.yaml"), self.server.data.clone());
        self.server = Server::serve(&plan, &data, &self.address);
        self.client = client::connect(&self.server.url).await;
    }

    /// The state of a command that has ended. Whoever got no answer asks again, and it is the same command.
    async fn ended(&mut self, asked: &Asked) -> v1::Command {
        let again = ask(self.client.clone(), asked).await.expect("it is taken");
        wait::until(&format!("{} ends", again.id), ENDS_WITHIN, || {
            let (mut client, id) = (self.client.clone(), again.id.clone());
            async move {
                let now = client::command(&mut client, &id).await;
                is_end(now.state()).then_some(now)
            }
        })
        .await
    }
}

/// Notes that carry this text.
fn notes(dir: &Path, text: &str) -> usize {
    let entries = fs::read_dir(dir.join("inbox")).into_iter().flatten().flatten();
    let whole = format!("{text}.");
    entries.filter(|e| fs::read_to_string(e.path()).is_ok_and(|note| note.contains(&whole))).count()
}

async fn ask(mut client: Client, asked: &Asked) -> Result<v1::Command, tonic::Status> {
    let request = v1::IssueCommandRequest {
        agent: asked.agent.clone(),
        spec: Some(v1::CommandSpec { kind: Some(asked.kind.clone()) }),
        idempotency_key: asked.key.clone(),
        origin: "test".into(),
        ..Default::default()
    };
    Ok(client.issue_command(request).await?.into_inner().command.expect("it is always set"))
}

async fn all(rounds: u64, seed: u64) {
    println!("--rounds {rounds} --seed {seed}");
    let (mut random, mut seen) = (Random(seed), Seen::default());
    let mut stage = Stage::set(rounds).await;
    let mut doubtful = 0;
    for round in 0..rounds {
        doubtful += u64::from(one(&mut stage, round, &mut random, &mut seen).await);
    }
    println!("{doubtful} of {rounds} ended in doubt\n{seen}");
    assert!(doubtful <= rounds / 3, "doubt is for the moment between act and record, not for everything under way");
    if rounds >= ENOUGH {
        assert_eq!(seen.missing(), [], "never killed there: {seen}");
    }
    audit(stage).await;
}

/// One kill, and how the command ended. Whether that is in doubt.
async fn one(stage: &mut Stage, round: u64, random: &mut Random, seen: &mut Seen) -> bool {
    stage.work(round);
    let (what, agent) = match random.below(ACTIVATES) {
        0 => ("activate", format!("held-{round}")),
        n if n % 2 == 0 => ("restart", "writer".to_owned()),
        _ => ("directive", "writer".to_owned()),
    };
    let key = format!("{what} {round}");
    let kind = match what {
        "activate" => Kind::Activate(v1::Activate::default()),
        "restart" => Kind::Restart(v1::Restart { grace_ms: 1_000, ..Default::default() }),
        _ => Kind::Directive(v1::Directive { text: format!("{key}."), ..Default::default() }),
    };
    let mut beside = if what == "activate" {
        let held = stage.begin(&agent, true);
        client::until(&stage.client, "the sidecar is there", SOON, |s| {
            client::agent(s, &agent).sidecar() == SidecarStatus::Live
        })
        .await;
        held
    } else {
        stage.writer.take().expect("it runs")
    };
    let asked = Asked { starts: stage.starts(&agent), agent, what, key, kind };
    stage.keys.push(asked.key.clone());

    // Half of them anywhere, rather early than late; half where it was met least.
    let (side, step) = seen.rarest();
    let aimed = random.below(2) == 0;
    let after = match aimed {
        true => random.within(seen.aim(what, side, step, LONGEST_US)),
        false => random.below(LONGEST_US) >> random.below(6),
    };
    let call = tokio::spawn({
        let (client, asked) = (stage.client.clone(), asked.clone());
        async move { ask(client, &asked).await.is_ok() }
    });
    tokio::time::sleep(Duration::from_micros(after)).await;
    let mut killed = [&[Side::Orchestrator][..], &[Side::Sidecar], &Side::BOTH][random.below(3) as usize].to_vec();
    if aimed && !killed.contains(&side) {
        killed = vec![side];
    }
    // Whoever lives on is held still for a moment, so that what lies on both disks is of one.
    for (side, process) in [(Side::Orchestrator, &stage.server.process), (Side::Sidecar, &beside)] {
        process.signal(if killed.contains(&side) { Signal::KILL } else { Signal::STOP });
    }
    for (side, process) in [(Side::Orchestrator, &stage.server.process), (Side::Sidecar, &beside)] {
        process.stands_still(killed.contains(&side));
    }
    let journal = Journal::read(&stage.server.data);
    let cut = Cut::of(&journal, &stage.kept(&asked.agent), &asked.key, stage.happened(&asked) > 0);
    stage.claimed.extend(stage.kept("writer").claims_waiting());
    seen.note(what, after, cut, &killed);

    let mut left = None;
    if killed.contains(&Side::Sidecar) {
        left = beside.kill();
        beside = stage.begin(&asked.agent, what == "activate");
    } else {
        beside.signal(Signal::CONT);
    }
    if killed.contains(&Side::Orchestrator) {
        stage.serve_again().await;
    } else {
        stage.server.process.signal(Signal::CONT);
    }
    let answered = call.await.expect("no panic");
    let ended = stage.ended(&asked).await;
    if ended.state() == CommandState::Succeeded {
        // A program that has begun writes its line a moment later.
        wait::until("what succeeded is seen", SOON, || async { (stage.happened(&asked) > 0).then_some(()) }).await;
    }
    let happened = stage.happened(&asked);
    let told = |side| cut.on(side).map_or("-".to_owned(), |step| format!("{step:?}").to_lowercase());
    println!(
        "round {round}: {what}, {killed:?} killed; orchestrator at {}, sidecar at {}; answered {answered}; {:?}, happened {happened}",
        told(Side::Orchestrator),
        told(Side::Sidecar),
        ended.state()
    );
    if ended.state() != CommandState::Succeeded {
        println!("  {}", ended.detail);
    }
    if what != "directive" {
        let (asked_for, succeeded) = stage.started.entry(asked.agent.clone()).or_default();
        *asked_for += 1;
        *succeeded += usize::from(ended.state() == CommandState::Succeeded);
    }
    match ended.state() {
        CommandState::Succeeded => assert_eq!(happened, 1, "{ended:#?}"),
        CommandState::Expired | CommandState::Rejected => assert_eq!(happened, 0, "{ended:#?}"),
        CommandState::Failed if what == "directive" => assert_eq!(happened, 0, "{ended:#?}"),
        _ => assert!(happened <= 1, "{ended:#?}"),
    }
    let terminal = ended.history.iter().filter(|s| is_end(s.state())).count();
    assert_eq!(terminal, 1, "a command ends once: {ended:#?}");

    // The next life has adopted the agent by now, or will.
    if what == "activate" {
        client::until(&stage.client, "the sidecar is back", ENDS_WITHIN, |s| {
            client::agent(s, &asked.agent).sidecar() == SidecarStatus::Live
        })
        .await;
        beside.signal(Signal::TERM);
        beside.ended(SOON);
        drop(beside);
    } else {
        stage.writer = Some(beside);
        stage.in_order().await;
    }
    if let Some(left) = left {
        left.is_anothers_now();
    }
    !matches!(ended.state(), CommandState::Succeeded | CommandState::Expired)
}

/// At rest, both sides hold the same, each of what was asked and told once, and the journal holds together.
async fn audit(mut stage: Stage) {
    stage.work(999_999);
    wait::until("nothing waits at the sidecar", ENDS_WITHIN, || async {
        let kept = stage.kept("writer");
        (kept.facts_waiting() == 0 && kept.results_waiting().is_empty()).then_some(())
    })
    .await;
    let situation = client::situation(&mut stage.client).await;
    for (agent, (asked_for, succeeded)) in &stage.started {
        let starts = stage.starts(agent);
        assert!((*succeeded..=*asked_for).contains(&starts), "{agent}: {starts} starts, {succeeded} of {asked_for}");
    }
    let Stage { dir, server, writer, claimed, keys, .. } = stage;
    drop(writer);
    let data = server.data.clone();
    server.process.kill();

    let journal = Journal::read(&data);
    journal.holds_together();
    assert!(situation.revision.expect("set").sequence <= journal.0.len() as u64, "told before it was durable");
    for key in &keys {
        let way = journal.asked_with(key).unwrap_or_else(|| panic!("{key} is lost"));
        assert_eq!(way.states.iter().filter(|state| is_end(**state)).count(), 1, "{key}: {way:?}");
    }
    let claims = journal.claims();
    println!("{} commands, {} claims of which {} were on the way at a kill", keys.len(), claims.len(), claimed.len());
    for claim in &claimed {
        assert!(claims.contains_key(claim.as_str()), "{claim:?} was durable at the sidecar, and is not in the journal");
    }
    assert!(claims.values().all(|times| *times == 1), "each claim once: {claims:#?}");
    let verified = std::process::Command::new(binaries::path("pitwall"))
        .args(["journal", "verify", data.to_str().expect("plain")])
        .output()
        .expect("it runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    drop(dir);
}
