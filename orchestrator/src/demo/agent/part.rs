//! What one agent of the cast knows: its workspace, its inbox, and its own work. Nothing of Pitwall.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub workspace: PathBuf,
    pub inbox: PathBuf,
    /// A FIFO whose other end the demo holds: its end is the agent's end, whoever was killed in between.
    /// Absent in a container, which ends by its engine.
    pub lifeline: Option<PathBuf>,
    pub work: Work,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    Backend(Backend),
    Frontend(Frontend),
    Devops(Devops),
    Search(Search),
    /// Its turn comes later.
    Patient,
    /// Writes these one after the other, and is done.
    Author {
        files: Vec<Text>,
        every_ms: u64,
    },
    Runaway(Runaway),
}

/// A file and what is in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Text {
    pub path: String,
    pub text: String,
}

/// Serves its API routes from the files below `source`, and works on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    pub source: String,
    pub port: u16,
    /// On every address, and not on loopback alone.
    pub anywhere: bool,
    /// Written at the start, one after the other.
    pub first: Vec<Text>,
    pub first_every_ms: u64,
    /// (when, progress, text)
    pub claims: Vec<(u64, f64, String)>,
    /// What it goes on writing, without end.
    pub then: Endless,
    pub look_every_ms: u64,
    pub obey_after_ms: u64,
    /// A route that it makes by itself, and when.
    pub own_route: Option<(u64, String)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endless {
    pub directory: String,
    /// Names of its files begin with these.
    pub words: Vec<String>,
    /// After so many files it writes the first again; absent: always new ones.
    pub files: Option<usize>,
    pub every_ms: u64,
}

/// Begins when backend's server answers anything, makes what it can, waits for the API, then makes the rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frontend {
    /// (when, file)
    pub at_once: Vec<(u64, Text)>,
    pub claim: (u64, f64, String),
    /// The API that it needs.
    pub api_host: String,
    pub api_port: u16,
    pub api_path: String,
    pub poll_every_ms: u64,
    /// Written after the API answers; the last one is the page.
    pub page: Vec<Text>,
    pub page_step_ms: u64,
    /// Its development server: the program to start, and that one's part.
    pub server: PathBuf,
    pub server_part: PathBuf,
}

/// Slow, but at it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Devops {
    pub step_ms: u64,
    /// Begun at once.
    pub begun: Vec<Text>,
    /// Where the notes of the steps go, below what it is working on.
    pub notes: Vec<String>,
    pub finish: Vec<(u64, Text)>,
    /// When the database answers, and where.
    pub serve_at_ms: u64,
    pub port: u16,
    pub anywhere: bool,
}

/// Waits for a service, then builds an index for longer than the night lasts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    pub at_once: Vec<(u64, Text)>,
    pub host: String,
    pub port: u16,
    pub poll_every_ms: u64,
    pub then: Endless,
}

/// A development server that wants more and more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Runaway {
    /// Its own log: one line for each limit that it crossed.
    pub log: PathBuf,
    /// Of its agent.
    pub cpu_limit: f64,
    pub memory_limit_bytes: u64,
    /// When it goes over the first, and how long after that over the second; absent: it behaves.
    pub cpu_ms: Option<u64>,
    pub memory_after_ms: u64,
    /// What it burns then, in cores, and what it allocates in all.
    pub burn: f64,
    pub grow_bytes: u64,
}

const PART_MAX_BYTES: u64 = 256 * 1024;

impl Part {
    pub fn save(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_vec_pretty(self).map_err(io::Error::other)?)
    }

    pub fn load(path: &Path) -> io::Result<Self> {
        if fs::metadata(path)?.len() > PART_MAX_BYTES {
            return Err(io::Error::other(format!("{} is no part: too large", path.display())));
        }
        serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_reads_back_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("part.json");
        let part = Part {
            workspace: "/w".into(),
            inbox: "/i".into(),
            lifeline: Some("/l".into()),
            work: Work::Search(Search {
                at_once: vec![(10, Text { path: "a".into(), text: "b".into() })],
                host: "127.0.0.1".into(),
                port: 1,
                poll_every_ms: 5,
                then: Endless { directory: "d".into(), words: vec!["w".into()], files: None, every_ms: 9 },
            }),
        };
        part.save(&path).expect("written");
        assert_eq!(Part::load(&path).expect("read"), part);
        fs::write(&path, "{\"work\": 1}").expect("written");
        assert!(Part::load(&path).is_err());
    }
}
