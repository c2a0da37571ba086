//! Command lines of the agent's processes, for named processes that are told apart by them. Each is read when its process
//! is new or has another name (after an exec), never once a sample; one that cannot be read is left out.
use std::{collections::HashMap, fs::File, io::Read as _};

use pitwall_proto::v1;
use pitwall_sidecar_core::io::Sample;

const LINE_BYTES: u64 = 4_096;
/// A command that has just been started is named before its arguments stand there.
const LOOKS: u8 = 3;

#[derive(Debug, Default)]
pub(super) struct Lines {
    known: HashMap<(i32, u64), Known>,
}

#[derive(Debug)]
struct Known {
    identity: v1::ProcessIdentity,
    line: String,
    looks: u8,
}

impl Lines {
    /// All of them, when one of them is new.
    pub(super) fn look(&mut self, wanted: bool, sample: &Sample) -> Option<Vec<(v1::ProcessIdentity, String)>> {
        if !wanted {
            self.known.clear();
            return None;
        }
        let mut before = std::mem::take(&mut self.known);
        let mut changed = false;
        for identity in sample.processes.iter().filter_map(|p| p.identity.as_ref()) {
            let id = (identity.pid, identity.start_ticks);
            let kept = before.remove(&id).filter(|known| known.identity.name == identity.name);
            let known = match kept {
                Some(known) if known.looks >= LOOKS => known,
                kept => {
                    let line = read(identity.pid);
                    changed |= kept.as_ref().is_none_or(|known| known.line != line);
                    let looks = kept.map_or(1, |known| known.looks + 1);
                    Known { identity: identity.clone(), line, looks }
                }
            };
            self.known.insert(id, known);
        }
        changed.then(|| {
            let all = self.known.values().filter(|known| !known.line.is_empty());
            all.map(|known| (known.identity.clone(), known.line.clone())).collect()
        })
    }
}

/// With blanks between its words; empty where it cannot be read.
fn read(pid: i32) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(format!("/proc/{pid}/cmdline")) {
        let _ = file.take(LINE_BYTES).read_to_end(&mut bytes);
    }
    let words: Vec<_> = bytes.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
    words.join(" ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_while_it_is_new_and_told_when_it_changes() {
        let own = std::process::id() as i32;
        let of = |name: &str| {
            let identity = Some(v1::ProcessIdentity { pid: own, start_ticks: 1, name: name.into() });
            Sample { processes: vec![v1::ProcessUsage { identity, ..Default::default() }], ..Default::default() }
        };
        let mut lines = Lines::default();
        assert!(lines.look(false, &of("a")).is_none());
        let told = lines.look(true, &of("a")).expect("it is new");
        let expected = std::env::args().next().expect("a program has a name");
        assert!(told.len() == 1 && told[0].1.starts_with(&expected), "{told:?}");
        assert!((0..5).all(|_| lines.look(true, &of("a")).is_none()), "nothing changed");
        assert_eq!(lines.known[&(own, 1)].looks, LOOKS);
        assert!(lines.look(true, &of("b")).is_some(), "another name: another program");
        assert!(lines.look(true, &Sample::default()).is_none() && lines.known.is_empty());
    }
}
