//! The core as a whole, against a world of its own: a state file, an agent with its cgroup and inbox, an orchestrator.
mod clones;
mod damage;
mod floods;
mod leases;
mod link;
mod orchestrator;
mod own;
mod resume;
mod scripts;
mod simulation;
mod slots;
mod world;
