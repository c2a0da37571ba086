//! The agent in a pid namespace that a pause process owns: the processes that are neither in the sidecar's cgroup nor in
//! the pause's. Pids and cgroups change whenever the agent's container is made anew; nobody configures them.
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::cgroup::{Hierarchies, Places};
use super::members::{Look, is_known, keep_known};
use super::procfs::{ProcFs, Stat};
use crate::act::child::leaf_of;
use crate::act::held::Held;
use crate::act::places::guard;

/// 10 s at the usual 100 ticks a second.
const STARTING_TICKS: u64 = 1_000;

/// Whose processes are whose, as this process of the sidecar found it; it holds for its life, as the pause's end is its
/// own.
#[derive(Clone, Debug)]
pub struct Beside {
    own: String,
    pause: String,
    pub hierarchies: Hierarchies,
    pub held: Held,
}

impl Beside {
    /// Refused where pid 1 is no pause of another container: everything of a host would be taken for the agent.
    pub fn find(proc: &mut ProcFs, hierarchies: Hierarchies, held: Held) -> Result<Self, String> {
        const HELP: &str = "give both containers `pid: \"service:AGENT-pid\"`, whose command is `pitwall-sidecar pause`; \
                            or name the agent by --pid, --cgroup or `-- COMMAND`";
        let command = proc.command_line(1).unwrap_or_default();
        if !is_pause(&command) {
            let shown: String = command.join(" ").chars().take(80).collect();
            return Err(format!("the first process of this pid namespace is no pause but {shown:?}: {HELP}"));
        }
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        let (own, pause) = (proc.cgroup_of(me), proc.cgroup_of(1));
        let (Some(own), Some(pause)) = (own, pause) else {
            return Err("/proc does not tell the cgroups of processes".into());
        };
        if own == pause {
            return Err(format!("the pause is in the sidecar's own container: {HELP}"));
        }
        Ok(Self { own, pause, hierarchies, held })
    }

    #[cfg(test)]
    pub fn with(own: &str, pause: &str, inbox: &Path) -> Self {
        Self { own: own.into(), pause: pause.into(), hierarchies: Hierarchies::default(), held: Held::new(inbox) }
    }

    /// Processes of the agent, and how many wait to become it. `known` were the agent's in the last look: nobody begins to
    /// hold, so their program is not asked for again.
    pub fn look(&self, proc: &mut impl Look, pids: &[i32], known: &mut Vec<(i32, u64)>, into: &mut Vec<Stat>) -> usize {
        let program = self.held.identity();
        let now = crate::clock::boot_ticks();
        let (mut holding, mut starting) = (Vec::new(), Vec::new());
        for pid in pids.iter().copied().filter(|pid| *pid > 1) {
            // Read in this order, a pid that is given to another meanwhile is at worst seen one look later.
            let Some(stat) = proc.stat(pid).filter(Stat::alive) else { continue };
            if proc.is_in(pid, [&self.own, &self.pause]) != Some(false) {
                continue;
            }
            if is_being_started(&stat, now) {
                starting.push(stat);
            } else if !is_known(known, &stat) && is_holding(proc.proc(), &stat, program) {
                holding.push(stat);
            } else {
                into.push(stat);
            }
        }
        keep_known(into, known);
        if into.is_empty() {
            return holding.len();
        }
        // Beside others of the agent neither is what it looks like: nobody hides behind a name or a program.
        into.append(&mut holding);
        into.append(&mut starting);
        0
    }

    /// The agent's leaf in what is bound here, from one process of it; never one that holds the sidecar.
    pub fn places_of(&self, pid: i32) -> Result<Places, String> {
        let mut places = self.hierarchies.of_process(pid);
        // On a hybrid host all of them are in the top cgroup of the unified hierarchy.
        for place in places.each_mut() {
            *place = place.take().map(leaf_of);
            place.take_if(|directory| guard(&self.hierarchies, directory).is_err());
        }
        if !places.is_empty() {
            return Ok(places);
        }
        let path = self.hierarchies.path_of(pid).unwrap_or_else(|| "?".into());
        Err(format!("the agent's cgroup {path} is not bound into the sidecar's container"))
    }
}

/// `pitwall-sidecar pause`, or the pause program of a pod.
fn is_pause(command: &[String]) -> bool {
    let base = |word: &String| Path::new(word).file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    match command {
        [first, ..] if base(first) == "pause" => true,
        [first, second, ..] => base(first) == "pitwall-sidecar" && second == crate::pause::NAME,
        _ => false,
    }
}

/// The container runtime, on its way to become the agent's program. Whoever took that name for more than a moment is seen.
fn is_being_started(stat: &Stat, now_ticks: u64) -> bool {
    stat.name.text().starts_with("runc:[") && now_ticks.saturating_sub(stat.start_ticks) < STARTING_TICKS
}

/// The name alone is the agent's to choose; it counts only where the kernel does not show the program.
fn is_holding(proc: &ProcFs, stat: &Stat, program: Option<(u64, u64)>) -> bool {
    let Some(program) = program else { return false };
    match std::fs::metadata(proc.path_of(stat.pid, "exe")) {
        Ok(file) => (file.dev(), file.ino()) == program,
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => stat.name.text() == crate::act::held::PROGRAM,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::sample::table::Table;

    fn process(root: &Path, pid: i32, cgroup: &str, start: u64) {
        let directory = root.join(pid.to_string());
        fs::create_dir_all(&directory).unwrap();
        let stat = format!("{pid} (p{pid}) S 0 {pid} {pid} 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 {start} 0 10 0");
        fs::write(directory.join("stat"), stat).unwrap();
        fs::write(directory.join("cgroup"), cgroup).unwrap();
    }

    fn look(beside: &Beside, root: &Path) -> (Vec<i32>, usize) {
        let anew = look_through(beside, &mut ProcFs::at(root), &mut Vec::new());
        let mut table = Table::new(ProcFs::at(root));
        table.begin();
        assert_eq!(look_through(beside, &mut table, &mut Vec::new()), anew);
        anew
    }

    fn look_through(beside: &Beside, proc: &mut impl Look, known: &mut Vec<(i32, u64)>) -> (Vec<i32>, usize) {
        let (mut pids, mut found) = (Vec::new(), Vec::new());
        proc.pids(&mut pids);
        let holding = beside.look(proc, &pids, known, &mut found);
        let mut pids: Vec<i32> = found.iter().map(|s| s.pid).collect();
        pids.sort_unstable();
        (pids, holding)
    }

    #[test]
    fn what_is_remembered_from_look_to_look_hides_nobody() {
        let (proc, inbox) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let beside = Beside::with("own", "pause", inbox.path());
        let program = inbox.path().join("hold");
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut table = Table::new(ProcFs::at(proc.path()));
        let mut known = Vec::new();
        let mut look = || {
            table.begin();
            let found = look_through(&beside, &mut table, &mut known);
            table.end();
            found
        };
        process(proc.path(), 7, "own", 2);
        process(proc.path(), 12, "agent", 5);
        symlink(&program, proc.path().join("12/exe")).unwrap();
        assert_eq!(look(), (vec![], 1), "it holds");
        // Somebody looks around in the container meanwhile, and leaves: it holds still.
        process(proc.path(), 13, "agent", 6);
        assert_eq!(look(), (vec![12, 13], 0));
        fs::remove_dir_all(proc.path().join("13")).unwrap();
        assert_eq!(look(), (vec![], 1));
        // It goes on as another program.
        fs::remove_file(proc.path().join("12/exe")).unwrap();
        symlink("/nowhere", proc.path().join("12/exe")).unwrap();
        assert_eq!(look(), (vec![12], 0));
        // The container is made anew, and its pid is one that the sidecar's had.
        fs::remove_dir_all(proc.path().join("12")).unwrap();
        assert_eq!(look(), (vec![], 0));
        process(proc.path(), 7, "agent", 9);
        assert_eq!(look(), (vec![7], 0));
        process(proc.path(), 7, "own", 11);
        assert_eq!(look(), (vec![], 0));
    }

    #[test]
    fn the_agent_is_whatever_is_neither_the_sidecars_nor_the_pauses() {
        let (proc, inbox) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [pause, own] = ["4:cpu:/pitwall/p\n0::/\n", "4:cpu:/pitwall/s\n0::/\n"];
        process(proc.path(), 1, pause, 1);
        process(proc.path(), 7, own, 2);
        process(proc.path(), 8, own, 3);
        process(proc.path(), 12, "4:cpu:/pitwall/backend/a\n0::/\n", 5);
        // What `docker exec` starts in the agent's container, and what the agent moved to a cgroup below.
        process(proc.path(), 13, "4:cpu:/pitwall/backend/a\n0::/\n", 6);
        process(proc.path(), 14, "4:cpu:/pitwall/backend/a/sub\n0::/\n", 7);
        let beside = Beside::with(own, pause, inbox.path());
        assert_eq!(look(&beside, proc.path()), (vec![12, 13, 14], 0));
        // The container is made anew.
        for pid in [12, 13, 14] {
            fs::remove_dir_all(proc.path().join(pid.to_string())).unwrap();
        }
        assert_eq!(look(&beside, proc.path()), (vec![], 0));
        process(proc.path(), 31, "4:cpu:/pitwall/backend/b\n0::/\n", 9);
        assert_eq!(look(&beside, proc.path()), (vec![31], 0));
    }

    #[test]
    fn the_runtime_on_its_way_is_not_the_agent_yet_and_nobody_hides_behind_its_name() {
        let text = "12 (runc:[2:INIT]) S 0 12 12 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 5000 0 10 0";
        let proc = tempfile::tempdir().unwrap();
        process(proc.path(), 12, "agent", 5);
        fs::write(proc.path().join("12/stat"), text).unwrap();
        let stat = ProcFs::at(proc.path()).stat(12).unwrap();
        assert!(is_being_started(&stat, 5_003) && !is_being_started(&stat, 6_000));
        process(proc.path(), 13, "agent", 5_000);
        assert!(!is_being_started(&ProcFs::at(proc.path()).stat(13).unwrap(), 5_003));
    }

    #[test]
    fn what_still_holds_was_not_seen_and_a_name_alone_hides_nobody() {
        let (proc, inbox) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let beside = Beside::with("own", "pause", inbox.path());
        process(proc.path(), 12, "agent", 5);
        let program = inbox.path().join("hold");
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        symlink(&program, proc.path().join("12/exe")).unwrap();
        assert_eq!(look(&beside, proc.path()), (vec![], 1));
        let other = inbox.path().join("other");
        fs::write(&other, "").unwrap();
        // Beside another of the agent it is one of the agent.
        process(proc.path(), 13, "agent", 6);
        assert_eq!(look(&beside, proc.path()), (vec![12, 13], 0));
        fs::remove_dir_all(proc.path().join("13")).unwrap();
        fs::remove_file(proc.path().join("12/exe")).unwrap();
        symlink(&other, proc.path().join("12/exe")).unwrap();
        assert_eq!(look(&beside, proc.path()), (vec![12], 0));
    }

    #[test]
    fn only_beside_a_pause_of_another_container_is_the_rest_of_the_namespace_the_agent() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (line, fits) in [
            ("/usr/local/bin/pitwall-sidecar pause", true),
            ("pitwall-sidecar pause", true),
            ("/pause", true),
            ("/sbin/init", false),
            ("pitwall-sidecar", false),
            ("node pause", false),
            ("sh -c pause", false),
        ] {
            assert_eq!(is_pause(&words(line)), fits, "{line}");
        }
        // This machine's first process is none.
        let held = Held::new(Path::new("/nowhere"));
        let why = Beside::find(&mut ProcFs::default(), Hierarchies::detect(), held).unwrap_err();
        assert!(why.contains("no pause") && why.contains("--cgroup"), "{why}");
    }
}
