//! Pitwall's orchestrator and the operator's command line: the shell around `pitwall_core`, which holds the rules.
pub mod cli;
pub mod demo;
pub mod discovery;
pub mod identity;
pub mod serve;
pub mod store;
