//! What can be limited, one limit for each: a resource of the whole agent, or of one process. By which rung it is held is
//! no part of that: two rungs may write the same file, and then each would bring back the other's value. So a resource
//! and a target have one limit at a time, by the rung that the strictest of their leases asks for. Pure words; `core`
//! brings them about.
use pitwall_proto::{
    state,
    throttle::{self, Target},
    v1::{self, Resource},
};

/// Limits at once; more is a client gone wild.
pub const SLOTS_MAX: usize = 64;

/// The resource's number, and whom it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotKey {
    pub resource: i32,
    pub target: Target,
}

fn key(resource: i32, process: Option<&state::Process>) -> SlotKey {
    // Files of older versions know no other resource.
    let resource = if resource == 0 { Resource::Cpu as i32 } else { resource };
    SlotKey { resource, target: process.map(|p| (p.pid, p.start_ticks)) }
}

impl SlotKey {
    pub fn of_throttle(throttle: &v1::Throttle) -> Self {
        let resource = throttle::meant(throttle).resource as i32;
        Self { resource, target: throttle::target(throttle.process.as_ref()) }
    }

    pub fn of_hold(hold: &state::Hold) -> Self {
        key(hold.resource, hold.process.as_ref())
    }

    pub fn of_lease(lease: &state::Lease) -> Self {
        key(lease.resource, lease.process.as_ref())
    }

    pub fn of_gone(gone: &state::LimitGone) -> Self {
        key(gone.resource, gone.process.as_ref())
    }

    /// `Unspecified`: a newer version's.
    pub fn resource(self) -> Resource {
        Resource::try_from(self.resource).unwrap_or_default()
    }

    pub fn word(self) -> &'static str {
        throttle::word(self.resource())
    }
}

/// Of a lease, in the unit of its resource.
pub fn amount_of(lease: &state::Lease) -> f64 {
    if lease.resource == 0 { lease.cpu_cores } else { lease.amount }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_older_files_have_is_the_cpu_of_the_whole_agent() {
        let whole = SlotKey { resource: Resource::Cpu as i32, target: None };
        assert_eq!(SlotKey::of_hold(&state::Hold::default()), whole);
        assert_eq!(SlotKey::of_lease(&state::Lease::default()), whole);
        assert_eq!(SlotKey::of_gone(&state::LimitGone::default()), whole);
        assert_eq!(amount_of(&state::Lease { cpu_cores: 0.5, ..Default::default() }), 0.5);
        assert_eq!(amount_of(&state::Lease { resource: 2, amount: 1e9, ..Default::default() }), 1e9);
    }

    #[test]
    fn a_rung_is_no_part_of_a_slot_and_a_process_is() {
        let of = |cpu_cores, via: &str, pid| {
            let process = (pid > 0).then(|| v1::ProcessIdentity { pid, start_ticks: 7, name: "x".into() });
            SlotKey::of_throttle(&v1::Throttle { cpu_cores, via: via.into(), process, ..Default::default() })
        };
        assert_eq!(of(0.5, "", 0), of(0.2, "cgroup2", 0));
        assert_ne!(of(0.5, "", 0), of(0.5, "", 12));
        assert_eq!(of(0.5, "", 12).target, Some((12, 7)));
    }
}
