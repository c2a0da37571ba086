//! An agent in a container of its own: what can be done for it from beside. Its processes are signalled and its cgroup is
//! written as any other's; it is started again by the engine, and begun by the `hold` program that it was started with.
use std::time::{Duration, Instant};

use anyhow::anyhow;
use pitwall_sidecar_core::io::EffectOutcome;

use super::agent::AgentView;
use super::files::Files;
use super::held::Held;
use super::kill::living;
use super::value::Version;
use super::{Actor, AgentTarget, Config, RestartedBy};
use crate::sample::beside::Beside;
use crate::sample::cgroup::Hierarchies;
use crate::sample::procfs::ProcFs;

/// An engine waits longer from one try to the next; the orchestrator gives a restart 20 s beyond its grace.
const BACK_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) fn find(hierarchies: &Hierarchies, config: &Config) -> anyhow::Result<(AgentView, String)> {
    let held = Held::new(&config.inbox);
    let beside = Beside::find(&mut ProcFs::default(), hierarchies.clone(), held).map_err(|why| anyhow!(why))?;
    let view = AgentView { beside: Some(beside.into()), ..AgentView::default() };
    Ok((view, String::new()))
}

impl Actor {
    pub(super) fn may_restart(&self) -> bool {
        self.config.target == AgentTarget::Beside && self.config.restarted_by == RestartedBy::Engine
    }

    /// Shares the program with which the agent's container may be started held.
    pub(super) fn share_hold(&self) -> Result<(), String> {
        let view = self.agent.view();
        let Some(beside) = &view.beside else { return Err("the agent is not in a container of its own".into()) };
        if self.config.only_looks {
            let there = beside.held.identity().is_some();
            return if there { Ok(()) } else { Err("the sidecar has not put `hold` into the inbox".into()) };
        }
        beside.held.share(&self.config.self_exe, |_| self.agent.holding() > 0)
    }

    pub(super) fn why_without_place(&self, view: &AgentView, files: Files) -> String {
        let Some(beside) = &view.beside else { return self.without_place.clone() };
        match &view.root {
            Some(root) => match beside.places_of(root.pid) {
                Ok(_) => {
                    format!("the agent's cgroup has no {} controller of {} here", files.controller(), files.rung())
                }
                Err(why) => why,
            },
            None => "no process of the agent was seen yet".into(),
        }
    }

    /// Where a rung will write once the agent is there: in what is bound from its cgroup's parent.
    pub(super) fn usable_beside(&self, beside: &Beside, files: Files) -> Result<(), String> {
        // Where it is bound is known by its file: of version 1 each controller has a place of its own.
        let controller = if files.version == Version::V1 { Some(files.controller()) } else { None };
        let bound = beside.hierarchies.bound_of(controller)?;
        let Some(parent) = bound.first() else {
            return Err(format!("no {} cgroup of {} is bound into this container", files.controller(), files.rung()));
        };
        // Before there is a leaf its parent has the same files. It is only asked for, never written.
        files.writable(parent)
    }

    /// After an end, or for an activation: until a process of the agent is seen.
    pub(super) async fn await_agent(&self) -> EffectOutcome {
        let failed = |why: String| EffectOutcome::Failed { why };
        let view = self.agent.view();
        let Some(beside) = &view.beside else { return failed("the agent is not in a container of its own".into()) };
        let holding = self.agent.holding();
        if holding > 0
            && let Err(why) = beside.held.activate()
        {
            return failed(why);
        }
        let until = Instant::now() + BACK_WITHIN;
        loop {
            if let Some(root) = living(&self.agent).iter().min_by_key(|s| (s.start_ticks, s.pid)) {
                return EffectOutcome::Launched { root: root.identity() };
            }
            if Instant::now() >= until {
                let seconds = BACK_WITHIN.as_secs();
                return failed(match holding {
                    0 => format!(
                        "nothing started the agent within {seconds} s: its container does not hold (`hold -- COMMAND`), \
                         and no engine starts it again; see `docker ps -a`"
                    ),
                    _ => format!("it was activated, and its command did not begin within {seconds} s; see its log"),
                });
            }
            // It may begin to hold only now: a container that starts slowly.
            if holding == 0 && self.agent.holding() > 0 && beside.held.activate().is_err() {
                return failed("the activation cannot be put into the inbox".into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
