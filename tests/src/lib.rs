//! What the end-to-end tests share: the real binaries as guarded processes, waiting for states, and skips that are seen.
pub mod audit;
pub mod binaries;
pub mod cgroup;
pub mod client;
pub mod fake;
pub mod faked;
pub mod honest;
pub mod identities;
pub mod linked;
pub mod memory;
pub mod netns;
pub mod plans;
pub mod proxy;
pub mod raw;
pub mod steps;
pub mod surroundings;
pub mod wait;
