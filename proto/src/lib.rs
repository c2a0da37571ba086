//! `pitwall.v1` as Rust types. Without features: messages only, which is all that the pure cores may see.
//! `services` adds the tonic clients and servers, `json` the canonical protobuf JSON mapping.
//! What is written to disk ([`journal`] by the orchestrator, [`state`] by a sidecar) is versioned apart from the
//! wire ([`v1`]).

pub mod join;
pub mod throttle;

/// The wire.
#[allow(clippy::all, clippy::unwrap_used)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/pitwall.v1.rs"));
    #[cfg(feature = "json")]
    include!(concat!(env!("OUT_DIR"), "/pitwall.v1.serde.rs"));
}

/// The orchestrator's journal on disk.
#[allow(clippy::all)]
pub mod journal {
    include!(concat!(env!("OUT_DIR"), "/pitwall.journal.v1.rs"));
}

/// A sidecar's state file.
#[allow(clippy::all)]
pub mod state {
    include!(concat!(env!("OUT_DIR"), "/pitwall.state.v1.rs"));
}

/// Deliberate bugs, one at a time, to show that the simulation can fail. Compiled under `--cfg pitwall_mutants` only,
/// see `tests/sim/mutants.sh`; else [`mutant!`] is `false`, and no name of one is in any binary.
#[cfg(pitwall_mutants)]
pub mod mutant {
    use std::sync::OnceLock;

    static ON: OnceLock<String> = OnceLock::new();

    pub fn switch_on(name: &str) {
        let _ = ON.set(name.to_owned());
    }

    pub fn is_on(name: &str) -> bool {
        ON.get().is_some_and(|on| on == name)
    }
}

/// Whether this deliberate bug is switched on.
#[cfg(pitwall_mutants)]
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {
        $crate::mutant::is_on($name)
    };
}

/// Whether this deliberate bug is switched on: never, in what is shipped.
#[cfg(not(pitwall_mutants))]
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {
        false
    };
}

/// The `FileDescriptorSet` of everything above, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pitwall.bin"));
