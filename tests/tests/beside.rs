//! Beside an agent in another container, without an engine: namespaces and cgroups are laid by hand as an engine lays them,
//! on a host of either version of cgroups. Each thing made is undone by its guard.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use pitwall_tests::{binaries, surroundings, wait};

const SOON: Duration = Duration::from_secs(2);

/// A pid and mount namespace owned by a pause, an agent in a cgroup of its own, and a cgroup for the sidecar.
struct Neighbours {
    pause: Child,
    agent: Option<Child>,
    home: tempfile::TempDir,
    hierarchy: PathBuf,
    name: String,
    unified: bool,
}

impl Neighbours {
    /// `Err`: why they cannot be laid here.
    fn new() -> Result<Self, String> {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let hierarchy = PathBuf::from(if unified { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/cpu" });
        let name = format!("pitwall-beside-{}", std::process::id());
        let parent = hierarchy.join(&name);
        fs::create_dir(&parent).map_err(|e| format!("{}: {e}", parent.display()))?;
        let home = tempfile::tempdir().expect("it is there");
        for folder in ["w", "i", "s", "cg"] {
            fs::create_dir(home.path().join(folder)).expect("it is there");
        }
        let mut pause = Command::new("unshare");
        pause
            .args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"])
            .arg(binaries::path("pitwall-sidecar"))
            .arg("pause");
        let pause = pause.stderr(Stdio::null()).spawn().map_err(|e| format!("unshare: {e}"))?;
        let mut all = Self { pause, agent: None, home, hierarchy, name, unified };
        if unified {
            for at in [all.hierarchy.clone(), parent.clone()] {
                fs::write(at.join("cgroup.subtree_control"), "+cpu").map_err(|e| format!("{}: {e}", at.display()))?;
            }
        }
        for folder in ["agent", "agent/leaf", "pause", "sidecar"] {
            fs::create_dir(parent.join(folder)).map_err(|e| e.to_string())?;
        }
        if unified {
            fs::write(parent.join("agent/cgroup.subtree_control"), "+cpu").map_err(|e| e.to_string())?;
        }
        let inner =
            wait::until_sync("the pause runs", SOON, || all.pause.try_wait().ok()?.map(|_| 0).or_else(|| all.inner()));
        if inner == 0 {
            return Err("namespaces cannot be made here".into());
        }
        fs::write(parent.join("pause/cgroup.procs"), inner.to_string()).map_err(|e| e.to_string())?;
        Ok(all)
    }

    /// The pause's pid, as this namespace has it.
    fn inner(&self) -> Option<u32> {
        let id = self.pause.id();
        let text = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        let child: u32 = text.split_whitespace().next()?.parse().ok()?;
        fs::read_to_string(format!("/proc/{child}/cmdline")).ok()?.ends_with("pause\0").then_some(child)
    }

    fn inside(&self, cgroup: &str) -> Command {
        let place = self.hierarchy.join(&self.name).join(cgroup).join("cgroup.procs");
        let mut command = Command::new("sh");
        let inner = self.inner().expect("it runs").to_string();
        command.args(["-c", "echo 0 > \"$1\" && shift && exec \"$@\"", "sh"]).arg(place);
        command.args(["nsenter", "-t", &inner, "-p", "-m", "-r", "--"]);
        command
    }

    fn start_agent(&mut self) {
        let mut command = self.inside("agent/leaf");
        self.agent = Some(command.args(["sleep", "600"]).spawn().expect("it is there"));
        let leaf = self.leaf().join("cgroup.procs");
        // `nsenter` forks for the pid namespace and waits.
        wait::until_sync("the agent runs", SOON, || {
            (fs::read_to_string(&leaf).ok()?.lines().count() >= 2).then_some(())
        });
    }

    fn leaf(&self) -> PathBuf {
        self.hierarchy.join(&self.name).join("agent/leaf")
    }

    /// As in a container: the agent's cgroup bound at a place of its own; on a unified host its own cgroup namespace and
    /// no other view of the tree.
    fn doctor(&self) -> Output {
        let home = self.home.path().display();
        let agents = self.hierarchy.join(&self.name).join("agent");
        let view =
            if self.unified { "umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && " } else { "" };
        let script = format!(
            "mount --bind {} {home}/cg && {} sh -c '{view}exec {} doctor --agent a --workspace {home}/w --inbox {home}/i \
             --state {home}/s --orchestrator http://127.0.0.1:9 --insecure --agent-restart engine'",
            agents.display(),
            if self.unified { "unshare --cgroup --mount" } else { "unshare --mount" },
            binaries::path("pitwall-sidecar").display(),
        );
        let mut command = self.inside("sidecar");
        command.args(["unshare", "--mount", "sh", "-c", &script]).output().expect("it is there")
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        // With pid 1 of a namespace all of it ends.
        let _ = self.pause.kill();
        let _ = self.pause.wait();
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let parent = self.hierarchy.join(&self.name);
        let until = Instant::now() + SOON;
        for folder in ["agent/leaf", "agent", "pause", "sidecar", ""] {
            let folder = parent.join(folder);
            while fs::remove_dir(&folder).is_err_and(|e| e.kind() != std::io::ErrorKind::NotFound)
                && Instant::now() < until
            {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl std::fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

#[test]
fn the_agents_own_cgroup_is_found_through_its_bind() {
    const TEST: &str = "the_agents_own_cgroup_is_found_through_its_bind";
    let laid = Neighbours::new();
    if !surroundings::have(TEST, "cgroup", laid.as_ref().map(drop).map_err(Clone::clone)) {
        return;
    }
    let mut neighbours = laid.expect("just asked for");
    let rung = if neighbours.unified { "throttle.cpu.cgroup2" } else { "throttle.cpu.cgroup1" };
    let line = |said: &str, what: &str| said.lines().find(|l| l.contains(what)).unwrap_or_default().to_owned();
    let told = |output: &Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };

    let before = told(&neighbours.doctor());
    assert!(line(&before, "agent ").contains("no process of it is seen"), "{before}");
    assert!(line(&before, rung).starts_with("ok "), "by what is bound, before there is an agent: {before}");

    neighbours.start_agent();
    let said = told(&neighbours.doctor());
    let cg = neighbours.home.path().join("cg/leaf");
    assert!(line(&said, "agent ").contains("sleep (pid "), "{said}");
    assert!(line(&said, rung).starts_with("ok "), "{said}");
    if neighbours.unified {
        assert!(line(&said, "cgroup ").contains(cg.to_str().expect("it is there")), "{said}");
    }
}
