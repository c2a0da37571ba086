//! How a compose file stands beside agents: the services that are printed for one, and the mistakes in those that are
//! written. Pure: text in, text or mistakes out.
mod check;
mod file;
mod host;
mod path;
mod print;

#[cfg(test)]
mod tests;

pub use check::check;
pub use print::{Cgroup, Wanted, print};

/// A longer file is refused before it is read.
pub const TEXT_MAX: usize = 1024 * 1024;
/// Where the sidecar's image expects its volumes.
const WORKSPACE: &str = "/workspace";
const INBOX: &str = "/inbox";
const STATE: &str = "/state";
