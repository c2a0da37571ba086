//! Launching, limiting and ending real processes. Each test ends what it started, and removes its cgroups.
#![allow(clippy::unwrap_used, reason = "a test says by it what must be there")]

mod alone;
mod bench;
mod ends;
mod files;
mod freezing;
mod gpus;
mod limits;
mod lives;
mod threads;
mod trees;
