//! Operators and agents, who go their own ways: commands with a key until somebody answers, cancels, files that come and
//! go, processes that end and are followed by others of the same pid.
use std::collections::BTreeSet;

use pitwall_core::io::{Input, Refusal, Reply, Token};
use pitwall_proto::v1::{self, Resource, command_spec::Kind};

use pitwall_sidecar_core::io::Input as SidecarInput;

use super::{
    Event, World,
    agent::{Process, identity},
    orchestrator::owner,
    plans,
};
use crate::model::Invariant;

const COMMANDS_MAX: usize = 16;
const ASK_AGAIN_MS: u64 = 1_500;

#[derive(Debug)]
struct Ask {
    key: String,
    request: v1::IssueCommandRequest,
    /// Whom it was asked of last.
    of: Option<(usize, Token)>,
    over: bool,
}

#[derive(Debug, Default)]
pub struct Operator {
    asks: Vec<Ask>,
    next_token: Token,
    cancels: Vec<(usize, Token, String)>,
    /// Each process is killed by one command only, so that an effect has one cause.
    aimed: BTreeSet<(usize, Process)>,
}

impl World {
    pub(super) fn operator_lives(&mut self) {
        if self.converging {
            return;
        }
        let next = self.dice.between(800, 6_000);
        self.at(next, Event::OperatorLives);
        if self.dice.one_in(6) {
            return self.cancel_something();
        }
        if self.operator.asks.len() < COMMANDS_MAX {
            self.ask_something();
        }
    }

    fn ask_something(&mut self) {
        let site = self.dice.below(self.homes.len());
        let agent = &self.homes[self.sites[site].home].agent;
        let aimed = &self.operator.aimed;
        let victims: Vec<_> = agent.workers.iter().copied().chain(agent.root).collect();
        let victims: Vec<_> = victims.into_iter().filter(|v| !aimed.contains(&(site, *v))).collect();
        let name = agent.name.clone();
        let incarnation = 0;
        let kind = match self.dice.below(11) {
            0..=2 => Kind::Directive(v1::Directive { text: "look here".into(), ..Default::default() }),
            3 | 4 => {
                let Some(victim) = self.dice.pick(&victims) else { return };
                self.operator.aimed.insert((site, victim));
                Kind::Kill(v1::Kill { process: Some(identity(victim)), grace_ms: 100, tree: false })
            }
            5..=7 => {
                let low = self.dice.below(3) as f64;
                let memory = self.dice.one_in(3);
                Kind::Throttle(v1::Throttle {
                    cpu_cores: if memory { 0.0 } else { 0.1 + low / 10.0 },
                    resource: if memory { Resource::Memory as i32 } else { 0 },
                    amount: if memory { 1e9 + low } else { 0.0 },
                    for_ms: self.dice.between(4_000, 30_000) as u32,
                    ttl_ms: self.dice.between(4_000, 12_000) as u32,
                    ..Default::default()
                })
            }
            8 => {
                let resource = if self.dice.one_in(3) { Resource::Memory as i32 } else { 0 };
                Kind::Unthrottle(v1::Unthrottle { resource })
            }
            9 => Kind::Activate(v1::Activate { incarnation }),
            _ => Kind::Restart(v1::Restart { incarnation, grace_ms: 100 }),
        };
        let n = self.operator.asks.len();
        let request = v1::IssueCommandRequest {
            project: "sim".into(),
            agent: name,
            spec: Some(v1::CommandSpec { kind: Some(kind) }),
            start_within_ms: if self.dice.one_in(4) { self.dice.between(300, 4_000) as u32 } else { 0 },
            idempotency_key: format!("key-{n}"),
            origin: "sim".into(),
        };
        self.operator.asks.push(Ask { key: format!("key-{n}"), request, of: None, over: false });
        self.operator_asks_again(n);
    }

    /// Until somebody answers: of whoever owns the project now, with the same key.
    pub(super) fn operator_asks_again(&mut self, ask: usize) {
        if self.operator.asks[ask].over {
            return;
        }
        self.at(ASK_AGAIN_MS, Event::OperatorAsksAgain(ask));
        let Some(id) = self.newest() else { return };
        // The one that was asked is still there.
        if self.operator.asks[ask].of.is_some_and(|(of, _)| of == id) {
            return;
        }
        self.operator.next_token += 1;
        let token = self.operator.next_token;
        self.operator.asks[ask].of = Some((id, token));
        let request = Box::new(self.operator.asks[ask].request.clone());
        self.tell("operator", || format!("asks {}: {:?}", request.idempotency_key, request.spec));
        self.give(id, Input::IssueCommand { token, request });
    }

    fn cancel_something(&mut self) {
        let all: Vec<String> = self.model.promised.values().cloned().collect();
        let (Some(id), Some(of)) = (self.dice.pick(&all), self.newest()) else { return };
        self.operator.next_token += 1;
        let token = self.operator.next_token;
        self.operator.cancels.push((of, token, id.clone()));
        self.tell("operator", || format!("cancels {id}"));
        self.give(of, Input::CancelCommand { token, id });
    }

    pub(super) fn replied(&mut self, of: usize, token: Token, reply: Result<Reply, Refusal>) {
        let now = self.now;
        self.story.note(now, "owner", "reply", &token.to_le_bytes());
        if let Some(at) = self.operator.cancels.iter().position(|c| c.0 == of && c.1 == token) {
            let (_, _, id) = self.operator.cancels.remove(at);
            if let Ok(Reply::Command(command)) = reply {
                let known = self.model.journal.commands.get(&id);
                let durable = known.is_some_and(|c| c.cancel_requested || crate::model::is_end(c.last()));
                self.model.require(durable, Invariant::AcknowledgedOnlyWhatIsDurable, now, || {
                    format!("the cancel of {} was answered and is not in the journal", command.id)
                });
            }
            return;
        }
        let Some(ask) = self.operator.asks.iter_mut().find(|a| a.of == Some((of, token))) else { return };
        ask.over = true;
        let key = ask.key.clone();
        match reply {
            Ok(Reply::Command(command)) => {
                self.tell(&owner(of), || format!("answers {key}: {} is {:?}", command.id, command.state()));
                let durable = self.model.journal.commands.contains_key(&command.id);
                self.model.require(durable, Invariant::AcknowledgedOnlyWhatIsDurable, now, || {
                    format!("{} was promised and is not in the journal", command.id)
                });
                self.model.promised.insert(key, command.id);
            }
            Ok(Reply::Plan { .. } | Reply::Adopted(_)) => {}
            Err(refusal) => self.tell(&owner(of), || format!("refuses {key}: {}", refusal.message)),
        }
    }

    pub(super) fn agent_lives(&mut self, site: usize) {
        if self.converging {
            return;
        }
        let next = self.dice.between(700, 4_000);
        self.at(next, Event::AgentLives(site));
        let what = self.dice.below(9);
        let own = plans::files_of(&self.homes[self.sites[site].home].agent.name);
        let file = self.dice.pick(&own).unwrap_or_else(|| "notes.md".into());
        if self.dice.one_in(8) {
            // It begins to work hard, or to rest.
            self.homes[self.sites[site].home].agent.cpu = self.dice.pick(&[0.4, 0.4, 0.7, 1.6]).unwrap_or(0.4);
            return;
        }
        if self.dice.one_in(12) {
            return self.agent_claims(site);
        }
        let agent = &mut self.homes[self.sites[site].home].agent;
        let mut changed = None;
        match what {
            0..=3 if agent.root.is_some() => {
                agent.files.insert(file.clone());
                changed = Some(file);
            }
            4 if agent.root.is_some() => {
                agent.files.remove(&file);
                changed = Some(file);
            }
            5 | 6 => {
                agent.spawn();
            }
            7 => {
                let at = self.dice.below(agent.workers.len());
                if at < agent.workers.len() {
                    agent.workers.remove(at);
                }
            }
            8 => {
                agent.reuse(&mut self.dice);
            }
            _ => {}
        }
        if let Some(path) = changed {
            let name = self.sites[site].name.clone();
            self.tell(&name, || format!("agent changes {path}"));
            let gen_ = self.gen_of(site);
            let after = self.dice.between(5, 1_500);
            self.at(after, Event::FilesSeen { site, gen_, paths: vec![path] });
        }
    }

    fn agent_claims(&mut self, site: usize) {
        let progress = Some(self.dice.below(101) as f64 / 100.0);
        let text = format!("so far at {}", self.now);
        let home = &mut self.homes[self.sites[site].home];
        if home.agent.root.is_none() || home.workspace_gone {
            return;
        }
        let deliverables = plans::truth(&home.agent.name).into_iter().map(|(name, _)| (name.to_owned(), 1.0)).collect();
        let claim = v1::Claim { progress, text, deliverables, ..Default::default() };
        home.agent.claim = Some(claim.clone());
        self.feed(site, SidecarInput::Claim(Ok(claim)));
    }

    pub(super) fn agent_returns(&mut self, site: usize) {
        if self.homes[self.sites[site].home].agent.root.is_none() {
            self.homes[self.sites[site].home].agent.begin();
            let name = self.sites[site].name.clone();
            self.tell(&name, || "agent is back".into());
        }
    }
}
