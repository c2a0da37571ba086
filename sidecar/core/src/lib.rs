//! The sidecar's rules: session, spool, verdicts, activity, presence, quotas, commands, leases.
//! Pure: time and randomness are parameters, effects are returned. See [`io`] for the contract with the shell.
//!
//! What outlives a process lies in [`kept`], changes by records only, and is durable when the [`store`] says so. Small
//! machines watch the agent ([`checks`], [`activity`], [`presence`], [`motion`], [`quota`], [`named`], [`oom`], [`health`],
//! [`pressure`]) and answer with facts; others say when the sidecar does something by itself ([`remedy`], [`restarts`]);
//! what is measured is shown by [`readings`], at a pace that the [`budget`] holds; the [`core`](Core) puts these into the
//! [`spool`], keeps the stream to the orchestrator, and carries commands
//! through their states.
pub mod activity;
pub mod budget;
pub mod checks;
pub mod clock;
mod core;
pub mod directive;
pub mod frame;
pub mod health;
pub mod io;
pub mod kept;
pub mod motion;
pub mod named;
pub mod note;
pub mod oom;
pub mod presence;
pub mod pressure;
pub mod quota;
pub mod readings;
pub mod remedy;
pub mod renewal;
pub mod restarts;
pub mod slot;
pub mod spool;
pub mod store;
pub mod window;

pub use crate::core::Core;
