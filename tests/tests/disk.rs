//! The orchestrator's disk is full for a while: what it did not acknowledge stays with the sidecar, and comes afterwards.
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use pitwall_proto::v1::{self, AgentStatus, CommandState, DeliverableStatus, command_spec::Kind};
use pitwall_tests::{
    binaries::{self, Server},
    client, plans, surroundings, wait,
};

const SAID: &str = "nearly there, says the agent";
const SOON: Duration = Duration::from_secs(3);
/// The longest wait of either side before it tries again.
const AGAIN: Duration = Duration::from_secs(15);

fn there(server: &Server, script: &str) {
    let pid = server.process.pid().to_string();
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid, "-m", "sh", "-c", script, "sh"]).arg(&server.data).stderr(Stdio::null());
    command.status().expect("nsenter runs");
}

/// A server whose data directory is a small disk of its own.
fn on_a_small_disk(dir: &Path, test: &str) -> Option<Server> {
    let (plan, data) = (dir.join("plan.yaml"), dir.join("data"));
    fs::create_dir(&data).expect("made");
    fs::write(&plan, plans::writer()).expect("written");
    let inside = |more: &[&str]| {
        let mut command = Command::new("unshare");
        let mount = "mount -t tmpfs -o size=2m tmpfs \"$1\" && shift && exec \"$@\"";
        command.args(["-m", "sh", "-c", mount, "sh"]).arg(&data).args(more);
        command
    };
    let found = match inside(&["true"]).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    };
    if !surroundings::have(test, "mountns", found) {
        return None;
    }
    let program = binaries::path("pitwall");
    let mut command = inside(&[]);
    command.arg(program).args(["serve", "--insecure", "--listen", "127.0.0.1:0", "--plan"]).arg(&plan);
    Some(Server::spawn(
        {
            command.arg("--data").arg(&data);
            command
        },
        &data,
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_disk_did_not_take_waits_with_the_sidecar_and_comes_when_there_is_room() {
    let dir = tempfile::tempdir().expect("a folder");
    let name = "what_a_full_disk_did_not_take_waits_with_the_sidecar_and_comes_when_there_is_room";
    let Some(server) = on_a_small_disk(dir.path(), name) else { return };
    let _sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let mut client = client::connect(&server.url).await;
    client::until(&client, "the agent is active", SOON, |s| client::status(s, "writer") == AgentStatus::Active).await;
    let directive = |text: String| Kind::Directive(v1::Directive { text, ..Default::default() });
    let first = client::issue(&mut client, "writer", directive("first".into())).await.expect("issued");
    client::until_state(&client, &first.id, SOON, &[CommandState::Succeeded]).await;

    there(&server, "cat /dev/zero > \"$1/filler\"");
    // There may be room for a little more in what the journal has already.
    let mut issued = Vec::new();
    let refused = loop {
        match client::issue(&mut client, "writer", directive("x".repeat(30_000))).await {
            Ok(command) => issued.push(command.id),
            Err(refused) => break refused,
        }
        assert!(issued.len() < 200, "the disk is not full");
    };
    assert!(refused.message().contains("journal.sqlite3") && refused.message().contains("free space"), "{refused}");
    // Work that is done meanwhile.
    let folder = dir.path().join("writer/workspace");
    fs::create_dir_all(folder.join("app")).expect("made");
    fs::write(folder.join("app/page.tsx"), "export default 1\n").expect("written");
    fs::create_dir_all(folder.join(".pitwall")).expect("made");
    fs::write(folder.join(".pitwall/claim.json"), format!("{{\"progress\": 0.7, \"text\": \"{SAID}\"}}"))
        .expect("written");
    let known = |s: &v1::Situation| {
        let page = client::deliverable(s, "writer", "page").status();
        page == DeliverableStatus::Verified && client::agent(s, "writer").claimed == Some(0.7)
    };
    wait::until_sync("it waits in the sidecar's spool", AGAIN, || {
        let files = fs::read_dir(dir.path().join("writer/state")).expect("the state").flatten();
        let mut bytes = files.filter_map(|file| fs::read(file.path()).ok());
        bytes.any(|bytes| bytes.windows(SAID.len()).any(|w| w == SAID.as_bytes())).then_some(())
    });
    // The orchestrator fails on, each time that it hears of it.
    let failed = || server.process.stderr().iter().filter(|line| line.contains("the journal still fails")).count();
    let before = failed();
    wait::until_sync("the journal fails again", AGAIN, || (failed() > before).then_some(()));
    assert!(!known(&client::situation(&mut client).await), "nothing is shown that is not on the disk");

    there(&server, "rm \"$1/filler\"");
    client::until(&client, "what waited came", AGAIN, known).await;
    for id in &issued {
        client::until_state(&client, id, AGAIN, &[CommandState::Succeeded]).await;
    }
    let notes = fs::read_dir(dir.path().join("writer/inbox")).expect("the inbox").count();
    assert_eq!(notes, 1 + issued.len(), "each directive that was acknowledged, once, and none that was refused");
}
