//! `pitwall.v1` as Rust types. Without features: messages only, which is all that the pure cores may see.
//! `services` adds the tonic clients and servers, `json` the canonical protobuf JSON mapping.
//! The journal's messages ([`journal`]) are versioned apart from the wire's ([`v1`]).

/// The wire.
#[allow(clippy::all, clippy::unwrap_used)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/pitwall.v1.rs"));
    #[cfg(feature = "json")]
    include!(concat!(env!("OUT_DIR"), "/pitwall.v1.serde.rs"));
}

/// What is written to disk.
#[allow(clippy::all)]
pub mod journal {
    include!(concat!(env!("OUT_DIR"), "/pitwall.journal.v1.rs"));
}

/// The `FileDescriptorSet` of everything above, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pitwall.bin"));
