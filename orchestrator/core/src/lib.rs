//! Pitwall's rules: plan, evidence, statuses, blockers, ledger, findings, interventions.
//! Pure: time is a parameter, effects are returned. See `io` for the contract with the shell.
pub mod io;
pub mod plan;
