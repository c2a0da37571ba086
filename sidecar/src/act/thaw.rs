//! The guardian of a freeze: a process of its own that thaws what the sidecar froze as soon as that one is gone, for
//! whatever reason. It holds the reading end of a pipe whose other end only the sidecar has. In a container it would end
//! with the sidecar: there the freeze is undone at its restart.
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use pitwall_sidecar_core::io::Hold;

use super::files::{Files, What};
use super::guardian::READY;
use super::value::Version;
use super::{Actor, AgentTarget, duty};

pub const NAME: &str = "thaw";
const FROZEN: &str = "1";
const THAWED: &str = "0";

/// Guardians at work, by the place that they thaw.
pub type Guardians = tokio::sync::Mutex<HashMap<String, (Child, Option<ChildStdin>)>>;

#[derive(Debug, PartialEq)]
struct Task {
    files: Files,
    directory: PathBuf,
    inode: u64,
}

impl Task {
    fn args(&self) -> Vec<OsString> {
        vec![
            NAME.into(),
            self.files.rung().into(),
            self.inode.to_string().into(),
            self.directory.as_os_str().to_owned(),
        ]
    }

    fn parse(args: &[OsString]) -> Option<Self> {
        let [rung, inode, directory] = args else { return None };
        let version = Version::of_rung(rung.to_str()?)?;
        let files = Files { what: What::Freeze, version };
        Some(Self { files, directory: directory.into(), inode: inode.to_str()?.parse().ok()? })
    }

    fn thaw(&self) {
        let is_it = std::fs::metadata(&self.directory).is_ok_and(|m| m.ino() == self.inode);
        if is_it && self.files.read(&self.directory, "").is_ok_and(|now| now == FROZEN) {
            let _ = self.files.write(&self.directory, THAWED);
        }
    }
}

/// 0: thawed, or nothing to thaw; 2: wrong arguments.
pub fn run(args: &[OsString]) -> u8 {
    let Some(task) = Task::parse(args) else { return 2 };
    // A signal to the terminal's foreground group must not end the guardian while the agent is frozen.
    let _ = rustix::process::setsid();
    let _ = std::io::stdout().write_all(&[READY]).and_then(|()| std::io::stdout().flush());
    // The sidecar writes nothing: whatever comes is the end.
    let _ = std::io::stdin().read(&mut [0]);
    task.thaw();
    0
}

impl Actor {
    /// Before it is frozen; does nothing where one is at work. What somebody else had frozen before stays so.
    pub(super) async fn guard_freeze(&self, hold: &Hold, files: Files) -> Result<(), String> {
        if files.what != What::Freeze || hold.old != THAWED || self.config.target == AgentTarget::Beside {
            return Ok(());
        }
        let mut guardians = self.thaws.lock().await;
        let lives = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_none());
        if guardians.get_mut(&hold.place).is_some_and(|(child, _)| lives(child)) {
            return Ok(());
        }
        let directory = PathBuf::from(&hold.place);
        let inode = std::fs::metadata(&directory).map_err(|e| format!("{}: {e}", hold.place))?.ino();
        let mut command = Command::new(&self.config.self_exe);
        command.args(Task { files, directory, inode }.args());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("the guardian cannot be started: {e}"))?;
        let (pipe, ready) = (child.stdin.take(), child.stdout.take());
        if !duty::is_ready(ready).await {
            duty::end_guardian(child, pipe).await;
            return Err("the guardian of the freeze did not begin its work".into());
        }
        guardians.insert(hold.place.clone(), (child, pipe));
        Ok(())
    }

    /// After it is thawed.
    pub(super) async fn unguard_freeze(&self, place: &str) {
        if let Some((child, pipe)) = self.thaws.lock().await.remove(place) {
            duty::end_guardian(child, pipe).await;
        }
    }

    /// A frozen process sees no TERM, and of version 1 no KILL either: what this sidecar froze is thawed first.
    pub(super) fn thaw_for_an_end(&self) {
        let held = super::agent::lock(&self.held).clone();
        for hold in held.iter().filter(|h| h.old == THAWED && h.new == FROZEN) {
            let files = Files::of(hold.slot.resource, &hold.rung).filter(|f| f.what == What::Freeze);
            if files.is_some_and(|files| files.write(Path::new(&hold.place), THAWED).is_ok()) {
                let mut lifted = super::agent::lock(&self.lifted);
                lifted.retain(|l| l != hold);
                lifted.push(hold.clone());
            }
        }
    }

    /// Thawed by this sidecar itself since it was frozen, and by nobody else: asked once.
    pub(super) fn was_lifted(&self, hold: &Hold) -> bool {
        let mut lifted = super::agent::lock(&self.lifted);
        let before = lifted.len();
        lifted.retain(|l| l != hold);
        lifted.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_frozen_at_that_very_place_is_thawed() {
        let here = tempfile::tempdir().unwrap();
        let file = here.path().join("cgroup.freeze");
        let inode = std::fs::metadata(here.path()).unwrap().ino();
        let files = Files { what: What::Freeze, version: Version::V2 };
        for (text, inode, then) in [("1", inode, "0"), ("1", inode + 1, "1"), ("other", inode, "other")] {
            std::fs::write(&file, text).unwrap();
            let task = Task { files, directory: here.path().to_owned(), inode };
            assert_eq!(Task::parse(&task.args()[1..]).as_ref(), Some(&task));
            task.thaw();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), then, "{text} {inode}");
        }
        assert_eq!(run(&["cgroup9".into(), "1".into(), "/".into()]), 2);
    }
}
