//! Pitwall's rules: plan, evidence, statuses, blockers, ledger, findings, interventions.
//! Pure: time is a parameter, effects are returned. See `io` for the contract with the shell.
//!
//! `compose` knows how a compose file stands beside agents; `project` takes inputs and decides events; `state` is what events add up to; `derive` is what
//! follows from a state at a moment; `view` and `tell` put it into the wire's words.
pub mod clock;
pub mod compose;
pub mod derive;
mod explain;
pub mod identity;
pub mod io;
pub mod plan;
pub mod project;
pub mod retention;
pub mod state;
pub mod tell;
pub mod text;
pub mod view;
