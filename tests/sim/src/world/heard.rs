//! What the model has to know of what a sidecar's core is told.
use pitwall_proto::v1::{self, CommandState, command_spec::Kind, connect_response};
use pitwall_sidecar_core::io::Input;

use super::{Event, World, site::Cancel, watch::STOP_WITHIN_MS};
use crate::model::{Exemption, StartBy, resource_of};

/// A write takes far less than so many samples.
const CANCEL_SAMPLES: u8 = 3;
/// From the end of a command's time to start until its effect was handed over: one more write and one more step.
const START_SLACK_MS: u64 = 200;

impl World {
    pub(super) fn note_input(&mut self, site: usize, input: &Input) {
        match input {
            Input::Received { frame, session } => self.note_frame(site, *session, frame),
            Input::Observed(seen) if seen.outcome == v1::Outcome::Passed => {
                let agent = self.homes[self.sites[site].home].agent.name.clone();
                let check = (agent, seen.deliverable.clone(), seen.check_id.clone());
                self.sites[site].passed.insert(check, self.now);
            }
            Input::Stop => {
                let gen_ = self.gen_of(site);
                self.sites[site].stopping = true;
                self.at(STOP_WITHIN_MS, Event::StopIsDue { site, gen_ });
            }
            _ => {}
        }
    }

    fn note_frame(&mut self, site: usize, session: u64, frame: &v1::ConnectResponse) {
        let boot = self.homes[self.sites[site].home].host.boot_ms(self.now);
        // Of a session that the core has given up nothing is heard; of one whose other end is gone, what was under way.
        let heard = self.sites[site].process.as_ref().is_some_and(|p| p.hears == Some(session));
        let stream = self.stream_of(site, session).filter(|id| self.streams[id].site_open);
        match &frame.body {
            Some(connect_response::Body::Command(delivery)) if heard => {
                self.note_delivery(site, delivery, boot);
            }
            Some(connect_response::Body::Cancel(cancel)) => {
                // Before the command itself, or while that waits for its turn and nothing newer is on its way to the disk.
                let model = &self.model.sites[site];
                let first = !model.start_by.contains_key(&cancel.id);
                let waits = model.commands.get(&cancel.id).is_some_and(|c| c.state == CommandState::Received);
                if heard && (first || waits && self.sites[site].disk.unsynced.is_none()) {
                    self.model.sites[site].cancelled_in_time.insert(cancel.id.clone());
                    let gen_ = self.gen_of(site);
                    let cancel = Cancel { id: cancel.id.clone(), of: gen_, samples: CANCEL_SAMPLES, put_off: false };
                    self.sites[site].cancels.push(cancel);
                }
            }
            Some(connect_response::Body::LeaseRenewal(renewal)) if heard => {
                self.model.leases[site].renewed(&renewal.commands, boot);
            }
            Some(connect_response::Body::FactAck(ack)) => {
                if let Some((_, lineage)) = self.sites[site].welcomed.clone().filter(|(of, _)| heard && *of == session)
                {
                    self.model.sites[site].acked_by(ack.seq, &lineage);
                }
            }
            Some(connect_response::Body::GoAway(_)) => {
                if let Some(stream) = stream.and_then(|id| self.streams.get_mut(&id)) {
                    stream.told_to_go = true;
                }
            }
            Some(connect_response::Body::Welcome(welcome)) => self.note_welcome(site, session, stream, welcome),
            _ => {}
        }
    }

    fn note_delivery(&mut self, site: usize, delivery: &v1::CommandDelivery, boot: u64) {
        let host = &self.homes[self.sites[site].home].host;
        let at = self.now + u64::from(delivery.start_within_ms) + START_SLACK_MS;
        let by = StartBy { at, boots: host.boots, wall_skew: host.wall_skew };
        // What the file has, counts from its first receipt; what it lost, from this one.
        let known = self.model.sites[site].commands.contains_key(&delivery.id);
        let start_by = self.model.sites[site].start_by.entry(delivery.id.clone()).or_insert(by);
        if !known && start_by.at < at {
            *start_by = by;
        }
        let home = self.sites[site].home;
        let other = (0..self.sites.len()).filter(|s| *s != site && self.sites[*s].home == home);
        let also = other.into_iter().any(|s| self.model.sites[s].start_by.contains_key(&delivery.id));
        if self.homes[home].twins && also && !known {
            self.model.excused.entry(delivery.id.clone()).or_insert(Exemption::TwinsOfOneState);
        }
        let name = self.sites[site].name.clone();
        if let Some(Kind::Throttle(throttle)) = delivery.spec.as_ref().and_then(|s| s.kind.as_ref()) {
            let times = (throttle.for_ms, throttle.ttl_ms);
            self.model.leases[site].begins(&delivery.id, resource_of(throttle.resource), times, boot);
        }
        self.tell(&name, || {
            format!("receives command {} to start within {} ms", delivery.id, delivery.start_within_ms)
        });
    }

    fn note_welcome(&mut self, site: usize, session: u64, stream: Option<u64>, welcome: &v1::Welcome) {
        self.sites[site].met = true;
        self.sites[site].welcomed = Some((session, welcome.lineage.clone()));
        let model = &mut self.model.sites[site];
        let other = !model.lineage.is_empty() && model.lineage != welcome.lineage;
        let refuse = welcome.epoch < model.epoch || (other && welcome.epoch == model.epoch);
        if !refuse {
            model.welcomed_with.push((welcome.fact_acked, welcome.lineage.clone()));
        }
        let Some(stream) = stream.and_then(|id| self.streams.get_mut(&id)) else { return };
        stream.refused_welcome = refuse;
        stream.lineage = Some(welcome.lineage.clone());
    }
}
