//! Scenarios as text: one line for each thing that happens, in the order in which it happens.
//!
//! `at 14m` moves time on; `AGENT VERB …` is what a sidecar says, `operator VERB …` what an operator does, `show TITLE`
//! and `why AGENT` write into the golden text. `last` names the command issued last.
use pitwall_core::io::Millis;
use pitwall_proto::v1::{self, CommandState, LeaseState, Outcome, Resource, command_spec::Kind, connect_request, fact};

use super::{START, World, play::process, render};

/// The golden text of a scenario. Replay is checked at every `show`.
pub fn play(yaml: &str, script: &str) -> String {
    played(yaml, script).out
}

/// The world in which it ends.
pub fn world_after(yaml: &str, script: &str) -> World {
    played(yaml, script).world
}

fn played(yaml: &str, script: &str) -> Player {
    let mut player = Player { world: World::new(yaml), out: String::new(), last: String::new() };
    for (number, line) in script.lines().enumerate() {
        let words = split(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if player.line(&words).is_none() {
            panic!("line {} is not understood: {line}", number + 1);
        }
    }
    player.world.check_replay();
    player
}

struct Player {
    world: World,
    out: String,
    last: String,
}

/// Words; quotes hold some together; `#` begins a comment.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').expect("a closing quote"),
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_string());
        rest = after.trim_start();
    }
    words
}

fn duration(text: &str) -> Option<Millis> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let n: Millis = text[..digits].parse().ok()?;
    Some(match &text[digits..] {
        "ms" => n,
        "s" => n * 1_000,
        "m" => n * 60_000,
        "h" => n * 3_600_000,
        _ => return None,
    })
}

impl Player {
    fn line(&mut self, words: &[&str]) -> Option<()> {
        match words {
            [] => {}
            ["at", time] => {
                let until = START + duration(time)?;
                assert!(until >= self.world.now, "time runs backwards at {time}");
                self.world.advance(until - self.world.now);
            }
            ["show", title @ ..] => {
                self.world.check_replay();
                let text = render::situation(&self.world, &title.join(" "));
                self.out.push_str(&text);
                self.out.push('\n');
            }
            ["why", of] => {
                let (agent, deliverable) = of.split_once('/').unwrap_or((of, ""));
                let told = self.world.project.explain(self.world.now, agent, deliverable).ok()?;
                self.out.push_str(&format!("--- why {of}\n{}\n\n", told.lines.join("\n")));
            }
            ["orchestrator", "restarts"] => self.world.restart_orchestrator(),
            ["operator", rest @ ..] => self.operator(rest)?,
            [agent, rest @ ..] => self.sidecar(agent, rest)?,
        }
        Some(())
    }

    fn operator(&mut self, words: &[&str]) -> Option<()> {
        let world = &mut self.world;
        let issued = match words {
            ["tells", agent, text] => world.tell(agent, "", text),
            ["tells", agent, "about", deliverable, text] => world.tell(agent, deliverable, text),
            ["throttles", agent, "to", cores, "for", time] => {
                let for_ms = u32::try_from(duration(time)?).ok()?;
                world.throttle(agent, cores.parse().ok()?, for_ms)
            }
            ["unthrottles", agent] => world.issue(agent, Kind::Unthrottle(v1::Unthrottle::default())).unwrap(),
            ["kills", agent, pid] => world.kill(agent, pid.parse().ok()?).unwrap(),
            ["restarts", agent] => world.issue(agent, Kind::Restart(v1::Restart::default())).unwrap(),
            ["activates", agent] => world.issue(agent, Kind::Activate(v1::Activate::default())).unwrap(),
            ["cancels", "last"] => {
                let id = self.last.clone();
                world.cancel(&id).unwrap()
            }
            ["cancels", id] => world.cancel(id).unwrap(),
            ["tries", what @ ..] => return self.refused(what),
            ["applies", yaml] => {
                let told = world.apply_plan(plan_named(yaml)?);
                let told = match told {
                    Ok(pitwall_core::io::Reply::Plan { generation, differences }) => {
                        format!("generation {generation}\n  {}", differences.join("\n  "))
                    }
                    other => format!("{other:?}"),
                };
                self.out.push_str(&format!("--- {} plan applied: {told}\n\n", render::clock(self.world.now)));
                return Some(());
            }
            _ => return None,
        };
        self.last = issued.id;
        Some(())
    }

    /// What is refused at once, with the words that the operator reads.
    fn refused(&mut self, words: &[&str]) -> Option<()> {
        let told = match words {
            ["to", "kill", agent, pid] => self.world.kill(agent, pid.parse().ok()?),
            ["to", "restart", agent] => self.world.issue(agent, Kind::Restart(v1::Restart::default())),
            ["to", "activate", agent] => self.world.issue(agent, Kind::Activate(v1::Activate::default())),
            ["to", "cancel", id] => self.world.cancel(id),
            _ => return None,
        };
        let refusal = told.err()?;
        self.out.push_str(&format!("--- {} refused: {}: {}\n\n", words.join(" "), refusal.reason, refusal.message));
        Some(())
    }

    fn sidecar(&mut self, subject: &str, words: &[&str]) -> Option<()> {
        let agent = subject.split('/').next()?;
        let world = &mut self.world;
        match words {
            ["connects"] => world.connect(agent),
            ["connects", "from", host] => {
                world.sidecar(agent).host = host.to_string();
                world.connect(agent);
            }
            ["lacks", capability] => {
                world.sidecar(agent).lacks.insert(capability.to_string());
            }
            ["is", "seen", name, pid] => world.seen(agent, pid.parse().ok()?, name),
            ["starts"] => world.start(agent),
            ["is", "cut", "off"] => world.cut(agent),
            ["comes", "back"] => world.connect(agent),
            ["comes", "back", "as", "a", "new", "life"] => world.new_life(agent),
            ["is", "replaced", "by", instance] => {
                let sidecar = world.sidecar(agent);
                sidecar.instance = instance.to_string();
                sidecar.life = 1;
                sidecar.session = None;
                world.connect(agent);
                if world.sidecars[agent].session.is_none() {
                    let Some(pitwall_core::io::Action::Close { refusal, .. }) =
                        world.out.iter().rev().find(|a| matches!(a, pitwall_core::io::Action::Close { .. }))
                    else {
                        return None;
                    };
                    let told = format!("--- {instance} refused: {}: {}\n\n", refusal.reason, refusal.message);
                    self.out.push_str(&told);
                }
            }
            ["exits", "with", code] => world.exits(agent, code.parse().ok()),
            ["passes"] => world.passes(subject),
            ["passes", which, summary] => world.verdict(subject, which, Outcome::Passed, false, summary),
            ["fails"] => world.fails(subject),
            ["fails", which, summary] => world.verdict(subject, which, Outcome::Failed, false, summary),
            ["begins", "to", "fail", which, summary] => {
                world.verdict(subject, which, Outcome::Failed, true, summary);
            }
            ["is", "unknown", which, summary] => world.verdict(subject, which, Outcome::Unknown, false, summary),
            ["claims", share] => world.claim(agent, percent(share)?, &[], ""),
            ["claims", share, "waiting", "for", whom] => world.claim(agent, percent(share)?, &[], whom),
            ["claims", share, "of", name] => {
                let share = percent(share)?;
                world.claim(agent, share, &[(name, share)], "");
            }
            ["changes", count] if subject.contains('/') => {
                let name = subject.split_once('/')?.1;
                world.changes(agent, &[(name, count.parse().ok()?)], 0);
            }
            ["changes", count, "elsewhere"] => world.changes(agent, &[], count.parse().ok()?),
            ["is", "quiet"] => world.quiet(agent, true),
            ["moves"] => world.quiet(agent, false),
            ["loops"] => world.looping(agent, true),
            ["is", "under", "pressure", what, "by", name, pid] => {
                world.pressure(agent, true, what, Some(process(pid.parse().ok()?, name)));
            }
            ["is", "free", "of", "pressure"] => world.pressure(agent, false, "", None),
            ["uses", used, "of", limit, resource, "by", name, pid] => {
                let resource = match *resource {
                    "cpu" => Resource::Cpu,
                    "memory" => Resource::Memory,
                    _ => return None,
                };
                let by = process(pid.parse().ok()?, name);
                world.quota(agent, resource, limit.parse().ok()?, used.parse().ok()?, by);
            }
            ["answers", state, detail @ ..] => {
                let (id, state) = (self.last.clone(), command_state(state)?);
                world.update(agent, &id, state, &detail.join(" "));
            }
            ["says", "of", id, state, detail @ ..] => {
                world.update(agent, id, command_state(state)?, &detail.join(" "));
            }
            ["lease", state, detail @ ..] => {
                let name = format!("LEASE_STATE_{}", state.to_uppercase());
                let id = self.last.clone();
                world.lease(agent, &id, LeaseState::from_str_name(&name)?, &detail.join(" "));
            }
            ["sees", pid, "gone"] => {
                let gone = v1::ProcessGone { process: Some(process(pid.parse().ok()?, "gone")) };
                world.fact(agent, fact::Kind::ProcessGone(gone));
            }
            ["measures", measured, "of", asked] => {
                let measured: f64 = measured.parse().ok()?;
                let asked: f64 = asked.parse().ok()?;
                let effect = v1::EffectMeasured {
                    command: self.last.clone(),
                    resource: Resource::Cpu as i32,
                    asked,
                    measured: Some(measured),
                    over_ms: 2_000,
                    held: measured <= asked * 1.1,
                };
                world.fact(agent, fact::Kind::EffectMeasured(effect));
            }
            ["dropped", count] => {
                let count = count.parse().ok()?;
                world.fact(agent, fact::Kind::FactsDropped(v1::FactsDropped { count }));
            }
            ["has", "no", "workspace"] => {
                let fact = v1::WorkspaceFact { present: false, reason: "/workspace does not exist".into() };
                world.fact(agent, fact::Kind::Workspace(fact));
            }
            ["has", "a", "workspace"] => {
                let fact = v1::WorkspaceFact { present: true, reason: String::new() };
                world.fact(agent, fact::Kind::Workspace(fact));
            }
            ["reads", cpu, "cores"] => world.reads(agent, cpu.parse().ok()?, &[]),
            ["says", "something", "new"] => {
                world.say(agent, connect_request::Body::Unsupported(v1::Unsupported::default()));
            }
            _ => return None,
        }
        Some(())
    }
}

fn percent(text: &str) -> Option<f64> {
    Some(text.strip_suffix('%')?.parse::<f64>().ok()? / 100.0)
}

fn command_state(word: &str) -> Option<CommandState> {
    CommandState::from_str_name(&format!("COMMAND_STATE_{}", word.to_uppercase()))
}

fn plan_named(name: &str) -> Option<&'static str> {
    super::super::scenarios::plan(name)
}
