//! What a mount has of the host: the engines' sockets, the cgroups.
use super::path::HostPath;

const CONTROLLERS: [&str; 12] = [
    "blkio",
    "cpu",
    "cpu,cpuacct",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "pids",
    "systemd",
    "unified",
];

/// The engines' sockets where they are by default; those of a user's own lie below /run/user.
const SOCKETS: [&str; 6] = [
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/buildkit/buildkitd.sock",
];

/// Whether the engine's socket is what is mounted, or lies in it.
pub fn has_sockets(source: &str) -> bool {
    let Some(path) = HostPath::of_mount(source) else { return false };
    let last = source.rsplit('/').next().unwrap_or_default();
    let named = SOCKETS.iter().any(|s| s.rsplit('/').next().is_some_and(|name| last.ends_with(name)));
    let users = matches!(
        path.absolute().as_deref(),
        Some(["run", "user"] | ["run", "user", _] | ["run", "user", _, "podman" | "buildkit" | "containerd"])
    );
    named || users || SOCKETS.iter().any(|socket| path.holds(&HostPath::of(socket)))
}

/// The path below the cgroup tree, without the controller; `None`: it lies elsewhere.
pub fn below_cgroups(source: &str) -> Option<String> {
    let path = HostPath::of_mount(source)?;
    if path.holds(&HostPath::of("/sys/fs/cgroup")) {
        return Some(String::new());
    }
    let parts = path.absolute()?;
    match parts.strip_prefix(&["sys", "fs", "cgroup"])? {
        [controller, below @ ..] if CONTROLLERS.contains(controller) => Some(below.join("/")),
        below => Some(below.join("/")),
    }
}

/// Whether the bind is the very folder of a parent. A slice lies in a folder of its name, below those it is part of.
pub fn is_of(below: &str, parent: &str) -> bool {
    let parent = parent.trim_matches('/');
    let slice = parent.rsplit('/').next().filter(|last| last.ends_with(".slice"));
    slice.map_or(below == parent, |slice| below.rsplit('/').next() == Some(slice))
}

/// Whether the bind holds more than the agent's own.
pub fn is_above(below: &str, path: &str) -> bool {
    path.trim_start_matches('/').strip_prefix(below).is_some_and(|rest| rest.starts_with('/'))
}
