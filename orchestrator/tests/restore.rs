//! `pitwall journal restore`, killed with -9 after each change that it makes to the directory, and of a damaged journal.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use pitwall::store::copy;
use pitwall_proto::v1::{self, connect_request};
use support::{config, operator, peer::Peer, process::Serving, reason, tell, until};

fn restore(from: &Path, data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pitwall"));
    command.args(["journal", "restore"]).arg(from).arg("--data").arg(data).args(["--output", "json"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

async fn issue(serving: &Serving, keys: std::ops::Range<usize>) {
    let mut client = operator(&serving.url).await;
    for key in keys {
        client.issue_command(tell("backend", "go", &key.to_string())).await.unwrap();
    }
}

async fn commands(serving: &Serving) -> usize {
    let request = v1::ListCommandsRequest { limit: 1_000, ..Default::default() };
    operator(&serving.url).await.list_commands(request).await.unwrap().into_inner().commands.len()
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten().filter(|e| e.file_type().unwrap().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Names and sizes: what changes with each step.
fn listing(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter_map(|e| Some((e.path(), e.metadata().ok()?.len())))
        .filter(|(path, _)| !path.ends_with("lock"))
        .collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_change_of_the_directory_it_is_the_older_or_the_newer_journal_whole() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let backup = dir.path().join("backup");
    let mut serving = Serving::start(&config.plan, &config.data);
    issue(&serving, 0..3).await;
    copy::backup(&config.data.join("journal.sqlite3"), &backup).unwrap();
    issue(&serving, 3..8).await;
    // What came last lies in the log beside the file.
    serving.kill();
    let older = copy::verify(&config.data.join("journal.sqlite3")).unwrap();

    let (mut seen_older, mut seen_newer) = (0, 0);
    for change in 1..200 {
        let data = dir.path().join(format!("killed-{change}"));
        copy_all(&config.data, &data);
        let mut child = restore(&backup, &data).spawn().unwrap();
        let (mut before, mut changes) = (listing(&data), 0);
        let whole = loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                break true;
            }
            let now = listing(&data);
            changes += u32::from(now != before);
            before = now;
            if changes == change {
                child.kill().unwrap();
                child.wait().unwrap();
                break false;
            }
        };
        let mut serving = Serving::start(&config.plan, &data);
        let (_peer, welcome) = Peer::welcomed(&serving.url, "backend", "i1").await;
        let told = format!("after {change} changes: {before:?}; it said: {}", serving.stderr());
        let kept: Vec<PathBuf> = listing(&data)
            .into_iter()
            .map(|(path, _)| path)
            .filter(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                assert!(!name.contains(".partial"), "{told}");
                name.contains(".replaced-") && !name.ends_with("-wal") && !name.ends_with("-shm")
            })
            .collect();
        if welcome.lineage == older[0].lineage {
            assert!(!whole, "{told}");
            assert_eq!(commands(&serving).await, 8, "{told}");
            assert!(kept.is_empty(), "{told}");
            seen_older += 1;
        } else {
            assert_eq!(commands(&serving).await, 3, "{told}");
            assert_eq!(copy::verify(&kept[0]).unwrap(), older, "{told}");
            seen_newer += 1;
        }
        serving.kill();
        fs::remove_dir_all(&data).unwrap();
        if whole {
            println!("{seen_older} times the older, {seen_newer} times the newer one");
            assert!(seen_older > 2);
            return;
        }
    }
    panic!("it never ends by itself");
}

/// The way on from a journal whose end is lost: what it has is brought back as another history, and the finding says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_whose_log_was_spoilt_goes_on_with_what_it_has_when_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let mut serving = Serving::start(&config.plan, &config.data);
    issue(&serving, 0..20).await;
    serving.kill();
    let log = config.data.join("journal.sqlite3-wal");
    let mut bytes = fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, bytes).unwrap();
    let serve = support::process::serve_command(&config.plan, &config.data, "127.0.0.1:0");
    let Err((status, said)) = Serving::try_spawn(serve) else { panic!("it serves with a part of it") };
    assert!(!status.success() && said.contains("pitwall journal restore` of this very file"), "{said}");

    let status = restore(&config.data.join("journal.sqlite3"), &config.data).status().unwrap();
    assert!(status.success(), "{status}");
    let mut serving = Serving::start(&config.plan, &config.data);
    let some = commands(&serving).await;
    assert!(some > 0 && some < 20, "{some} of 20");
    let listed = operator(&serving.url).await.list_findings(v1::ListFindingsRequest::default()).await.unwrap();
    let found =
        listed.into_inner().findings.into_iter().find(|f| f.kind() == v1::FindingKind::JournalRestored).unwrap();
    assert!(found.message.contains("what came later is lost"), "{}", found.message);
    serving.terminate();
    serving.ended_within(Duration::from_secs(10));
}

/// As after a restore on a machine whose clock is behind: each sidecar has seen a later owner of the very same history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_sidecars_have_seen_a_later_owner_is_said_once_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let mut serving = Serving::start(&config.plan, &config.data);
    let (_peer, welcome) = Peer::welcomed(&serving.url, "backend", "i1").await;
    for _ in 0..3 {
        let resume =
            v1::ResumePoint { lineage: welcome.lineage.clone(), epoch: welcome.epoch + 1_000, ..Default::default() };
        let mut peer = Peer::silent(&serving.url).await;
        let hello = v1::Hello { resume: Some(resume), ..support::peer::hello("frontend", "i1") };
        peer.say(connect_request::Body::Hello(hello)).await;
        assert_eq!(reason(&peer.end().await), "EPOCH_FENCED");
    }
    let says = "set its clock right and start it again";
    until("it says so", || async { serving.stderr().contains(says).then_some(()) }).await;
    serving.terminate();
    serving.ended_within(Duration::from_secs(10));
    let said = serving.stderr();
    assert_eq!(said.matches(says).count(), 1, "{said}");
}
