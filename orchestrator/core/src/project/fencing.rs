//! Who may speak for an agent: of this project and plan, not with a later epoch than this orchestrator's, and one instance
//! at a time. Another instance waits until the first is lost, or an operator adopts it. For two of the same instance see
//! `clones`.
use pitwall_proto::{
    journal::{self, event::Body},
    mutant,
    v1::{self, SidecarStatus},
};

use super::{Project, sessions::refuse};
use crate::io::{Millis, Refusal, RefusalKind};

const INSTANCE_MAX: usize = 128;
/// So many commands a journal that was set back may lack, at most; a cursor beyond that comes from no history of it, and
/// following it would use up the numbers.
const CURSORS_AHEAD_MAX: u64 = 1_000_000;
/// A refused instance that goes on trying is journaled again after so long.
pub(super) const REFUSAL_AGAIN_MS: Millis = 5 * 60_000;

impl Project {
    pub(super) fn admit(&mut self, hello: &v1::Hello) -> Result<(), Refusal> {
        use RefusalKind::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
        if !hello.project.is_empty() && hello.project != self.state.project {
            let message = format!("this server owns project {}, not {}", self.state.project, hello.project);
            return Err(refuse(NotFound, "PROJECT_UNKNOWN", message));
        }
        let Some(agent) = self.state.agents.get(&hello.agent) else {
            let known = self.state.agents.keys().cloned().collect::<Vec<_>>().join(", ");
            let message = format!("the plan has no agent {:?}; it has: {known}", hello.agent);
            return Err(refuse(NotFound, "AGENT_UNKNOWN", message));
        };
        if hello.instance.is_empty() || hello.life == 0 {
            return Err(refuse(InvalidArgument, "HELLO_INCOMPLETE", "a hello needs an instance and a life above 0"));
        }
        if hello.instance.len() > INSTANCE_MAX {
            let message = format!("an instance id has at most {INSTANCE_MAX} bytes");
            return Err(refuse(InvalidArgument, "HELLO_INCOMPLETE", message));
        }
        let resume_epoch = hello.resume.as_ref().map_or(0, |r| r.epoch);
        let of_this_history = hello.resume.as_ref().is_some_and(|r| r.lineage == self.state.lineage);
        if resume_epoch > self.epoch && !mutant!("epoch-not-checked") {
            // Epochs are the time of a start, at least.
            let why = match of_this_history {
                true => "of the same history: another one took over, or this one's clock and journal were set back",
                false => "of another history: another one took over, or this one's clock is behind",
            };
            let message = format!(
                "the sidecar has seen epoch {resume_epoch}, this orchestrator has {}, {why}; stop this one if another \
                 owns the project, else set its clock right and start it again",
                self.epoch
            );
            return Err(refuse(FailedPrecondition, "EPOCH_FENCED", message));
        }
        let highest = self.state.next_cursor.saturating_add(CURSORS_AHEAD_MAX);
        let resume = hello.resume.as_ref().filter(|r| r.lineage == self.state.lineage);
        if let Some(cursor) = resume.and_then(|r| r.command_cursor).filter(|cursor| *cursor > highest) {
            let message = format!(
                "the hello says that command {cursor} was received; this history gives {} next, and no copy of it was \
                 ever beyond {highest}: the sidecar's state is damaged, begin it anew in an empty state directory",
                self.state.next_cursor
            );
            return Err(refuse(InvalidArgument, "HELLO_INCOMPLETE", message));
        }
        let Some(sidecar) = &agent.sidecar else { return Ok(()) };
        let same = sidecar.connected.instance == hello.instance;
        if same {
            return self.admit_twin(hello);
        }
        let adopted = agent.adopted.as_ref().is_some_and(|a| a.instance == hello.instance);
        if sidecar.status != SidecarStatus::Lost && !adopted {
            let told = |at: &Millis| *at + REFUSAL_AGAIN_MS > self.now;
            let known = agent.refused.as_ref().is_some_and(|(at, other)| *other == hello.instance && told(at));
            let why = self.held_back().map_or(String::new(), |why| format!(" ({why})"));
            let message = format!(
                "agent {} has a sidecar already (instance {}), which is not lost; stop it, or wait until it is{why}",
                hello.agent, sidecar.connected.instance
            );
            if !known {
                self.emit(Body::InstanceRefused(journal::InstanceRefused {
                    agent: hello.agent.clone(),
                    instance: hello.instance.clone(),
                    reason: message.clone(),
                }));
            }
            self.knocked(hello);
            return Err(refuse(AlreadyExists, "SECOND_INSTANCE", message));
        }
        Ok(())
    }
}
