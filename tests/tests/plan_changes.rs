//! A plan that changes while agents work: unchanged checks keep their evidence, changed ones become unknown.
use std::{fs, path::Path, time::Duration};

use pitwall_proto::v1::{self, AgentStatus, DeliverableStatus, Outcome};
use pitwall_tests::{
    binaries::{self, Server},
    client::{self, Client},
    plans,
};

const SOON: Duration = Duration::from_secs(3);

fn plan(contains: &str, more: &str) -> String {
    plans::with(&format!(
        "  writer:
    deliverables:
      page: {{ checks: [ {{ file: {{ path: page.md, contains: \"{contains}\" }} }}, \"file: style.css\" ] }}
{more}"
    ))
}

async fn apply(client: &mut Client, text: String) -> Result<v1::ApplyPlanResponse, tonic::Status> {
    let request = v1::ApplyPlanRequest { plan_yaml: text, file_name: "plan.yaml".into(), ..Default::default() };
    Ok(client.apply_plan(request).await?.into_inner())
}

fn write(dir: &Path, name: &str, text: &str) {
    let folder = dir.join("writer/workspace");
    fs::create_dir_all(&folder).expect("the folder can be made");
    fs::write(folder.join(name), text).expect("the file can be written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_generation_keeps_unchanged_evidence_and_forgets_what_changed() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plan("first", ""));
    let _sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let mut client = client::connect(&server.url).await;
    write(dir.path(), "page.md", "first and second\n");
    write(dir.path(), "style.css", "body {}\n");
    let is = |status| move |s: &v1::Situation| client::deliverable(s, "writer", "page").status() == status;
    client::until(&client, "the page is verified", SOON, is(DeliverableStatus::Verified)).await;

    // Nothing changed: no generation is made.
    let same = apply(&mut client, plan("first", "")).await.expect("applied");
    assert_eq!((same.generation, same.differences.len()), (1, 0), "{same:?}");

    // One check changes, an agent joins.
    let joined = "  reviewer: { expected_within: 1s, deliverables: { review: { needs: [writer/page], checks: [\"file: review.md\"] } } }\n";
    let next = apply(&mut client, plan("third", joined)).await.expect("applied");
    assert_eq!(next.generation, 2);
    assert!(next.differences.iter().any(|d| d.contains("reviewer")), "{next:?}");
    let situation = client::situation(&mut client).await;
    let page = client::deliverable(&situation, "writer", "page");
    assert_ne!(page.status(), DeliverableStatus::Verified, "evidence for the old rule proves nothing");
    let style = page.checks.iter().find(|c| c.id == "file:style.css").expect("the check is there");
    assert_eq!(style.outcome(), Outcome::Passed, "an unchanged check keeps its evidence");
    // Due is counted from the generation that added it.
    client::until(&client, "the new agent is missing", SOON, |s| client::status(s, "reviewer") == AgentStatus::Missing)
        .await;
    write(dir.path(), "page.md", "third\n");
    client::until(&client, "the page is verified by the new rule", SOON, is(DeliverableStatus::Verified)).await;

    // An agent leaves.
    let last = apply(&mut client, plan("third", "")).await.expect("applied");
    assert_eq!(last.generation, 3);
    let situation = client::situation(&mut client).await;
    assert!(situation.agents.iter().all(|a| a.name != "reviewer"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_with_mistakes_is_refused_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plan("first", ""));
    let mut client = client::connect(&server.url).await;
    let broken = plan("first", "  other: { deliverabels: { x: { checks: [\"file: x\"] } } }\n");
    let status = apply(&mut client, broken.clone()).await.expect_err("it has a mistake");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("deliverabels"), "{}", status.message());
    assert_eq!(client::situation(&mut client).await.generation, 1);

    let request = v1::CheckPlanRequest { plan_yaml: broken, file_name: "plan.yaml".into() };
    let checked = client.check_plan(request).await.expect("an answer").into_inner();
    assert!(!checked.valid);
    assert!(checked.mistakes.iter().any(|m| m.line > 0 && m.help.contains("deliverables")), "{checked:#?}");
}
