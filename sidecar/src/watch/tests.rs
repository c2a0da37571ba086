use std::{fs, path::Path, time::Duration};

use super::*;

/// Longer than anything here takes; only a failure waits for it.
const LONG: Duration = Duration::from_secs(20);
/// A rescan interval so long that only hints can be the cause.
const NEVER: u32 = 3_600_000;

struct Bench {
    inputs: mpsc::Receiver<Input>,
    watch: Watch,
    workspace: PathBuf,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let workspace = directory.path().join("ws");
        prepare(&workspace);
        let (sender, inputs) = mpsc::channel(64);
        let watch = Watch::start(workspace.clone(), &workspace.join("inbox"), sender).unwrap();
        Self { inputs, watch, workspace, _directory: directory }
    }

    fn next(&mut self) -> Input {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let next = runtime.block_on(async { tokio::time::timeout(LONG, self.inputs.recv()).await });
        next.expect("an input in time").expect("a watcher")
    }

    fn workspace_is(&mut self, expected: bool) {
        match self.next() {
            Input::Workspace { present, .. } => assert_eq!(present, expected),
            other => panic!("{other:?}"),
        }
    }

    /// Changes until all of these were told; others must not come.
    fn changed(&mut self, expected: &[&str]) {
        let mut left: Vec<&str> = expected.to_vec();
        while !left.is_empty() {
            match self.next() {
                Input::FilesChanged { paths, more: 0 } => {
                    for path in &paths {
                        assert!(expected.contains(&path.as_str()), "{path} was told");
                    }
                    left.retain(|wanted| !paths.iter().any(|path| path == wanted));
                }
                other => panic!("{other:?} while waiting for {left:?}"),
            }
        }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.workspace.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn made(workspace: &Path) {
    fs::create_dir_all(workspace.join("app")).unwrap();
    fs::write(workspace.join("app/old.ts"), "x").unwrap();
}

#[test]
fn the_first_walk_is_the_baseline_and_hints_tell_of_every_kind_of_change() {
    let mut bench = Bench::new(made);
    bench.watch.rescan_every(NEVER);
    bench.workspace_is(true);
    // The walk of the wake-up has to be over, or it tells in the place of a hint: a change that it finds shows that.
    bench.write("app/new.ts", "1");
    bench.changed(&["app/new.ts"]);
    bench.write("app/new.ts", "22");
    bench.changed(&["app/new.ts"]);
    fs::rename(bench.workspace.join("app/new.ts"), bench.workspace.join("app/moved.ts")).unwrap();
    bench.changed(&["app/new.ts", "app/moved.ts"]);
    fs::remove_file(bench.workspace.join("app/old.ts")).unwrap();
    bench.changed(&["app/old.ts"]);
}

#[test]
fn files_in_freshly_made_nested_directories_are_found_and_go_with_them() {
    let mut bench = Bench::new(made);
    bench.watch.rescan_every(NEVER);
    bench.workspace_is(true);
    bench.write("app/api/talents/deep/route.ts", "export");
    bench.changed(&["app/api/talents/deep/route.ts"]);
    // The new directories are watched by now.
    bench.write("app/api/talents/deep/other.ts", "x");
    bench.changed(&["app/api/talents/deep/other.ts"]);
    fs::rename(bench.workspace.join("app/api"), bench.workspace.join("app/lib")).unwrap();
    bench.changed(&[
        "app/api/talents/deep/route.ts",
        "app/api/talents/deep/other.ts",
        "app/lib/talents/deep/route.ts",
        "app/lib/talents/deep/other.ts",
    ]);
    bench.write("app/lib/talents/deep/other.ts", "under its new name");
    bench.changed(&["app/lib/talents/deep/other.ts"]);
    fs::remove_dir_all(bench.workspace.join("app/lib")).unwrap();
    bench.changed(&["app/lib/talents/deep/route.ts", "app/lib/talents/deep/other.ts"]);
}

#[test]
fn a_file_that_stays_open_is_found_by_the_walk() {
    use std::io::Write as _;
    let mut bench = Bench::new(made);
    bench.watch.rescan_every(RESCAN_MIN_MS);
    bench.workspace_is(true);
    let mut open = fs::File::create(bench.workspace.join("app/log.txt")).unwrap();
    bench.changed(&["app/log.txt"]);
    open.write_all(b"more").unwrap();
    bench.changed(&["app/log.txt"]);
}

#[test]
fn a_workspace_that_comes_later_is_deleted_and_comes_back_is_watched_again() {
    let mut bench = Bench::new(|_| {});
    bench.watch.rescan_every(RESCAN_MIN_MS);
    bench.workspace_is(false);
    // Moved into place as a whole, so that one walk sees all of it.
    let aside = bench.workspace.with_file_name("aside");
    made(&aside);
    fs::rename(&aside, &bench.workspace).unwrap();
    bench.workspace_is(true);
    bench.changed(&["app/old.ts"]);
    fs::rename(&bench.workspace, &aside).unwrap();
    bench.workspace_is(false);
    fs::rename(&aside, &bench.workspace).unwrap();
    bench.workspace_is(true);
    bench.changed(&["app/old.ts"]);
    bench.write("app/again.ts", "x");
    bench.changed(&["app/again.ts"]);
}

#[test]
fn what_is_not_the_agents_work_is_not_told() {
    let mut bench = Bench::new(made);
    bench.watch.rescan_every(RESCAN_MIN_MS);
    bench.workspace_is(true);
    for path in [".git/HEAD", "node_modules/a/index.js", "app/node_modules/b.js", ".pitwall/notes", "inbox/URGENT-1.md"]
    {
        bench.write(path, "x");
    }
    bench.write("inboxes.ts", "x");
    bench.changed(&["inboxes.ts"]);
    bench.write("z.ts", "x");
    bench.changed(&["z.ts"]);
}

#[test]
fn a_claim_is_read_when_it_changes_and_a_broken_one_is_told_once_it_stays_so() {
    let mut bench = Bench::new(made);
    bench.watch.rescan_every(NEVER);
    bench.workspace_is(true);
    bench.write(".pitwall/claim.json", r#"{"progress": 0.5}"#);
    assert!(matches!(bench.next(), Input::Claim(Ok(claim)) if claim.progress == Some(0.5)));
    bench.write(".pitwall/claim.json", r#"{"progress": 0."#);
    assert!(matches!(bench.next(), Input::Claim(Err(why)) if why.contains("claim.json")));
    bench.write(".pitwall/claim.json", r#"{"progress": 1}"#);
    assert!(matches!(bench.next(), Input::Claim(Ok(claim)) if claim.progress == Some(1.0)));
    fs::remove_file(bench.workspace.join(".pitwall/claim.json")).unwrap();
    assert!(matches!(bench.next(), Input::Claim(Err(why)) if why.contains("gone")));
}

#[test]
fn more_changes_than_fit_are_counted() {
    let mut bench = Bench::new(|_| {});
    bench.watch.rescan_every(RESCAN_MIN_MS);
    bench.workspace_is(false);
    let aside = bench.workspace.with_file_name("aside");
    fs::create_dir(&aside).unwrap();
    for n in 0..CHANGES_MAX + 7 {
        fs::write(aside.join(format!("{n:05}")), "").unwrap();
    }
    fs::rename(&aside, &bench.workspace).unwrap();
    bench.workspace_is(true);
    assert!(matches!(bench.next(), Input::FilesChanged { paths, more: 7 } if paths.len() == CHANGES_MAX));
}
