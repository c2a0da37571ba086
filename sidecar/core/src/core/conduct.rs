//! Only observing: another sidecar has the same state, and nobody has said yet which one goes on. This one looks and tells
//! as ever, and does nothing: no command is begun, nothing is launched, leases run out. It is told so by the orchestrator,
//! or learns it by being refused; it outlives this process, until a welcome says otherwise.
use pitwall_proto::{
    state::{self, record::Body},
    v1,
};

use super::Core;

/// Reasons of a refusal that say that another one has this state.
const TAKEN: [&str; 3] = ["LIFE_SUPERSEDED", "STATE_MOVED", "NOT_ADOPTED"];

impl Core {
    pub(super) fn only_observes(&self) -> bool {
        self.kept.life.only_observes
    }

    pub(super) fn conducted(&mut self, conduct: &v1::Conduct) {
        self.conduct(conduct.only_observe, &conduct.reason);
    }

    pub(super) fn refused(&mut self, reason: &str, message: &str) {
        if TAKEN.contains(&reason) {
            self.conduct(true, message);
        }
    }

    fn conduct(&mut self, only_observe: bool, reason: &str) {
        if self.kept.life.only_observes != only_observe {
            self.life = self.record(Body::Life(state::Life { only_observes: only_observe, ..self.kept.life.clone() }));
            let text = if only_observe {
                format!("from now on this sidecar only observes: {reason}")
            } else {
                "this sidecar acts again".to_owned()
            };
            self.log(only_observe, text);
        }
        if !only_observe {
            self.start_held_agent();
        }
    }
}
