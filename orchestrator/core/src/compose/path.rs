//! Paths of the host as a compose file writes them, compared by what they hold. By their text alone: where that does
//! not tell, nothing is held.

/// Where a path begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Root,
    Home,
    /// So many folders above the file's own.
    Project(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPath {
    from: From,
    parts: Vec<String>,
}

impl HostPath {
    /// What is mounted; `None`: a named or anonymous volume.
    pub fn of_mount(source: &str) -> Option<Self> {
        source.starts_with(['.', '/', '~']).then(|| Self::of(source))
    }

    /// Of a text that can only be a path.
    pub fn of(text: &str) -> Self {
        let (mut from, rest) = match text.strip_prefix('~') {
            Some(rest) => (From::Home, rest),
            None if text.starts_with('/') => (From::Root, text),
            None => (From::Project(0), text),
        };
        let mut parts: Vec<String> = Vec::new();
        for part in rest.split('/') {
            match (part, &mut from) {
                ("" | ".", _) => {}
                ("..", From::Project(up)) if parts.is_empty() => *up += 1,
                ("..", _) => drop(parts.pop()),
                (name, _) => parts.push(name.to_owned()),
            }
        }
        // The one is a link to the other everywhere.
        if from == From::Root && parts.len() > 1 && parts[0] == "var" && parts[1] == "run" {
            parts.remove(0);
        }
        Self { from, parts }
    }

    /// Of a path from the root.
    pub fn absolute(&self) -> Option<Vec<&str>> {
        (self.from == From::Root).then(|| self.parts.iter().map(String::as_str).collect())
    }

    /// Whether `other` is this one, or lies in it.
    pub fn holds(&self, other: &Self) -> bool {
        match (self.from, other.from) {
            (From::Root, _) if self.parts.is_empty() => true,
            (From::Project(mine), From::Project(theirs)) if mine > theirs => self.parts.is_empty(),
            (mine, theirs) => mine == theirs && other.parts.starts_with(&self.parts),
        }
    }
}

/// Whether who mounts the one has something of the other.
pub fn share(one: &str, other: &str) -> bool {
    match (HostPath::of_mount(one), HostPath::of_mount(other)) {
        (Some(one), Some(other)) => one.holds(&other) || other.holds(&one),
        _ => !one.is_empty() && one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_by_what_they_hold() {
        for (one, other, holds) in [
            (".", "./state", true),
            ("./state", ".", false),
            ("./a/../state/", "./state/x", true),
            ("./sta", "./state", false),
            ("..", "./state", true),
            ("../other", "./state", false),
            ("/", "~/state", true),
            ("~", "~/state", true),
            ("/srv", "/srv/state", true),
            ("/srv/../etc", "/srv/state", false),
            ("/var/run", "/run/docker.sock", true),
            ("/../..", "/srv", true),
        ] {
            assert_eq!(HostPath::of(one).holds(&HostPath::of(other)), holds, "{one} {other}");
        }
        assert!(share("state", "state") && !share("", "") && !share("state", "./state"));
    }
}
