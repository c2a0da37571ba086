//! Identity's shell: the authority's keys, the records in the data directory, certificates, the audit log, and what the
//! command line needs of them. The rules are `pitwall_core::identity`; the server's side of connections is `serve`.
//!
//! Below the data directory: `identity/authority.pem` and `.key`, `identity/records.json`, `identity/operator/` (a
//! credential that the command line on this machine finds by itself), `audit/`. Keys are readable by their owner only.
pub mod audit;
pub mod authority;
pub mod certificate;
pub mod context;
pub mod credentials;
pub mod files;
pub mod keeper;
pub mod request;
pub mod setup;

use std::{path::PathBuf, time::Duration};

use pitwall_core::{identity::Denied, io::Millis};

/// What can go wrong on this side: a rule said no, or a file or a key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{}", .0.message)]
    Denied(Denied),
    #[error("cannot {doing} {}: {why}", path.display())]
    File { doing: &'static str, path: PathBuf, why: String },
    #[error("{what} until the orchestrator ends, and not after that, as it cannot be written down: {why}")]
    NotDurable { what: String, why: String },
    #[error("cannot {doing}: {why}")]
    Crypto { doing: &'static str, why: String },
}

impl From<Denied> for IdentityError {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

pub type Result<T> = std::result::Result<T, IdentityError>;

fn crypto(doing: &'static str) -> impl FnOnce(rcgen::Error) -> IdentityError {
    move |error| IdentityError::Crypto { doing, why: error.to_string() }
}

/// How long things count, where nobody said otherwise.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
pub const AGENT_LIFE: Duration = Duration::from_secs(24 * 3600);
pub const OPERATOR_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
pub const OPERATOR_LIFE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
pub const SERVER_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
pub const TOKEN_LIFE: Duration = Duration::from_secs(15 * 60);
pub const TOKEN_LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// A certificate counts from so long before it was made, as clocks differ.
pub const BACKDATED: Duration = Duration::from_secs(300);

pub(crate) fn ms(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX / 4)
}

/// Unix milliseconds: what certificates and records are compared with.
pub fn now() -> Millis {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, ms)
}
