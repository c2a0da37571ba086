//! The rules, tried from outside: a project is given inputs as its shell would, sidecars and operators are played.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]
#![allow(clippy::type_complexity, reason = "tables of steps read best where they stand")]
mod blockers;
mod causes;
mod clones;
mod compacted;
mod deliverables;
mod effects;
mod findings;
mod hosts;
mod ledger;
mod liveness;
mod oracle;
mod outbox;
mod policy;
mod pulse;
mod replay;
mod restored;
mod resume;
mod scenarios;
mod sessions;
mod statuses;
mod support;
mod throttles;
