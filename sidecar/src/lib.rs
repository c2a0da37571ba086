//! The sidecar's shell: all input and output, no rule. `run` owns the core and its loop; everything else either hands
//! inputs to it (`stream`, `watch`, `sample`, `probe`) or carries out what the core decided (`act`, `inbox`, `state_file`).
pub mod act;
pub mod args;
pub mod claim;
pub mod clock;
pub mod doctor;
pub mod identity;
pub mod inbox;
pub mod log;
pub mod pause;
pub mod probe;
pub mod resident;
pub mod run;
pub mod sample;
pub mod state_file;
pub mod stream;
pub mod watch;
