//! Until when each lease may hold, on the clock of the host that it was taken on. Once it was not renewed in time, it is
//! over, whatever comes later.
use std::collections::BTreeMap;

use pitwall_proto::state::{self, record::Body};

#[derive(Clone, Debug)]
struct Lease {
    resource: i32,
    until: u64,
    ttl: u64,
    renewed: u64,
    over: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Leases {
    held: BTreeMap<String, Lease>,
    /// Since when nothing may hold the agent below any of a resource, while its sidecar ran.
    idle_since: BTreeMap<i32, u64>,
}

/// From the end of the last lease until the old value must be back, where the sidecar runs: the longest effect, twice.
const UNDONE_WITHIN_MS: u64 = 2_500;
const TTL_DEFAULT_MS: u64 = 60_000;

impl Leases {
    /// A batch is handed to the disk: leases that are new in it begin now at the latest.
    pub fn issued(&mut self, bodies: &[Body], now: u64) {
        for body in bodies {
            let Body::Lease(state::Lease { command, for_ms, ttl_ms, resource, .. }) = body else { continue };
            self.begins(command, super::resource_of(*resource), (*for_ms, *ttl_ms), now);
        }
    }

    /// Handed to the sidecar, which begins it at once or never.
    pub fn begins(&mut self, command: &str, resource: i32, (for_ms, ttl_ms): (u32, u32), now: u64) {
        let ttl = if ttl_ms == 0 { TTL_DEFAULT_MS } else { u64::from(ttl_ms) };
        let fresh = Lease { resource, until: now + u64::from(for_ms), ttl, renewed: now, over: false };
        self.held.entry(command.into()).or_insert(fresh);
    }

    pub fn renewed(&mut self, commands: &[String], now: u64) {
        self.pass(now);
        for id in commands {
            if let Some(lease) = self.held.get_mut(id).filter(|l| !l.over) {
                lease.renewed = now;
            }
        }
    }

    /// An unthrottle, a cancel, a newer lease.
    pub fn forget_all(&mut self) {
        self.held.clear();
        self.idle_since.clear();
    }

    /// The state file is another one: what it does not hold begins anew if it comes again.
    pub fn retain(&mut self, file: &[u8]) {
        let bodies = super::records(file);
        let there = |id: &String| bodies.iter().any(|b| matches!(b, Body::Lease(l) if l.command == *id));
        self.held.retain(|id, _| there(id));
        self.idle_since.clear();
    }

    pub fn not_running(&mut self) {
        self.idle_since.clear();
    }

    fn pass(&mut self, now: u64) {
        for lease in self.held.values_mut() {
            lease.over |= now >= lease.until.min(lease.renewed + lease.ttl);
        }
    }

    /// Whether the agent is held past the end of every lease, for too long to be on its way.
    pub fn overheld(&mut self, now: u64, resource: i32, held: bool) -> bool {
        self.pass(now);
        if !held || self.held.values().any(|l| l.resource == resource && !l.over) {
            self.idle_since.remove(&resource);
            return false;
        }
        let since = *self.idle_since.entry(resource).or_insert(now);
        now > since + UNDONE_WITHIN_MS
    }
}
