//! Is the state that a sidecar resumes from the newest there was? One that was lost, set back or copied may have acted on
//! what it does not remember: it is sent nothing that was sent before, which ends UNKNOWN, and it is told, so that what
//! an earlier process of it had not ended ends UNKNOWN there too.
//!
//! It is not the newest where anything that it once said (and says only once that is on its disk) is missing from it: a
//! fact, a state of a command, a command, its life. What it did and never told cannot be missed here.
use pitwall_proto::{
    mutant,
    v1::{self, CommandState},
};

use super::Project;
use crate::state::{CommandRecord, is_terminal};

impl Project {
    /// Why the state behind this hello is not the newest; `None`: as far as is known, it is.
    pub(super) fn outdated(&self, hello: &v1::Hello) -> Option<String> {
        let resume = hello.resume.clone().unwrap_or_default();
        // What it did in the other one, nobody here can miss.
        let other = !resume.lineage.is_empty() && resume.lineage != self.state.lineage;
        if other {
            return Some("it comes from another history".into());
        }
        let agent = &self.state.agents[&hello.agent];
        let known = &agent.sidecar.as_ref()?.connected;
        if known.instance != hello.instance && !mutant!("cursor-0-for-absent") {
            return Some(format!("it is instance {}, {} was here before", hello.instance, known.instance));
        }
        // A life number that was seen already, of another process: its state was set back or copied.
        let seen = hello.life < known.life || (hello.life == known.life && known.process != hello.process);
        if seen {
            return Some(format!("life {} was seen already, of another process", hello.life));
        }
        if !known.place.is_empty() && !hello.place.is_empty() && known.place != hello.place {
            return Some("its state directory lay at another place, and may be a copy".into());
        }
        let acked = agent.fact_acked(&hello.instance);
        // 0: it does not say.
        if resume.last_fact > 0 && resume.last_fact < acked {
            return Some(format!("it knows facts up to {}, it told {acked} once", resume.last_fact));
        }
        if let Some((id, told)) = self.forgotten_state(hello, &resume) {
            return Some(format!("it does not know that {id} was {}", crate::text::state_word(told)));
        }
        let received = self.state.ledger.iter().filter_map(|(cursor, id)| {
            let command = self.state.commands.get(id)?;
            let here = command.issued.agent == hello.agent && command.reached(CommandState::Received).is_some();
            here.then_some(*cursor)
        });
        if mutant!("cursor-0-for-absent") && resume.command_cursor.is_none() {
            return None;
        }
        let last = received.max()?;
        let behind = resume.command_cursor.is_none_or(|held| held < last);
        behind.then(|| format!("it received command {last} once, and does not know of it"))
    }

    /// A command that has come further by its own words than it holds it now.
    fn forgotten_state(&self, hello: &v1::Hello, resume: &v1::ResumePoint) -> Option<(String, CommandState)> {
        resume.held.iter().find_map(|held| {
            let command = self.state.commands.get(&held.id).filter(|c| c.issued.agent == hello.agent)?;
            let told = told_by_sidecar(command)?;
            (rank(told) > rank(held.state())).then(|| (held.id.clone(), told))
        })
    }

    pub(super) fn end_sent_commands(&mut self, agent: &str) {
        let sent: Vec<String> = self
            .state
            .unfinished_commands()
            .filter(|c| c.issued.agent == agent && c.state != CommandState::Queued)
            .map(|c| c.issued.id.clone())
            .collect();
        for id in sent {
            self.step(&id, CommandState::Unknown, "the sidecar came back without its memory of this command");
        }
    }
}

/// The furthest state that came from a sidecar. UNKNOWN may be this side's own, as are the ends of what was never received.
fn told_by_sidecar(command: &CommandRecord) -> Option<CommandState> {
    command.reached(CommandState::Received)?;
    let told = command.steps.iter().map(|(state, ..)| *state).filter(|s| *s != CommandState::Unknown);
    told.max_by_key(|s| rank(*s))
}

fn rank(state: CommandState) -> u8 {
    match state {
        CommandState::Unspecified | CommandState::Queued | CommandState::Sent => 0,
        CommandState::Received => 1,
        CommandState::Accepted => 2,
        CommandState::Running => 3,
        ended => 4 * u8::from(is_terminal(ended)),
    }
}
