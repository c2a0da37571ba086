//! What can go wrong with a journal, and whether trying again can help.
use std::{error::Error, fmt, path::PathBuf};

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No room, or the device does not take it: may pass.
    Unwritable,
    /// Somebody else holds a lock inside: may pass.
    Busy,
    /// Another owner took the project over: this one must stop.
    Fenced { held: u64, stored: u64 },
    /// The events do not follow what is stored.
    Gap { expected: u64, got: u64 },
    /// What is stored cannot be read.
    Corrupt,
    /// Events or a snapshot that must stay were to go, or do not fit what is stored; the source says which.
    Refused,
    /// Written by a version that this one does not know.
    Version { found: i64, known: i64 },
    /// The project was never acquired.
    NoSuchProject,
    /// There is a file already where a copy was to be.
    Exists,
    /// The store was closed, or its thread is gone.
    Closed,
    /// Anything else that the engine says.
    Engine,
}

/// With the path it is about and what lies behind.
#[derive(Clone, Debug)]
pub struct StoreError {
    pub problem: Problem,
    pub path: PathBuf,
    pub doing: &'static str,
    /// As the engine or the system told it; empty where the problem says it all.
    pub source: String,
}

pub type Result<T> = std::result::Result<T, StoreError>;

impl StoreError {
    /// Whether the same may succeed later, without anybody changing the program or the files.
    pub fn is_retryable(&self) -> bool {
        match self.problem {
            Problem::Unwritable | Problem::Busy => true,
            // After a failed append the batches behind it do not follow any more: a fresh start from the journal does.
            Problem::Gap { .. } => true,
            Problem::Fenced { .. }
            | Problem::Corrupt
            | Problem::Refused
            | Problem::Version { .. }
            | Problem::NoSuchProject
            | Problem::Exists
            | Problem::Closed
            | Problem::Engine => false,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} the journal {}: ", self.doing, self.path.display())?;
        match &self.problem {
            Problem::Unwritable => f.write_str("it cannot be written; free space or repair the disk")?,
            Problem::Busy => f.write_str("it is locked by another process")?,
            Problem::Fenced { held, stored } => {
                write!(f, "another orchestrator took over (epoch {stored}, this one has {held})")?;
            }
            Problem::Gap { expected, got } => write!(f, "event {got} does not follow, {expected} would")?,
            Problem::Corrupt => f.write_str(
                "what it holds cannot be read; `pitwall journal verify` says more, `pitwall journal restore` brings a backup back",
            )?,
            Problem::Refused => f.write_str("that would lose history")?,
            Problem::Version { found, known } => {
                write!(f, "it has schema version {found}, this program knows {known}; use the program that wrote it")?;
            }
            Problem::NoSuchProject => f.write_str("it does not hold that project")?,
            Problem::Exists => f.write_str("there is a file already; give another name, or move it away")?,
            Problem::Closed => f.write_str("it was closed")?,
            Problem::Engine => f.write_str("the engine refused")?,
        }
        if self.source.is_empty() { Ok(()) } else { write!(f, " ({})", self.source) }
    }
}

impl Error for StoreError {}
