//! File checks: size, contained and forbidden text, and a digest, all through one descriptor and in one pass.
use std::{fs::File, io::Read as _, ops::ControlFlow};

use globset::GlobBuilder;
use pitwall_proto::v1::{Evidence, FileCheck, Outcome};
use rustix::fs::{FileType, Stat};

use super::{
    Deadline, Seen,
    beneath::{Refusal, Root},
    excerpt,
    walk::{self, Below},
};

/// Larger files are not searched for text.
pub const SEARCH_MAX: u64 = 16 * 1024 * 1024;
/// Larger files get no digest.
pub const DIGEST_MAX: u64 = 64 * 1024 * 1024;
/// Files of a glob that are looked into.
pub const GLOB_MAX: usize = 500;
const CHUNK: usize = 64 * 1024;

pub fn check(root: &Root, rule: &FileCheck, by: Deadline) -> Seen {
    let seen = one(root, &rule.path, rule, by);
    let is_glob = rule.path.contains(['*', '?', '[', '{']);
    // A name may have brackets, as in `app/[id]/page.tsx`: what is there literally is meant.
    if is_glob && matches!(root.file(&rule.path), Err(Refusal::Missing(_) | Refusal::NotADirectory(_))) {
        return glob(root, rule, by);
    }
    seen
}

fn glob(root: &Root, rule: &FileCheck, by: Deadline) -> Seen {
    let matcher = match GlobBuilder::new(&rule.path).literal_separator(true).build() {
        Ok(glob) => glob.compile_matcher(),
        Err(error) => return Seen::unknown(format!("{} is not a glob: {}", rule.path, error.kind())),
    };
    // From the last directory that is named without a wildcard.
    let literal = rule.path.split(['*', '?', '[', '{']).next().unwrap_or_default();
    let start = literal.rsplit_once('/').map_or("", |(directory, _)| directory);
    let top = match root.directory(start) {
        Ok(top) => top,
        Err(Refusal::Missing(_) | Refusal::NotADirectory(_)) => return none(rule, start),
        Err(refusal) => return refusal.into(),
    };
    let mut paths = Vec::new();
    let walked = walk::walk(top, &mut |_, _| {}, &mut |found| {
        let path = if start.is_empty() { found.path.to_owned() } else { format!("{start}/{}", found.path) };
        if found.kind != FileType::Directory && matcher.is_match(&path) {
            paths.push(path);
        }
        if paths.len() > GLOB_MAX || by.passed() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(Below::Enter)
    });
    if by.passed() {
        return Seen::unknown(format!("{}: not walked to its end in time", rule.path));
    }
    let more = paths.len() > GLOB_MAX;
    paths.truncate(GLOB_MAX);
    paths.sort_unstable();
    let files = u32::try_from(paths.len()).unwrap_or(u32::MAX);
    let mut best: Option<Seen> = None;
    for path in &paths {
        let seen = one(root, path, rule, by);
        let better = match (&best, seen.outcome) {
            (None, _) | (_, Outcome::Passed) => true,
            (Some(best), Outcome::Unknown) => best.outcome == Outcome::Failed,
            (Some(_), Outcome::Failed | Outcome::Unspecified) => false,
        };
        if better {
            best = Some(seen);
        }
        if best.as_ref().is_some_and(|seen| seen.outcome == Outcome::Passed) {
            break;
        }
    }
    let incomplete = walked.incomplete.or_else(|| more.then(|| format!("more than {GLOB_MAX} files match")));
    let mut seen = best.unwrap_or_else(|| none(rule, start));
    seen.evidence.files = Some(files);
    if seen.outcome == Outcome::Failed
        && let Some(why) = incomplete
    {
        // What was not looked at might pass.
        seen.outcome = Outcome::Unknown;
        seen.evidence.summary = format!("{}, but not all was looked at: {why}", seen.evidence.summary);
    } else if files > 1 {
        seen.evidence.summary = format!("{} ({files} files match {})", seen.evidence.summary, rule.path);
    }
    seen
}

fn none(rule: &FileCheck, start: &str) -> Seen {
    let mut seen = Seen::failed(if start.is_empty() {
        format!("no file matches {}", rule.path)
    } else {
        format!("no file below {start} matches {}", rule.path)
    });
    seen.evidence.files = Some(0);
    seen
}

fn one(root: &Root, path: &str, rule: &FileCheck, by: Deadline) -> Seen {
    let (file, stat) = match root.file(path) {
        Ok(opened) => opened,
        Err(refusal) => return refusal.into(),
    };
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let searches = !rule.contains.is_empty() || !rule.forbids.is_empty();
    let mut seen = judge_size(path, size, rule);
    let search = seen.outcome == Outcome::Passed && searches;
    if search && size > SEARCH_MAX {
        seen = Seen::unknown(format!("{path}: {size} bytes, more than the {SEARCH_MAX} that are searched for text"));
    } else if search || size <= DIGEST_MAX {
        match scan(file, if search { Some(rule) } else { None }, by) {
            Ok(scan) => {
                if search {
                    seen = judge_text(path, size, rule, &scan);
                }
                seen.evidence.digest = scan.digest;
            }
            Err(why) => seen = Seen::unknown(format!("{path}: {why}")),
        }
    }
    describe(&mut seen.evidence, &stat, size);
    seen
}

fn describe(evidence: &mut Evidence, stat: &Stat, size: u64) {
    evidence.size_bytes = Some(size);
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    evidence.modified_unix_ms = Some(stat.st_mtime.saturating_mul(1_000).saturating_add(nanos / 1_000_000));
    if stat.st_nlink > 1 {
        // The same file has a name elsewhere, perhaps outside.
        evidence.summary = format!("{}, has {} hard links", evidence.summary, stat.st_nlink);
    }
}

fn judge_size(path: &str, size: u64, rule: &FileCheck) -> Seen {
    let least = rule.min_bytes.unwrap_or(1);
    if size < least {
        return Seen::failed(if size == 0 {
            format!("{path} is empty")
        } else {
            format!("{path}: {size} bytes, at least {least} are wanted")
        });
    }
    match rule.max_bytes {
        Some(most) if size > most => Seen::failed(format!("{path}: {size} bytes, at most {most} are wanted")),
        Some(_) | None => Seen::passed(format!("{path}: {size} bytes")),
    }
}

fn judge_text(path: &str, size: u64, rule: &FileCheck, scan: &Scan) -> Seen {
    let quoted = |text: &str| format!("\"{}\"", excerpt(text.as_bytes()));
    let forbidden = rule.forbids.iter().zip(&scan.forbids).find_map(|(text, line)| Some((text, line.as_ref()?)));
    let mut seen = if let Some((text, line)) = forbidden {
        let mut seen = Seen::failed(format!("{path}: {size} bytes, has the forbidden {}", quoted(text)));
        seen.evidence.excerpt = line.clone();
        seen
    } else if let Some((text, _)) = rule.contains.iter().zip(&scan.contains).find(|(_, line)| line.is_none()) {
        Seen::failed(format!("{path}: {size} bytes, lacks {}", quoted(text)))
    } else {
        let wanted = match rule.contains.len() {
            0 => "has nothing forbidden",
            1 => "contains the text",
            _ => "contains all texts",
        };
        Seen::passed(format!("{path}: {size} bytes, {wanted}"))
    };
    if seen.evidence.excerpt.is_empty()
        && let Some(line) = scan.contains.iter().flatten().next()
    {
        seen.evidence.excerpt = line.clone();
    }
    seen
}

/// One pass over a file: its digest, and for each text the line where it first occurs.
struct Scan {
    digest: String,
    contains: Vec<Option<String>>,
    forbids: Vec<Option<String>>,
}

fn scan(file: File, rule: Option<&FileCheck>, by: Deadline) -> Result<Scan, String> {
    let (contains, forbids) = rule.map_or((&[][..], &[][..]), |rule| (&rule.contains[..], &rule.forbids[..]));
    let mut scan =
        Scan { digest: String::new(), contains: vec![None; contains.len()], forbids: vec![None; forbids.len()] };
    let longest = contains.iter().chain(forbids).map(String::len).max().unwrap_or(0);
    let mut hasher = blake3::Hasher::new();
    let mut window: Vec<u8> = Vec::new();
    let mut chunk = vec![0; CHUNK];
    // A file may grow while it is read.
    let mut file = file.take(DIGEST_MAX);
    loop {
        if by.passed() {
            return Err("not read to its end in time".into());
        }
        let n = file.read(&mut chunk).map_err(|e| format!("cannot be read: {e}"))?;
        if n == 0 {
            break;
        }
        hasher.update(&chunk[..n]);
        if longest == 0 {
            continue;
        }
        window.extend_from_slice(&chunk[..n]);
        let texts = contains.iter().zip(&mut scan.contains).chain(forbids.iter().zip(&mut scan.forbids));
        for (text, found) in texts.filter(|(_, found)| found.is_none()) {
            *found = find(&window, text.as_bytes()).map(|at| line_at(&window, at));
        }
        // A text may lie across two chunks.
        window.drain(..window.len().saturating_sub(longest.saturating_sub(1)));
    }
    scan.digest = hasher.finalize().to_hex().to_string();
    Ok(scan)
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let Some((&first, rest)) = needle.split_first() else { return Some(0) };
    let mut from = 0;
    while let Some(step) = hay.get(from..)?.iter().position(|&byte| byte == first) {
        let at = from + step;
        if hay[at + 1..].starts_with(rest) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

fn line_at(window: &[u8], at: usize) -> String {
    let begin = window[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    let rest = &window[begin.max(at.saturating_sub(120))..];
    excerpt(rest.split(|&byte| byte == b'\n').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn rule(path: &str) -> FileCheck {
        FileCheck { path: path.into(), ..FileCheck::default() }
    }

    fn looked(workspace: &std::path::Path, rule: &FileCheck) -> Seen {
        check(&Root::open(workspace).unwrap(), rule, Deadline(Instant::now() + Duration::from_secs(20)))
    }

    #[test]
    fn a_file_is_judged_by_size_and_text() {
        let workspace = tempfile::tempdir().unwrap();
        let content = "import x\nexport async function GET() { return 1 }\n";
        std::fs::write(workspace.path().join("route.ts"), content).unwrap();
        std::fs::write(workspace.path().join("todo.ts"), "export async function GET() {} // TODO: all of it\n")
            .unwrap();
        std::fs::write(workspace.path().join("empty.ts"), "").unwrap();
        let get = || vec!["export async function GET".to_owned()];
        let todo = || vec!["TODO".to_owned()];
        let table = [
            (rule("route.ts"), Outcome::Passed, "route.ts: 50 bytes"),
            (rule("nope.ts"), Outcome::Failed, "there is no nope.ts"),
            (rule("empty.ts"), Outcome::Failed, "is empty"),
            (FileCheck { min_bytes: Some(0), ..rule("empty.ts") }, Outcome::Passed, "0 bytes"),
            (FileCheck { min_bytes: Some(51), ..rule("route.ts") }, Outcome::Failed, "at least 51"),
            (FileCheck { max_bytes: Some(49), ..rule("route.ts") }, Outcome::Failed, "at most 49"),
            (FileCheck { contains: get(), forbids: todo(), ..rule("route.ts") }, Outcome::Passed, "contains the text"),
            (FileCheck { contains: get(), forbids: todo(), ..rule("todo.ts") }, Outcome::Failed, "forbidden \"TODO\""),
            (FileCheck { contains: todo(), ..rule("route.ts") }, Outcome::Failed, "lacks \"TODO\""),
            (FileCheck { forbids: todo(), ..rule("route.ts") }, Outcome::Passed, "nothing forbidden"),
            (rule("../route.ts"), Outcome::Unknown, "not a path inside"),
            (rule("."), Outcome::Failed, "directory"),
        ];
        for (rule, outcome, words) in table {
            let seen = looked(workspace.path(), &rule);
            assert!(seen.outcome == outcome && seen.evidence.summary.contains(words), "{rule:?}: {seen:?}");
        }
        let seen = looked(workspace.path(), &FileCheck { contains: get(), ..rule("route.ts") });
        assert_eq!(seen.evidence.digest, blake3::hash(content.as_bytes()).to_hex().as_str());
        assert_eq!(seen.evidence.excerpt, "export async function GET() { return 1 }");
        assert_eq!(seen.evidence.size_bytes, Some(50));
        assert!(seen.evidence.modified_unix_ms.is_some());
    }

    #[test]
    fn at_least_one_file_of_a_glob_must_pass() {
        let workspace = tempfile::tempdir().unwrap();
        for (path, text) in
            [("app/a/page.tsx", ""), ("app/b/page.tsx", "x"), ("app/c.tsx", "x"), ("app/[id]/page.tsx", "y")]
        {
            let path = workspace.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        for (path, outcome, files) in [
            ("app/*/page.tsx", Outcome::Passed, Some(3)),
            ("app/a/*.tsx", Outcome::Failed, Some(1)),
            ("app/**/*.tsx", Outcome::Passed, Some(4)),
            ("**/c.tsx", Outcome::Passed, Some(1)),
            ("app/*.ts", Outcome::Failed, Some(0)),
            ("nope/*.ts", Outcome::Failed, Some(0)),
            ("app/[id]/page.tsx", Outcome::Passed, None),
            ("app/[", Outcome::Unknown, None),
            ("../*", Outcome::Unknown, None),
        ] {
            let seen = looked(workspace.path(), &rule(path));
            assert_eq!((seen.outcome, seen.evidence.files), (outcome, files), "{path}: {seen:?}");
        }
    }

    #[test]
    fn texts_are_found_across_the_borders_of_chunks_and_huge_files_are_not_searched() {
        let workspace = tempfile::tempdir().unwrap();
        let at = workspace.path().join("big");
        let contains = vec!["needle".to_owned()];
        for before in [CHUNK - 6, CHUNK - 5, CHUNK - 1, CHUNK, 2 * CHUNK - 3] {
            std::fs::write(&at, format!("{}needle", "n".repeat(before))).unwrap();
            let seen = looked(workspace.path(), &FileCheck { contains: contains.clone(), ..rule("big") });
            assert_eq!(seen.outcome, Outcome::Passed, "{before}");
        }
        File::create(&at).unwrap().set_len(SEARCH_MAX + 1).unwrap();
        let seen = looked(workspace.path(), &FileCheck { contains, ..rule("big") });
        assert_eq!(seen.outcome, Outcome::Unknown);
        File::create(&at).unwrap().set_len(1 << 40).unwrap();
        let seen = looked(workspace.path(), &rule("big"));
        assert_eq!((seen.outcome, seen.evidence.digest.as_str()), (Outcome::Passed, ""));
    }

    #[test]
    fn a_hard_link_is_told() {
        let workspace = tempfile::tempdir().unwrap();
        std::fs::write(workspace.path().join("a"), "x").unwrap();
        std::fs::hard_link(workspace.path().join("a"), workspace.path().join("b")).unwrap();
        assert!(looked(workspace.path(), &rule("b")).evidence.summary.contains("2 hard links"));
    }

    #[test]
    fn a_check_that_is_out_of_time_is_unknown() {
        let workspace = tempfile::tempdir().unwrap();
        std::fs::write(workspace.path().join("a"), "x").unwrap();
        let seen = check(&Root::open(workspace.path()).unwrap(), &rule("a"), Deadline(Instant::now()));
        assert_eq!(seen.outcome, Outcome::Unknown);
    }
}
