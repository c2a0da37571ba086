//! The six ways in which a limit is undone, each on one agent after the other way is over.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pitwall_proto::v1::{self, CommandState, command_spec::Kind as Command};
use pitwall_tests::{binaries::Running, client, wait};
use rustix::process::Signal;

use super::{
    Rung, SET_WITHIN, UNDONE_WITHIN,
    value::{self, Kind},
};
use crate::stage::Stage;

pub const AGENT_NAME: &str = "held";
/// A lease that ends by itself while it is looked at.
const SHORT: Duration = Duration::from_secs(5);
/// One that a next life of the sidecar takes over, and ends.
const ADOPTED: Duration = Duration::from_secs(12);
/// One that does not.
const LONG: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(3);
/// Until it is looked at once more whether anything was set anew: after an orchestrator's return or another's write.
const RETURNS: Duration = Duration::from_secs(2);
/// For the value, before the command is looked at again.
const LOOKS_FOR: Duration = Duration::from_secs(1);
/// Until an agent that stood still goes on without its sidecar; promised are 50 ms where a guardian can live.
const FREED_WITHIN: Duration = Duration::from_millis(500);
const RESTARTS_WITHIN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Unthrottle,
    End,
    ForeignWriter,
    SidecarKilled,
    AgentRestart,
    OrchestratorLost,
}

impl Way {
    pub const ALL: [Self; 6] = [
        Self::Unthrottle,
        Self::End,
        Self::ForeignWriter,
        Self::SidecarKilled,
        Self::AgentRestart,
        Self::OrchestratorLost,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Unthrottle => "unthrottle",
            Self::End => "its end",
            Self::ForeignWriter => "foreign writer",
            Self::SidecarKilled => "sidecar kill -9",
            Self::AgentRestart => "agent restart",
            Self::OrchestratorLost => "orchestrator lost",
        }
    }
}

/// One cell of the table, with the raw values as they were read.
#[derive(Clone, Debug)]
pub struct Cell {
    pub rung: &'static str,
    pub way: Way,
    pub place: String,
    pub before: Option<String>,
    pub during: Option<String>,
    pub after: Option<String>,
    /// With the sidecar dead, and after its next life took over.
    pub dead: Option<String>,
    pub adopted: Option<String>,
    /// `None`: not tried, as `why` says.
    pub good: Option<bool>,
    pub why: String,
}

impl Cell {
    pub fn absent(rung: &Rung, way: Way, why: &str) -> Self {
        let (place, why) = (String::new(), why.to_owned());
        let (before, during, after, dead, adopted) = (None, None, None, None, None);
        Self { rung: rung.name, way, place, before, during, after, dead, adopted, good: None, why }
    }

    pub fn line(&self) -> String {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        let word = match self.good {
            Some(true) => "undone",
            Some(false) => "NOT UNDONE",
            None => "null",
        };
        let life = match (&self.dead, &self.adopted) {
            (None, None) => String::new(),
            (dead, adopted) => format!("(dead {}, adopted {}) | ", value(dead), value(adopted)),
        };
        format!(
            "{:<24}{:<18} {word:<11} {} | {} | {life}{}  {}{}",
            self.rung,
            self.way.name(),
            value(&self.before),
            value(&self.during),
            value(&self.after),
            self.place,
            if self.why.is_empty() { String::new() } else { format!("  ({})", self.why) }
        )
    }
}

/// One rung on its agent, while its ways are tried.
pub struct Play<'a> {
    stage: &'a Stage,
    rung: &'a Rung,
    kind: Kind,
    agent: Vec<String>,
    sidecar: Option<Running>,
}

impl<'a> Play<'a> {
    pub async fn begin(stage: &'a Stage, rung: &'a Rung, kind: Kind, agent: &[String]) -> Result<Self> {
        let sidecar = Some(stage.sidecar(AGENT_NAME, agent));
        stage.measured(AGENT_NAME, 2).await;
        Ok(Self { stage, rung, kind, agent: agent.to_vec(), sidecar })
    }

    pub async fn cell(&mut self, way: Way) -> Cell {
        let mut cell = Cell::absent(self.rung, way, "");
        cell.good = Some(false);
        match self.try_way(way, &mut cell).await {
            Ok(()) => cell.good = Some(true),
            Err(why) => cell.why = format!("{why:#}"),
        }
        // Whatever went wrong: the next way begins without a limit.
        self.unthrottle().await.ok();
        cell
    }

    async fn try_way(&mut self, way: Way, cell: &mut Cell) -> Result<()> {
        let pid = self.victim().await?;
        cell.place = self.kind.place(pid);
        let before = tokio::task::block_in_place(|| self.kind.read(pid))?;
        cell.before = Some(before.clone());
        let (for_how_long, ttl) = match way {
            Way::End => (SHORT, Duration::ZERO),
            Way::SidecarKilled => (ADOPTED, Duration::ZERO),
            Way::OrchestratorLost => (LONG, TTL),
            Way::Unthrottle | Way::ForeignWriter | Way::AgentRestart => (LONG, Duration::ZERO),
        };
        let id = self.throttle(pid, for_how_long, ttl).await?;
        let during = self.set(pid, &id, &before).await?;
        // One process alone has a place of its own while it is held.
        cell.place = self.kind.place(pid);
        cell.during = Some(during.clone());

        let (pid, expected, within) = match way {
            Way::Unthrottle => {
                self.unthrottle().await?;
                (pid, before, UNDONE_WITHIN)
            }
            Way::End => (pid, before, SHORT + UNDONE_WITHIN),
            Way::ForeignWriter => {
                self.kind.write_foreign(pid)?;
                let theirs = match self.kind {
                    // It goes on, as there is no value to find changed; and leaves nothing stopped at its end.
                    Kind::DutyCycle => before,
                    _ => tokio::task::block_in_place(|| self.kind.read(pid))?,
                };
                // Nothing is to happen, neither while the limit goes on nor at its end.
                tokio::time::sleep(RETURNS).await;
                let stays = |value: &str| self.kind == Kind::DutyCycle || self.kind.same(value, &theirs);
                self.expect(pid, Duration::ZERO, stays).await.context("the other's value was written over")?;
                self.unthrottle().await?;
                tokio::time::sleep(RETURNS).await;
                (pid, theirs, Duration::ZERO)
            }
            Way::SidecarKilled => {
                self.kill_sidecar(pid, (&before, &during), cell).await?;
                (pid, before, ADOPTED + UNDONE_WITHIN)
            }
            Way::AgentRestart => {
                let pid = self.restart().await?;
                // A limit of one process ends with it; one of the agent holds its next incarnation too.
                if !self.rung.alone {
                    let again = self.expect(pid, SET_WITHIN, |value| self.kind.same(value, &during)).await;
                    again.context("not applied to the agent's next incarnation")?;
                    self.unthrottle().await?;
                }
                (pid, before, UNDONE_WITHIN)
            }
            Way::OrchestratorLost => {
                self.stage.server.process.signal(Signal::STOP);
                (pid, before, TTL + UNDONE_WITHIN)
            }
        };
        let after = self.expect(pid, within, |value| self.kind.same(value, &expected)).await;
        if way == Way::OrchestratorLost {
            self.stage.server.process.signal(Signal::CONT);
        }
        let after = after.map_err(|error| {
            cell.after = error.downcast_ref::<Other>().map(|other| other.0.clone());
            error.context(format!("expected {expected:?}"))
        })?;
        cell.after = Some(after);
        if way == Way::OrchestratorLost {
            // It is not set anew by the orchestrator's return.
            tokio::time::sleep(RETURNS).await;
            self.expect(pid, Duration::ZERO, |value| self.kind.same(value, &expected)).await.context("set anew")?;
        }
        if way == Way::ForeignWriter {
            self.put_back(pid, cell).await?;
        }
        Ok(())
    }

    /// The agent's busy process.
    async fn victim(&self) -> Result<i32> {
        let root = self.stage.agent(AGENT_NAME).await.root.context("the agent has no root process")?;
        Ok(wait::until("the agent's child", SET_WITHIN, || async { value::child(root.pid) }).await)
    }

    async fn throttle(&self, pid: i32, for_how_long: Duration, ttl: Duration) -> Result<String> {
        let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        // The latest reading may not have it yet.
        let start_ticks = value::start_ticks(pid)?;
        let is_cpu = self.rung.resource == v1::Resource::Cpu;
        let throttle = v1::Throttle {
            cpu_cores: if is_cpu { self.rung.amount } else { 0.0 },
            amount: if is_cpu { 0.0 } else { self.rung.amount },
            resource: self.rung.resource as i32,
            for_ms: ms(for_how_long),
            ttl_ms: ms(ttl),
            via: self.rung.via.into(),
            process: self.rung.alone.then(|| v1::ProcessIdentity { pid, start_ticks, name: String::new() }),
        };
        let issued = client::issue(&mut self.stage.client.clone(), AGENT_NAME, Command::Throttle(throttle)).await;
        Ok(issued.map_err(|status| anyhow::anyhow!("refused: {}", status.message()))?.id)
    }

    /// Until the value is as asked; a command that ended otherwise is the reason why not.
    async fn set(&self, pid: i32, id: &str, before: &str) -> Result<String> {
        let asked = |value: &str| self.kind.says(value, self.rung.amount) && !self.kind.same(value, before);
        let mut seen = String::new();
        let begin = Instant::now();
        while begin.elapsed() < SET_WITHIN * wait::SLACK {
            let (value, good) = value::until(self.kind, pid, LOOKS_FOR, asked).await?;
            if good {
                return Ok(value);
            }
            seen = value;
            let command = client::command(&mut self.stage.client.clone(), id).await;
            if command.state() as i32 >= CommandState::Succeeded as i32 {
                bail!("{} {}; the value is {seen:?}", command.state().as_str_name(), command.detail);
            }
        }
        bail!("never set as asked; the value is {seen:?}")
    }

    async fn expect(&self, pid: i32, within: Duration, fits: impl Fn(&str) -> bool) -> Result<String> {
        let (value, good) = value::until(self.kind, pid, within * wait::SLACK, fits).await?;
        if good { Ok(value) } else { Err(Other(value).into()) }
    }

    async fn unthrottle(&self) -> Result<()> {
        let unthrottle = Command::Unthrottle(v1::Unthrottle::default());
        self.done(unthrottle).await
    }

    async fn done(&self, command: Command) -> Result<()> {
        let issued = client::issue(&mut self.stage.client.clone(), AGENT_NAME, command).await;
        let issued = issued.map_err(|status| anyhow::anyhow!("refused: {}", status.message()))?;
        let ended = wait::until(&format!("the end of {}", issued.id), SET_WITHIN, || async {
            let now = client::command(&mut self.stage.client.clone(), &issued.id).await;
            (now.state() as i32 >= CommandState::Succeeded as i32).then_some(now)
        })
        .await;
        ensure!(ended.state() == CommandState::Succeeded, "{}: {}", ended.state().as_str_name(), ended.detail);
        Ok(())
    }

    async fn kill_sidecar(&mut self, pid: i32, (before, during): (&str, &str), cell: &mut Cell) -> Result<()> {
        let sidecar = self.sidecar.take().context("a sidecar runs")?;
        let left = tokio::task::block_in_place(|| sidecar.kill());
        // Whatever stands still for a limit must not do so for ever: somebody watches the sidecar's death.
        let stands_still = matches!(self.kind, Kind::FreezeV1 | Kind::FreezeV2 | Kind::DutyCycle);
        let dead = self.expect(pid, FREED_WITHIN, |value| !stands_still || self.kind.same(value, before)).await;
        self.sidecar = Some(tokio::task::block_in_place(|| self.stage.sidecar(AGENT_NAME, &self.agent)));
        if let Some(left) = left {
            left.is_anothers_now();
        }
        cell.dead = Some(dead.context("with the sidecar dead")?);
        // A freeze ends with its sidecar; all else goes on for the time that is left.
        let meant = if matches!(self.kind, Kind::FreezeV1 | Kind::FreezeV2) { before } else { during };
        let adopted = self.expect(pid, ADOPTED / wait::SLACK, |value| self.kind.same(value, meant)).await;
        cell.adopted = Some(adopted.context("not taken over by the sidecar's next life")?);
        Ok(())
    }

    /// The next incarnation's root: held before it could start a child, it has none.
    async fn restart(&self) -> Result<i32> {
        let root = |agent: v1::Agent| agent.root.map(|root| (root.pid, root.start_ticks));
        let before = root(self.stage.agent(AGENT_NAME).await);
        self.done(Command::Restart(v1::Restart { incarnation: 0, grace_ms: 1_000 })).await?;
        let next = wait::until("the agent's next root", RESTARTS_WITHIN, || async {
            root(self.stage.agent(AGENT_NAME).await).filter(|now| Some(*now) != before)
        })
        .await;
        Ok(next.0)
    }

    /// The other's value is taken away, so that the next way begins as this one did.
    async fn put_back(&self, pid: i32, cell: &Cell) -> Result<()> {
        let Some(before) = &cell.before else { return Ok(()) };
        let now = tokio::task::block_in_place(|| self.kind.read(pid))?;
        if !self.kind.same(&now, before) {
            self.kind.write_back(pid, before)?;
        }
        Ok(())
    }
}

/// What was seen instead.
#[derive(Debug)]
struct Other(String);

impl std::fmt::Display for Other {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the value is {:?}", self.0)
    }
}

impl std::error::Error for Other {}
