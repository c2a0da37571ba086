//! Deterministic simulation: the real cores of both sides over a network, disks and clocks that are played, from one seed.
//! See `world` for what is played, `model` for what is checked after every step, `matrix` for what goes wrong where.
mod dice;
pub mod flows;
pub mod matrix;
pub mod model;
pub mod run;
mod story;
mod world;

pub use run::{Outcome, run};
