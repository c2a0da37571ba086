//! A journal is copied while it is written, looked through, and brought back as another history.
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Output, time::Duration};

use pitwall_proto::v1::{self, AgentStatus, CommandState, DeliverableStatus, FindingKind, command_spec::Kind};
use pitwall_tests::{
    binaries::{self, Server},
    client, plans, wait,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(3);
/// A sidecar comes back.
const AGAIN: Duration = Duration::from_secs(10);

fn journal(args: &[&str]) -> (Option<i32>, Value) {
    let mut command = std::process::Command::new(binaries::path("pitwall"));
    let Output { status, stdout, stderr } =
        command.arg("journal").args(args).args(["--output", "json"]).output().expect("it runs");
    let said = if stdout.is_empty() { &stderr } else { &stdout };
    (status.code(), serde_json::from_slice(said).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(said))))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn directive(text: &str) -> Kind {
    Kind::Directive(v1::Directive { text: text.into(), ..Default::default() })
}

fn notes(dir: &Path) -> usize {
    fs::read_dir(dir.join("writer/inbox")).expect("the inbox").count()
}

fn two_agents() -> String {
    let owed = "deliverables: { page: { checks: [ { file: { path: app/page.tsx } } ] } }";
    plans::with(&format!("  writer: {{ {owed} }}\n  absent: {{ {owed} }}\n"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_brought_back_is_another_history_which_every_sidecar_fills_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let server = Server::start(dir.path(), &two_agents());
    let address = server.address().to_owned();
    let _sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let mut client = client::connect(&server.url).await;
    client::until(&client, "the agent is active", SOON, |s| client::status(s, "writer") == AgentStatus::Active).await;
    let done = client::issue(&mut client, "writer", directive("before")).await.expect("issued");
    client::until_state(&client, &done.id, SOON, &[CommandState::Succeeded]).await;
    let waits = client::issue(&mut client, "absent", directive("waits")).await.expect("issued");

    // While the server writes.
    let (code, accounts) = journal(&["backup", "--data", text(&data), text(&copy)]);
    assert_eq!(code, Some(0), "{accounts:#}");
    let (code, error) = journal(&["backup", "--data", text(&data), text(&copy)]);
    assert_eq!(code, Some(64), "never over another: {error:#}");
    let (code, verified) = journal(&["verify", text(&copy)]);
    assert_eq!((code, &verified), (Some(0), &accounts));
    let (code, error) = journal(&["restore", text(&copy), "--data", text(&data)]);
    assert_eq!(code, Some(3), "not under a server that runs: {error:#}");

    // What comes later is lost with the journal, and still known to the sidecar.
    let later = client::issue(&mut client, "writer", directive("after")).await.expect("issued");
    client::until_state(&client, &later.id, SOON, &[CommandState::Succeeded]).await;
    fs::create_dir_all(dir.path().join("writer/workspace/app")).expect("the folder can be made");
    fs::write(dir.path().join("writer/workspace/app/page.tsx"), "done\n").expect("written");
    let verified = |s: &v1::Situation| client::deliverable(s, "writer", "page").status() == DeliverableStatus::Verified;
    let before = client::until(&client, "the page is verified", SOON, verified).await;
    server.process.kill();
    let (code, restored) = journal(&["restore", text(&copy), "--data", text(&data)]);
    assert_eq!(code, Some(0), "{restored:#}");
    assert_eq!(restored["doubted"], 1);
    let kept = Path::new(restored["replaced"].as_str().expect("what was there")).to_owned();
    let (code, as_it_was) = journal(&["verify", text(&kept)]);
    // The killed server's last events were in a log beside its journal.
    let last = before.revision.as_ref().expect("set").sequence;
    assert_eq!(code, Some(0));
    assert!(as_it_was[0]["events"].as_u64() >= Some(last), "{as_it_was:#} is kept whole, to event {last}");
    let files = fs::read_dir(&data).expect("the data").flatten().map(|e| e.file_name());
    let left: Vec<_> = files.filter(|name| name.to_string_lossy().contains(".partial")).collect();
    assert!(left.is_empty(), "{left:?}");
    let mode = fs::metadata(data.join("journal.sqlite3")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "nobody else reads it");

    let server = Server::serve(&dir.path().join("plan.yaml"), &data, &address);
    let mut client = client::connect(&server.url).await;
    let after = client::until(&client, "the sidecar tells it again", Duration::from_secs(10), verified).await;
    let (old, new) = (before.revision.expect("set"), after.revision.expect("set"));
    assert_ne!(old.lineage, new.lineage);
    assert_eq!(client::command(&mut client, &done.id).await.state(), CommandState::Succeeded);
    let doubted = client::command(&mut client, &waits.id).await;
    assert_eq!(doubted.state(), CommandState::Unknown, "{doubted:#?}");
    let next = client::issue(&mut client, "writer", directive("in the new history")).await.expect("issued");
    client::until_state(&client, &next.id, SOON, &[CommandState::Succeeded]).await;
    assert_eq!(notes(dir.path()), 3, "each directive once, the lost one too");
}

/// The finding that a restore opens.
fn restored(situation: &v1::Situation) -> String {
    client::finding(situation, FindingKind::JournalRestored, "e2e").map_or(String::new(), |f| f.message.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_the_situation_becomes_the_truth_and_a_finding_says_what_may_be_lost() {
    let dir = tempfile::tempdir().expect("a folder");
    let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let check = |path: &str| format!("{{ checks: [ {{ file: {{ path: {path} }} }} ] }}");
    let plan = plans::with(&format!(
        "  writer:\n    deliverables:\n      page: {}\n      model: {}\n  silent: {{ deliverables: {{ page: {} }} }}\n",
        check("page.tsx"),
        check("model.ts"),
        check("page.tsx")
    ));
    let server = Server::start(dir.path(), &plan);
    let address = server.address().to_owned();
    let _writer = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let silent = binaries::sidecar(dir.path(), &server.url, "silent", &["--", "sleep", "600"]);
    let mut client = client::connect(&server.url).await;
    let active = |s: &v1::Situation| ["writer", "silent"].iter().all(|a| client::status(s, a) == AgentStatus::Active);
    client::until(&client, "both are active", SOON, active).await;
    let folder = dir.path().join("writer/workspace");
    let is = |s: &v1::Situation, name: &str, status| client::deliverable(s, "writer", name).status() == status;
    fs::write(folder.join("page.tsx"), "done\n").expect("written");
    client::until(&client, "the page", SOON, |s| is(s, "page", DeliverableStatus::Verified)).await;
    assert_eq!(journal(&["backup", "--data", text(&data), text(&copy)]).0, Some(0));

    // After the backup: facts that the lost history acknowledged, and that the sidecar still holds.
    fs::write(folder.join("model.ts"), "done\n").expect("written");
    let claim = |share: f64| {
        fs::create_dir_all(folder.join(".pitwall")).expect("made");
        fs::write(folder.join(".pitwall/claim.json"), format!("{{\"progress\": {share}}}")).expect("written");
    };
    claim(0.5);
    let told = |s: &v1::Situation, share| {
        is(s, "model", DeliverableStatus::Verified) && client::agent(s, "writer").claimed == Some(share)
    };
    client::until(&client, "the model and the claim", SOON, |s| told(s, 0.5)).await;
    let later = client::issue(&mut client, "writer", directive("later")).await.expect("issued");
    client::until_state(&client, &later.id, SOON, &[CommandState::Succeeded]).await;
    // Facts that no orchestrator ever saw.
    server.process.kill();
    let outlived = silent.kill();
    fs::remove_file(folder.join("page.tsx")).expect("removed");
    claim(0.9);

    assert_eq!(journal(&["restore", text(&copy), "--data", text(&data)]).0, Some(0));
    let server = Server::serve(&dir.path().join("plan.yaml"), &data, &address);
    let mut client = client::connect(&server.url).await;
    let message = restored(&client::situation(&mut client).await);
    assert!(message.contains("restored from a backup that ends with event"), "{message}");
    assert!(message.contains("not told again yet by silent"), "{message}");
    let truth = |s: &v1::Situation| told(s, 0.9) && is(s, "page", DeliverableStatus::Regressed);
    client::until(&client, "the truth", Duration::from_secs(10), truth).await;
    let lost = |s: &v1::Situation| {
        restored(s).ends_with("the others have told it again; lost, and told when it returns: silent")
    };
    client::until(&client, "who is lost is named", Duration::from_secs(10), lost).await;
    assert_eq!(notes(dir.path()), 1, "the lost directive was carried out, once");
    let _silent = binaries::sidecar(dir.path(), &server.url, "silent", &["--", "sleep", "600"]);
    let all = |s: &v1::Situation| restored(s).ends_with("all of them have told it again") && active(s);
    client::until(&client, "all have told again", Duration::from_secs(10), all).await;
    outlived.into_iter().for_each(binaries::Outlived::is_anothers_now);
}

/// As when a whole machine is set back: the mark beside the journal is as old as the journal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_whole_directory_is_noticed_and_no_command_is_taken_for_one_of_then() {
    let dir = tempfile::tempdir().expect("a folder");
    let (data, old) = (dir.path().join("data"), dir.path().join("old"));
    let server = Server::start(dir.path(), &two_agents());
    let address = server.address().to_owned();
    let _sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let done = async |server: &Server, text: &str| {
        let mut client = client::connect(&server.url).await;
        client::until(&client, "it is active", AGAIN, |s| client::status(s, "writer") == AgentStatus::Active).await;
        let id = client::issue(&mut client, "writer", directive(text)).await.expect("issued").id;
        client::until_state(&client, &id, AGAIN, &[CommandState::Succeeded]).await;
        id
    };
    done(&server, "first").await;
    server.process.kill();
    let copied = std::process::Command::new("cp").arg("-a").args([&data, &old]).status().expect("cp runs");
    assert!(copied.success());
    let again = || Server::serve(&dir.path().join("plan.yaml"), &data, &address);
    let server = again();
    let lost = done(&server, "lost with the journal").await;
    server.process.kill();
    fs::remove_dir_all(&data).expect("removed");
    fs::rename(&old, &data).expect("set back");

    let server = again();
    let client = client::connect(&server.url).await;
    let noticed = |s: &v1::Situation| restored(s).starts_with("an older copy took the journal's place");
    client::until(&client, "it is noticed", AGAIN, noticed).await;
    let next = done(&server, "and after").await;
    assert_ne!(next, lost, "an id that the sidecar has seen");
    assert_eq!(notes(dir.path()), 3, "each one was carried out");
}

#[test]
fn a_damaged_journal_is_told_and_never_brought_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let server = Server::start(dir.path(), &two_agents());
    wait::until_sync("a journal", SOON, || data.join("journal.sqlite3").exists().then_some(()));
    assert_eq!(journal(&["backup", "--data", text(&data), text(&copy)]).0, Some(0));
    drop(server);
    let good = fs::read(&copy).expect("the copy");
    let other = dir.path().join("other");
    // One bit inside what an event says: the file as such is in order.
    let mut flipped = good.clone();
    let at = good.windows(8).position(|window| window == b"page.tsx").expect("the plan is in the journal");
    flipped[at] ^= 1;
    for (what, bytes) in [
        ("truncated", good[..good.len() / 2].to_vec()),
        ("no database", b"no database at all".repeat(100)),
        ("empty", Vec::new()),
        ("a flipped bit", flipped),
    ] {
        let bad = dir.path().join("bad");
        fs::write(&bad, bytes).expect("written");
        let (code, error) = journal(&["verify", text(&bad)]);
        assert_eq!(code, Some(1), "{what}: {error:#}");
        let (code, _) = journal(&["restore", text(&bad), "--data", text(&other)]);
        assert_eq!(code, Some(1), "{what}");
        assert!(!other.join("journal.sqlite3").exists(), "{what}: nothing half-applied");
    }
    assert_eq!(journal(&["verify", text(&dir.path().join("absent"))]).0, Some(64));
    assert_eq!(journal(&["restore", text(&copy), "--data", text(&other)]).0, Some(0));
    assert_eq!(journal(&["verify", text(&other)]).0, Some(0));
}
