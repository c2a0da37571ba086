//! Directory checks: how many regular files lie below, at any depth. What no agent writes by hand ([`SKIPPED`]) does
//! not count, unless the path itself leads there.
use std::ops::ControlFlow;

use pitwall_proto::v1::DirectoryCheck;
use rustix::fs::FileType;

use super::{
    Deadline, Seen,
    beneath::Root,
    walk::{self, Below},
};

pub fn check(root: &Root, rule: &DirectoryCheck, by: Deadline) -> Seen {
    let top = match root.directory(&rule.path) {
        Ok(top) => top,
        Err(refusal) => return refusal.into(),
    };
    let mut files: u32 = 0;
    let mut bytes: u64 = 0;
    let mut newest: i64 = 0;
    // Of names, sizes and times, whatever the order: it changes when something below changes.
    let mut digest = [0_u8; 32];
    let mut late = false;
    let walked = walk::walk(top, &mut |_, _| {}, &mut |found| {
        if found.kind == FileType::RegularFile {
            files += 1;
            bytes = bytes.saturating_add(u64::try_from(found.stat.st_size).unwrap_or(0));
            newest = newest.max(found.stat.st_mtime.saturating_mul(1_000));
            let line = format!("{}\0{}", found.path, crate::watch::tree::stamp(found.stat));
            digest.iter_mut().zip(blake3::hash(line.as_bytes()).as_bytes()).for_each(|(sum, byte)| *sum ^= byte);
        }
        late = by.passed();
        if late { ControlFlow::Break(()) } else { ControlFlow::Continue(Below::Enter) }
    });
    let least = rule.min_files.max(1);
    let there = format!("{}: {files} file{}", rule.path, if files == 1 { "" } else { "s" });
    let mut seen = if files >= least {
        Seen::passed(there)
    } else if late {
        Seen::unknown(format!("{there} found in time, at least {least} are wanted"))
    } else if let Some(why) = walked.incomplete {
        Seen::unknown(format!("{there} found, at least {least} are wanted, but not all was looked at: {why}"))
    } else {
        Seen::failed(format!("{there}, at least {least} {} wanted", if least == 1 { "is" } else { "are" }))
    };
    seen.evidence.files = Some(files);
    seen.evidence.size_bytes = Some(bytes);
    seen.evidence.modified_unix_ms = (files > 0).then_some(newest);
    seen.evidence.digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    seen
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use pitwall_proto::v1::Outcome;

    use super::*;

    #[test]
    fn regular_files_are_counted_at_any_depth() {
        let workspace = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(workspace.path().join("d/deep/er")).unwrap();
        std::fs::create_dir_all(workspace.path().join("d/node_modules")).unwrap();
        for path in ["d/a", "d/deep/b", "d/deep/er/c", "d/node_modules/x", "file"] {
            std::fs::write(workspace.path().join(path), "x").unwrap();
        }
        std::os::unix::fs::symlink("a", workspace.path().join("d/link")).unwrap();
        std::fs::create_dir(workspace.path().join("none")).unwrap();
        let root = Root::open(workspace.path()).unwrap();
        let by = Deadline(Instant::now() + Duration::from_secs(20));
        let look = |path: &str, min_files| check(&root, &DirectoryCheck { path: path.into(), min_files }, by);
        for (path, least, outcome, files) in [
            ("d", 3, Outcome::Passed, Some(3)),
            ("d", 4, Outcome::Failed, Some(3)),
            ("d/node_modules", 1, Outcome::Passed, Some(1)),
            ("none", 0, Outcome::Failed, Some(0)),
            ("nope", 1, Outcome::Failed, None),
            ("file", 1, Outcome::Failed, None),
            ("../", 1, Outcome::Unknown, None),
        ] {
            let seen = look(path, least);
            assert_eq!((seen.outcome, seen.evidence.files), (outcome, files), "{path}: {seen:?}");
        }
        let before = look("d", 1).evidence.digest;
        assert_eq!(before, look("d", 1).evidence.digest);
        std::fs::write(workspace.path().join("d/deep/b"), "xy").unwrap();
        assert_ne!(before, look("d", 1).evidence.digest);
    }
}
