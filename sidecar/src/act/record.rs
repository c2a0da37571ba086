//! `agent.json` in the state directory: which process this sidecar started, for its next life.
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use pitwall_proto::v1;
use serde::{Deserialize, Serialize};

use crate::sample::cgroup::Places;

const FILE: &str = "agent.json";
const SIZE_MAX: u64 = 64 * 1024;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub boot_id: String,
    pub pid: i32,
    pub start_ticks: u64,
    pub name: String,
    /// The cgroups it was started in.
    pub v2: Option<PathBuf>,
    pub cpu: Option<PathBuf>,
    pub cpuacct: Option<PathBuf>,
    pub memory: Option<PathBuf>,
    // Absent in the files of older versions.
    #[serde(default)]
    pub pids: Option<PathBuf>,
    #[serde(default)]
    pub blkio: Option<PathBuf>,
    #[serde(default)]
    pub freezer: Option<PathBuf>,
}

impl Record {
    pub fn new(boot_id: String, root: &v1::ProcessIdentity, places: &Places) -> Self {
        let Places { v2, cpu, cpuacct, memory, pids, blkio, freezer } = places.clone();
        Self {
            boot_id,
            pid: root.pid,
            start_ticks: root.start_ticks,
            name: root.name.clone(),
            v2,
            cpu,
            cpuacct,
            memory,
            pids,
            blkio,
            freezer,
        }
    }

    pub fn root(&self) -> v1::ProcessIdentity {
        v1::ProcessIdentity { pid: self.pid, start_ticks: self.start_ticks, name: self.name.clone() }
    }

    pub fn places(&self) -> Places {
        Places {
            v2: self.v2.clone(),
            cpu: self.cpu.clone(),
            cpuacct: self.cpuacct.clone(),
            memory: self.memory.clone(),
            pids: self.pids.clone(),
            blkio: self.blkio.clone(),
            freezer: self.freezer.clone(),
        }
    }

    /// `None`: no agent was started. A file that cannot be understood is an error: an agent may be alive.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, String> {
        let path = state_dir.join(FILE);
        let text = match File::open(&path) {
            Ok(file) => {
                let mut text = String::new();
                file.take(SIZE_MAX).read_to_string(&mut text).map(|_| text)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => Err(e),
        };
        let text = text.map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
        serde_json::from_str(&text).map(Some).map_err(|e| {
            format!("{} is damaged ({e}): end the agent that it may name, then remove the file", path.display())
        })
    }

    /// Durable when it returns.
    pub fn save(&self, state_dir: &Path) -> io::Result<()> {
        let beside = state_dir.join("agent.json.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&beside)?;
        file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, state_dir.join(FILE))?;
        File::open(state_dir)?.sync_all()
    }

    pub fn remove(state_dir: &Path) -> io::Result<()> {
        match std::fs::remove_file(state_dir.join(FILE)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_and_a_damaged_one_is_an_error() {
        let here = tempfile::tempdir().unwrap();
        assert_eq!(Record::load(here.path()), Ok(None));
        let root = v1::ProcessIdentity { pid: 7, start_ticks: 8, name: "n".into() };
        let places = Places { cpu: Some("/c".into()), ..Places::default() };
        let record = Record::new("boot".into(), &root, &places);
        record.save(here.path()).unwrap();
        let back = Record::load(here.path()).unwrap().unwrap();
        assert_eq!((back.root(), back.places()), (root, places));
        std::fs::write(here.path().join(FILE), "{\"pid\": ").unwrap();
        assert!(Record::load(here.path()).unwrap_err().contains("is damaged"));
        Record::remove(here.path()).unwrap();
        Record::remove(here.path()).unwrap();
        assert_eq!(Record::load(here.path()), Ok(None));
    }
}
