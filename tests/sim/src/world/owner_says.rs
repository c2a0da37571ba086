//! What an orchestrator does with what its core decided, and whether it may say that: by the journal alone.
use pitwall_core::io::Action;
use pitwall_proto::v1::{self, CommandState, connect_response::Body};
use prost::Message as _;

use super::{
    Event, World,
    net::{Direction, Parcel},
    orchestrator::owner,
    owner_steps::{names, said},
};
use crate::model::{Exemption, Invariant, is_end};

impl World {
    pub(super) fn carry_out_for(&mut self, id: usize, action: Action) {
        let now = self.now;
        match action {
            Action::Append { batch, events } => {
                for event in &events {
                    self.story.note(now, "owner", "append", &event.encode_to_vec());
                }
                self.tell(&owner(id), || format!("appends batch {batch}: {}", names(&events)));
                let took = self.dice.between(1, 9);
                let Some(orchestrator) = self.orchestrators[id].as_mut() else { return };
                orchestrator.in_flight.push_back((batch, events));
                orchestrator.committed_at = orchestrator.committed_at.max(now + took);
                let after = orchestrator.committed_at - now;
                self.at(after, Event::Committed(id));
            }
            Action::Send { session, body } => self.send(id, session, body),
            Action::Close { session, refusal } => {
                self.tell(&owner(id), || format!("closes session {session}: {}", refusal.reason));
                self.orchestrator_hangs_up(session, true, "refused", Some(refusal.reason));
            }
            Action::Reply { token, reply } => self.replied(id, token, reply),
            Action::Publish { change } => {
                let revision = change.revision.clone().unwrap_or_default();
                self.story.note(now, "owner", "publish", &revision.sequence.to_le_bytes());
                let last = self.model.journal.last;
                // An owner that was followed may tell what it had made durable before.
                self.model.require(revision.sequence <= last, Invariant::PublishedOnlyWhatIsJournaled, now, || {
                    format!("revision {} is published, the journal ends at {last}", revision.sequence)
                });
            }
        }
    }

    fn send(&mut self, id: usize, session: u64, body: Body) {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&session).filter(|s| s.orchestrator_open) else { return };
        let silent = self.orchestrators[id].as_ref().is_some_and(|o| o.draining);
        if silent && !matches!(body, Body::GoAway(_)) {
            return;
        }
        stream.seq_down += 1;
        let (seq, site, instance) = (stream.seq_down, stream.site, stream.instance.clone());
        let agent = self.homes[self.sites[site].home].agent.name.clone();
        match &body {
            Body::Welcome(_) => {
                let said = self.streams.get(&session).map_or(0, |s| s.hello_at);
                if let Some(orchestrator) = self.orchestrators[id].as_mut() {
                    let heard = orchestrator.heard.entry(agent.clone()).or_default();
                    *heard = (*heard).max(said);
                }
            }
            Body::FactAck(ack) => {
                let durable = self.model.journal.accepted.get(&(agent.clone(), instance.clone())).copied().unwrap_or(0);
                self.model.require(ack.seq <= durable, Invariant::AcknowledgedOnlyWhatIsDurable, now, || {
                    format!("fact {} of {agent} is acknowledged, the journal has {durable}", ack.seq)
                });
            }
            Body::CommandUpdateAck(ack) => {
                let known = self.model.journal.commands.get(&ack.id).map(|c| c.last());
                let state = v1::CommandState::try_from(ack.state).unwrap_or_default();
                let durable = known.is_none_or(|last| is_end(last) || !is_end(state));
                self.model.require(durable, Invariant::AcknowledgedOnlyWhatIsDurable, now, || {
                    format!("{state:?} of {} is acknowledged, the journal has {known:?}", ack.id)
                });
            }
            Body::Command(delivery) => {
                let known = self.model.journal.commands.get(&delivery.id).map(|c| c.states.clone());
                let sent = known.as_ref().is_some_and(|s| s.contains(&CommandState::Sent));
                self.model.require(sent, Invariant::SentOnlyWhatIsJournaled, now, || {
                    format!("{} is sent, the journal has {known:?}", delivery.id)
                });
                self.check_delivery(site, &instance, delivery);
            }
            Body::Cancel(cancel) => {
                let ledger = self.model.journal.commands.get(&cancel.id);
                let heard = ledger.is_some_and(|c| c.states.contains(&CommandState::Received));
                let known = self.model.sites[site].commands.contains_key(&cancel.id);
                if self.model.acts_of(&cancel.id) > 0 && !heard && !known {
                    self.model.excused.entry(cancel.id.clone()).or_insert(Exemption::NeitherSideKnows);
                }
                let asked = self.model.journal.commands.get(&cancel.id).is_some_and(|c| c.cancel_requested);
                self.model.require(asked, Invariant::SentOnlyWhatIsJournaled, now, || {
                    format!("the cancel of {} is sent and not journaled", cancel.id)
                });
            }
            _ => {}
        }
        let frame = v1::ConnectResponse { seq, ack: 0, body: Some(body) };
        let bytes = frame.encode_to_vec();
        self.story.note(now, "owner", "send", &bytes);
        self.tell(&owner(id), || format!("says to {agent}: {}", said(&frame)));
        self.post(session, Direction::ToSidecar, Parcel::Frame(bytes));
    }

    /// What was sent to a memory that is gone is not sent to the next one.
    fn check_delivery(&mut self, site: usize, instance: &str, delivery: &v1::CommandDelivery) {
        let invariant = Invariant::LostMemoryIsSentNothingOld;
        let acts = self.model.acts_of(&delivery.id);
        let to = self.model.journal.sent_to.get(&delivery.id).cloned();
        self.model.require(to.as_ref().is_none_or(|to| to == instance), invariant, self.now, || {
            format!("{} was sent to {to:?}, and now to {instance}, which cannot know of it", delivery.id)
        });
        let file = &self.model.sites[site].commands;
        let agent = &self.homes[self.sites[site].home].agent.name;
        // Where the journal knows of anything that was received and is not there now. (What was received and never told is
        // to it as if it had been lost under way.)
        let known = self.model.journal.commands.iter().any(|(id, c)| {
            c.agent == *agent
                && c.states.contains(&CommandState::Received)
                && c.cursor >= delivery.cursor
                && !file.contains_key(id)
        });
        let again = acts > 0 && !file.contains_key(&delivery.id);
        // What one of two of the same state did the other does not know, and says of itself what the first would say.
        let twins = self.homes[self.sites[site].home].twins;
        if again && (twins || !known) {
            let exemption = if twins { Exemption::TwinsOfOneState } else { Exemption::NeitherSideKnows };
            self.model.tally.excused(exemption, 1);
            self.model.excused.entry(delivery.id.clone()).or_insert(exemption);
        } else {
            self.model.require(!again, invariant, self.now, || {
                format!("{} had its effect, and is sent to a sidecar that does not know it", delivery.id)
            });
        }
    }
}
