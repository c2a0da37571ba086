//! What a disk can do to a journal, with the real binary: each time a clear error that names the file and what to do, or
//! a recovery with everything that was acknowledged; and nothing is acknowledged that is not on the disk.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod support;

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use pitwall_proto::v1;
use support::{
    config, operator,
    peer::Peer,
    process::{Serving, serve_command},
    reason, skip, tell, until,
};

/// What a server acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    commands: Vec<String>,
    fact: u64,
}

fn journal(data: &Path) -> PathBuf {
    data.join("journal.sqlite3")
}

fn log(data: &Path) -> PathBuf {
    data.join("journal.sqlite3-wal")
}

/// Commands and facts of so many rounds, each waited for.
async fn work(serving: &Serving, rounds: usize, done: &mut Acknowledged) -> Result<(), tonic::Status> {
    let mut client = operator(&serving.url).await;
    let mut peer = Peer::hello(&serving.url, "frontend", "i1").await;
    peer.hears().await?;
    for _ in 0..rounds {
        let key = format!("k{}", done.commands.len());
        let issued = client.issue_command(tell("backend", &"what is to be done ".repeat(20), &key)).await?;
        done.commands.push(issued.into_inner().command.unwrap().id);
        peer.claim(done.fact + 1, "a step").await;
        done.fact = peer.hears_fact_ack().await?;
    }
    Ok(())
}

/// Everything is there, as far as anybody can see.
async fn holds(serving: &Serving, done: &Acknowledged) {
    let mut client = operator(&serving.url).await;
    let request = v1::ListCommandsRequest { limit: 1_000, ..Default::default() };
    let listed = client.list_commands(request).await.unwrap().into_inner().commands;
    let lost: Vec<_> = done.commands.iter().filter(|id| !listed.iter().any(|c| c.id == **id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let (_peer, welcome) = Peer::welcomed(&serving.url, "frontend", "i1").await;
    assert!(welcome.fact_acked >= done.fact, "fact {} was acknowledged, {} is there", done.fact, welcome.fact_acked);
}

/// The next start holds everything, or says which file and what to do.
async fn starts_whole_or_says(what: &str, plan: &Path, data: &Path, done: &Acknowledged) -> bool {
    match Serving::try_spawn(serve_command(plan, data, "127.0.0.1:0")) {
        Ok(serving) => {
            holds(&serving, done).await;
            true
        }
        Err((status, said)) => {
            assert!(status.code().is_some_and(|code| code != 0), "{what}: {status}: {said}");
            for part in [&*journal(data).display().to_string(), "pitwall journal verify", "pitwall journal restore"] {
                assert!(said.contains(part), "{what}: {part} is not in: {said}");
            }
            false
        }
    }
}

fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Everywhere, as a page may hold what was moved away from it.
fn flip_words(file: &Path) {
    let bytes = fs::read(file).unwrap();
    let places = bytes.windows(10).enumerate().filter(|(_, words)| *words == b"to be done");
    places.for_each(|(at, _)| flip(file, at as u64));
}

fn flip_pages(file: &Path) {
    let pages = fs::metadata(file).unwrap().len() / 4_096;
    (1..pages).for_each(|page| flip(file, page * 4_096));
}

fn cut(file: &Path, to: u64) {
    OpenOptions::new().write(true).open(file).unwrap().set_len(to).unwrap();
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten().filter(|e| e.file_type().unwrap().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_disk_spoilt_is_told_at_the_next_start_or_recovered_from() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let mut done = Acknowledged::default();
    // A first life, whose journal is in its file; and a second that is killed, with the latest in the log.
    let mut first = Serving::start(&config.plan, &config.data);
    work(&first, 40, &mut done).await.unwrap();
    first.terminate();
    first.ended_within(Duration::from_secs(10));
    let mut second = Serving::start(&config.plan, &config.data);
    work(&second, 20, &mut done).await.unwrap();
    second.kill();
    let (file, wal) =
        (fs::metadata(journal(&config.data)).unwrap().len(), fs::metadata(log(&config.data)).unwrap().len());
    assert!(file > 8 * 4_096 && wal > 8 * 4_096, "{file} and {wal} bytes");
    // The same, when a third has ended as it should: everything is in the file.
    let ended = dir.path().join("ended");
    copy_all(&config.data, &ended);
    let mut third = Serving::start(&config.plan, &ended);
    third.terminate();
    third.ended_within(Duration::from_secs(10));

    type Damage = Box<dyn Fn(&Path)>;
    let flip_file = |at: u64| -> Damage { Box::new(move |data: &Path| flip(&journal(data), at)) };
    let flip_log = |at: u64| -> Damage { Box::new(move |data: &Path| flip(&log(data), at)) };
    let killed = &config.data;
    // Whether it starts with everything, where that is sure.
    let table: [(&str, &Path, Option<bool>, Damage); 14] = [
        ("nothing", killed, Some(true), Box::new(|_: &Path| {})),
        ("its file is cut to half", killed, Some(false), Box::new(move |data: &Path| cut(&journal(data), file / 2))),
        ("its file is cut to nothing", killed, Some(false), Box::new(|data: &Path| cut(&journal(data), 0))),
        ("its file is gone", killed, Some(false), Box::new(|data: &Path| fs::remove_file(journal(data)).unwrap())),
        ("the header's magic", &ended, Some(false), flip_file(3)),
        ("the header's page size", &ended, Some(false), flip_file(16)),
        // Which the log has, too.
        ("the header's magic, and a log", killed, None, flip_file(3)),
        ("what events say", &ended, Some(false), Box::new(|data: &Path| flip_words(&journal(data)))),
        ("the heads of pages", &ended, Some(false), Box::new(|data: &Path| flip_pages(&journal(data)))),
        ("a cell's place", &ended, None, flip_file(4 * 4_096 + 9)),
        ("the log's head", killed, Some(false), flip_log(9)),
        ("the middle of the log", killed, Some(false), flip_log(wal / 2)),
        ("the log is cut in the middle", killed, Some(false), Box::new(move |data: &Path| cut(&log(data), wal / 2))),
        ("the log is gone", killed, Some(false), Box::new(|data: &Path| fs::remove_file(log(data)).unwrap())),
    ];
    for (n, (what, of, expected, damage)) in table.iter().enumerate() {
        let data = dir.path().join(format!("spoilt-{n}"));
        copy_all(of, &data);
        damage(&data);
        let whole = starts_whole_or_says(what, &config.plan, &data, &done).await;
        println!("{what}: {}", if whole { "recovered" } else { "told" });
        assert!(expected.is_none_or(|expected| expected == whole), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_disk_spoils_under_a_running_server_loses_nothing_unnoticed() {
    for what in ["its file is cut", "its log is cut", "a bit in its file", "a bit in its log"] {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let mut done = Acknowledged::default();
        let mut serving = Serving::start(&config.plan, &config.data);
        work(&serving, 10, &mut done).await.unwrap();
        let length = |file: &Path| fs::metadata(file).unwrap().len();
        let (file, wal) = (journal(&config.data), log(&config.data));
        match what {
            "its file is cut" => cut(&file, 4_096),
            "its log is cut" => cut(&wal, length(&wal) / 2),
            "a bit in its file" => flip(&file, 100),
            _ => flip(&wal, length(&wal) / 2),
        }
        // It goes on, or says so: what it acknowledges from here on counts as well.
        let ended = work(&serving, 10, &mut done).await;
        if let Err(status) = &ended {
            assert!(["STORE_FAILED", ""].contains(&reason(status).as_str()), "{what}: {status}");
        }
        serving.kill();
        let whole = starts_whole_or_says(what, &config.plan, &config.data, &done).await;
        println!(
            "{what}: {} while it ran, then {}",
            if ended.is_ok() { "unnoticed" } else { "told" },
            if whole { "whole" } else { "told" }
        );
    }
}

/// A server whose data directory is a small disk of its own; `None`: that cannot be had here.
fn on_a_small_disk(test: &str, plan: &Path, data: &Path, options: &str) -> Option<Command> {
    fs::create_dir_all(data).unwrap();
    // A mount that only the server and its children see, and that ends with them.
    let mount = format!("mount -t tmpfs -o {options} tmpfs \"$1\" && shift && exec \"$@\"");
    let inside = |program: &[&OsStr]| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &mount, "sh"]).arg(data).args(program);
        command
    };
    let why = match inside(&["true".as_ref()]).output() {
        Ok(output) if output.status.success() => {
            let serve = serve_command(plan, data, "127.0.0.1:0");
            let words: Vec<&OsStr> = std::iter::once(serve.get_program()).chain(serve.get_args()).collect();
            return Some(inside(&words));
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    skip(test, "mountns", &why);
    None
}

/// A shell command in the mount namespace of a server.
fn there(serving: &Serving, script: &str, data: &Path) {
    let pid = serving.pid().to_string();
    let status = Command::new("nsenter").args(["-t", &pid, "-m", "sh", "-c", script, "sh"]).arg(data).status().unwrap();
    assert!(status.success() || script.contains("; true"), "{script}: {status}");
}

/// While the disk takes nothing, nothing is acknowledged; when it does again, what was not comes once more and is taken.
async fn nothing_is_acknowledged_until(serving: &Serving, done: &mut Acknowledged, mended: impl FnOnce()) {
    let mut client = operator(&serving.url).await;
    // There may be room for a little more.
    let refused = loop {
        match work(serving, 1, done).await {
            Ok(()) => assert!(done.fact < 10_000, "the disk takes everything"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(reason(&refused), "STORE_FAILED", "{refused}");
    assert!(refused.message().contains("journal.sqlite3"), "{refused}");
    let known = client.list_commands(v1::ListCommandsRequest { limit: 1_000, ..Default::default() }).await.unwrap();
    let known: Vec<String> = known.into_inner().commands.into_iter().map(|c| c.id).collect();
    // All that was acknowledged, and nothing of what was refused.
    assert!(known.iter().rev().eq(&done.commands), "reads go on from what is durable: {known:?}");
    let waits = done.fact + 1;
    for _ in 0..3 {
        // A sidecar tries again and again: it is told so at its hello, or gets no acknowledgement.
        let mut peer = Peer::hello(&serving.url, "frontend", "i1").await;
        peer.claim(waits, "what waits in the spool").await;
        assert!(peer.hears_fact_ack().await.is_err(), "an acknowledgement of what is not on the disk");
    }
    mended();
    until("what waited is taken", || async {
        let mut peer = Peer::hello(&serving.url, "frontend", "i1").await;
        peer.claim(waits, "what waits in the spool").await;
        peer.hears_fact_ack().await.ok().filter(|acked| *acked == waits)
    })
    .await;
    done.fact = waits;
    work(serving, 3, done).await.unwrap();
    holds(serving, done).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let Some(command) = on_a_small_disk("a_disk_that_is_full_for_a_while", &config.plan, &config.data, "size=2m")
    else {
        return;
    };
    let mut serving = Serving::spawn(command);
    let mut done = Acknowledged::default();
    work(&serving, 5, &mut done).await.unwrap();
    there(&serving, "cat /dev/zero > \"$1/filler\" 2>&-; true", &config.data);
    nothing_is_acknowledged_until(&serving, &mut done, || there(&serving, "rm \"$1/filler\"", &config.data)).await;
    serving.terminate();
    serving.ended_within(Duration::from_secs(10));
}

#[test]
fn a_disk_that_takes_nothing_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let name = "a_disk_that_takes_nothing_at_the_start";
    for (options, word) in [("size=4k", "disk is full"), ("size=1m,ro", "ead-only")] {
        let Some(command) = on_a_small_disk(name, &config.plan, &config.data, options) else { return };
        let Err((status, said)) = Serving::try_spawn(command) else { panic!("{options}: it serves") };
        assert!(status.code().is_some_and(|code| code != 0), "{options}: {status}");
        assert!(said.contains(&config.data.display().to_string()) && said.contains(word), "{options}: {said}");
    }
}
