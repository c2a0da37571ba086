//! Who is let in, as what, and for how long: every refusal by a real client against the real server, with its reason, and
//! the audit log that has it.
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use pitwall_proto::v1::{
    self, AgentStatus, FindingKind, control_service_client::ControlServiceClient,
    identity_service_client::IdentityServiceClient, sidecar_service_client::SidecarServiceClient,
};
use pitwall_tests::{
    binaries::{self, Server},
    client,
    identities::{self, audit, create, look, reason},
    plans, wait,
};
use tonic::{Code, Status};

/// What the product promises for a stream whose identity counts no more.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(3);

fn two() -> String {
    plans::with(
        "  writer:
    deliverables: { page: { checks: [\"file: page.md\"] } }
  reader:
    deliverables: { notes: { checks: [\"file: notes.md\"] } }
",
    )
}

fn audited(url: &str, expected: &str) -> v1::AuditEntry {
    wait::until_sync(&format!("{expected} in the audit log"), SOON, || {
        audit(url, &["--refused"]).into_iter().find(|entry| entry.reason == expected)
    })
}

/// Opens a watch and hands over its first message.
async fn watch(url: &str, identity: &Path) -> Result<tonic::Streaming<v1::WatchResponse>, Status> {
    let mut api = ControlServiceClient::new(client::channel(url, Some(identity)).await);
    let mut stream = api.watch(v1::WatchRequest::default()).await?.into_inner();
    stream.message().await?;
    Ok(stream)
}

/// How a stream ends, and when.
async fn end(stream: &mut tonic::Streaming<v1::WatchResponse>) -> (Status, Instant) {
    loop {
        match tokio::time::timeout(Duration::from_secs(60), stream.message()).await.expect("it ends") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a reason"),
            Err(status) => return (status, Instant::now()),
        }
    }
}

async fn hello(url: &str, identity: &Path, agent: &str) -> Status {
    let mut api = SidecarServiceClient::new(client::channel(url, Some(identity)).await);
    let hello = v1::Hello { agent: agent.into(), instance: "i".into(), life: 1, ..Default::default() };
    let first = v1::ConnectRequest { seq: 1, ack: 0, body: Some(v1::connect_request::Body::Hello(hello)) };
    match api.connect(tokio_stream::iter([first])).await {
        Err(status) => status,
        Ok(answer) => match answer.into_inner().message().await {
            Err(status) => status,
            Ok(said) => panic!("not refused: {said:?}"),
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_there_is_nothing_but_joining() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &two());
    let channel = identities::nobody(&server.url, &server.data).await;
    let refused = ControlServiceClient::new(channel.clone()).get_situation(v1::GetSituationRequest::default()).await;
    let status = refused.expect_err("it shows nothing");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "CERTIFICATE_MISSING"));
    let mut api = IdentityServiceClient::new(channel);
    let refused = api.renew(v1::RenewRequest::default()).await.expect_err("there is nothing to renew");
    assert_eq!(reason(&refused), "CERTIFICATE_MISSING");
    assert_eq!(audited(&server.url, "CERTIFICATE_MISSING").who, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_authoritys_certificate_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &two());
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("the folder can be made");
    let other = Server::start(&elsewhere, &two());
    let operator = |server: &Server| server.data.join("identity/operator");

    // A client that trusts this server, with that one's certificate.
    let mixed = dir.path().join("mixed");
    fs::create_dir(&mixed).expect("the folder can be made");
    for (from, file) in [(&server, "authority.pem"), (&other, "certificate.pem"), (&other, "key.pem")] {
        fs::copy(operator(from).join(file), mixed.join(file)).expect("it can be copied");
    }
    let refused = look(&server.url, &mixed).await.expect_err("it is another authority's");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "CERTIFICATE_UNTRUSTED"));
    let token = identities::done(&server.url, &["token", "create", "--agent", "writer"]);
    let mut api = IdentityServiceClient::new(client::channel(&server.url, Some(&mixed)).await);
    let enrol = v1::EnrolRequest { token: token.trim().into(), ..Default::default() };
    assert_eq!(reason(&api.enrol(enrol).await.expect_err("nor may it join")), "CERTIFICATE_UNTRUSTED");
    assert_eq!(audited(&server.url, "CERTIFICATE_UNTRUSTED").who, "");

    // And a client does not take this server for the other one.
    let error = client::try_channel(&server.url, Some(&operator(&other))).await.expect_err("it is not that one");
    assert!(format!("{error:?}").contains("UnknownIssuer"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_ends_its_stream_and_opens_no_other() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &two());
    let ann = create(dir.path(), &server.url, "ann", "viewer", &["--ttl", "8s"]);
    let made = Instant::now();
    let mut stream = watch(&server.url, &ann).await.expect("it counts still");
    let (status, at) = end(&mut stream).await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "CERTIFICATE_EXPIRED"));
    // A certificate counts whole seconds.
    let took = at.duration_since(made);
    assert!(took < Duration::from_secs(9) + ENDS_WITHIN, "{took:?}");
    let refused = look(&server.url, &ann).await.expect_err("it has expired");
    assert_eq!(reason(&refused), "CERTIFICATE_EXPIRED");
    assert_eq!(audited(&server.url, "CERTIFICATE_EXPIRED").who, "spiffe://pitwall/operator/viewer/ann");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_ends_its_stream_and_opens_no_other() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &two());
    let ann = create(dir.path(), &server.url, "ann", "viewer", &[]);
    let mut stream = watch(&server.url, &ann).await.expect("it counts");
    identities::done(&server.url, &["identity", "revoke", "ann"]);
    let revoked = Instant::now();
    let (status, at) = end(&mut stream).await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "CERTIFICATE_REVOKED"));
    assert!(at.duration_since(revoked) < ENDS_WITHIN, "{:?}", at.duration_since(revoked));
    let refused = look(&server.url, &ann).await.expect_err("it was revoked");
    assert_eq!(reason(&refused), "CERTIFICATE_REVOKED");
    let entry = audit(&server.url, &[]).into_iter().find(|entry| entry.call == "IdentityService/RevokeIdentity");
    let entry = entry.expect("it is in the audit log");
    assert_eq!((entry.outcome.as_str(), entry.what.as_str()), ("OK", "revoke ann"));
    assert_eq!(entry.who, "spiffe://pitwall/operator/admin/local");
    // Still so after a restart.
    let data = server.data.clone();
    drop(server);
    let server = Server::serve(&dir.path().join("plan.yaml"), &data, "127.0.0.1:0");
    let refused = look(&server.url, &ann).await.expect_err("it was revoked");
    assert_eq!(reason(&refused), "CERTIFICATE_REVOKED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_is_revoked_loses_its_stream_and_joins_again_with_a_new_token() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &two());
    let sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let client = client::connect(&server.url).await;
    let live = |s: &v1::Situation| client::status(s, "writer") == AgentStatus::Active;
    client::until(&client, "the sidecar joined and reports", SOON, live).await;
    identities::done(&server.url, &["identity", "revoke", "writer"]);
    let revoked = Instant::now();
    wait::until_sync("the sidecar is told", ENDS_WITHIN, || {
        sidecar.stderr().iter().any(|line| line.contains("CERTIFICATE_REVOKED")).then_some(())
    });
    assert!(revoked.elapsed() < ENDS_WITHIN, "{:?}", revoked.elapsed());
    client::until(&client, "its agent is lost", SOON, |s| client::status(s, "writer") == AgentStatus::Lost).await;
    binaries::token(&server.url, "writer", &dir.path().join("writer/token"));
    client::until(&client, "the sidecar joined again", Duration::from_secs(15), live).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_for_one_side_and_one_agent() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &two());
    let sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let client = client::connect(&server.url).await;
    client::until(&client, "the sidecar joined", SOON, |s| client::status(s, "writer") == AgentStatus::Active).await;
    let writer = identities::of_sidecar(dir.path(), "writer");
    drop(sidecar);

    let refused = look(&server.url, &writer).await.expect_err("it is a sidecar's");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "OPERATOR_ONLY"));
    let operator = binaries::operator(&server.url).expect("it has one");
    let refused = hello(&server.url, &operator, "writer").await;
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "SIDECAR_ONLY"));
    let refused = hello(&server.url, &writer, "reader").await;
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "AGENT_FOREIGN"));

    let entry = audited(&server.url, "AGENT_FOREIGN");
    assert_eq!(entry.who, "spiffe://pitwall/agent/e2e/writer");
    assert_eq!((entry.call.as_str(), entry.what.as_str()), ("SidecarService/Connect", "hello for agent reader"));
    for expected in ["OPERATOR_ONLY", "SIDECAR_ONLY"] {
        audited(&server.url, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_reads_an_operator_commands_and_an_admin_makes_identities() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &two());
    let run = |identity: &Path, args: &[&str]| {
        let mut command = std::process::Command::new(binaries::path("pitwall"));
        command.args(args).args(["--orchestrator", &server.url]).arg("--identity").arg(identity);
        let output = command.output().expect("it can be started");
        (output.status.code(), identities::told(&output))
    };
    let [viewer, operator] = ["viewer", "operator"].map(|role| create(dir.path(), &server.url, role, role, &[]));
    let tell = ["tell", "writer", "hello", "--no-wait"];
    assert_eq!(run(&viewer, &["status"]).0, Some(0));
    let (code, told) = run(&viewer, &tell);
    assert!(code == Some(3) && told.contains("ROLE_INSUFFICIENT"), "{code:?} {told}");
    let (code, told) = run(&operator, &tell);
    assert_eq!(code, Some(0), "{told}");
    for args in [&["token", "create", "--agent", "writer"][..], &["identity", "list"], &["audit"]] {
        let (code, told) = run(&operator, args);
        assert!(code == Some(3) && told.contains("ROLE_INSUFFICIENT"), "{args:?}: {code:?} {told}");
    }
    // What was made for a while stays for a while.
    let mut api = IdentityServiceClient::new(client::channel(&server.url, Some(&viewer)).await);
    let refused = api.renew(v1::RenewRequest::default()).await.expect_err("its end was said when it was made");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "SIDECAR_ONLY"));
    let refused = audited(&server.url, "ROLE_INSUFFICIENT");
    assert!(refused.who.starts_with("spiffe://pitwall/operator/"), "{refused:?}");
    // The command is in the ledger and in the log under the name in the certificate.
    let listed = identities::done(&server.url, &["commands", "--output", "json"]);
    assert!(listed.contains("\"origin\": \"operator\""), "{listed}");
    let entries = audit(&server.url, &["--who", "operator"]);
    let told = entries.iter().find(|e| e.call == "ControlService/IssueCommand" && e.outcome == "OK");
    assert_eq!(told.map(|e| e.what.as_str()), Some("tell writer: hello"), "{entries:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_for_one_key_and_another_one_is_a_finding() {
    const TEST: &str = "a_token_is_for_one_key_and_another_one_is_a_finding";
    if !identities::have_openssl(TEST) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &two());
    let (url, data) = (&server.url, &server.data);
    let token = identities::done(url, &["token", "create", "--agent", "writer", "--ttl", "1m"]);
    let first = identities::request(dir.path(), "/", &[]);
    let made = identities::enrol(url, data, &token, first.clone()).await.expect("it is new");
    assert_eq!(made.subject, "spiffe://pitwall/agent/e2e/writer");
    // The answer was lost: the same key may ask again.
    identities::enrol(url, data, &token, first).await.expect("the same key");
    let second = identities::request(dir.path(), "/", &[]);
    let refused = identities::enrol(url, data, &token, second).await.expect_err("another key");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "TOKEN_SPENT"));
    audited(url, "TOKEN_SPENT");
    let client = client::connect(url).await;
    let found = |s: &v1::Situation| client::finding(s, FindingKind::TokenMisused, "writer").is_some();
    client::until(&client, "the finding opens", SOON, found).await;
    assert!(identities::done(url, &["identity", "list", "--all"]).contains("tried with another key"));

    // One that expired, one that is none, and one that another orchestrator made.
    let short = identities::done(url, &["token", "create", "--agent", "writer", "--ttl", "1ms"]);
    let request = identities::request(dir.path(), "/", &[]);
    let refused = identities::enrol(url, data, &short, request.clone()).await.expect_err("it has expired");
    assert_eq!(reason(&refused), "TOKEN_EXPIRED");
    let refused = identities::enrol(url, data, "pw1.nonsense", request.clone()).await.expect_err("it is none");
    assert_eq!(reason(&refused), "TOKEN_MALFORMED");
    let mut foreign = token.trim().to_owned();
    foreign.replace_range(4..8, "AAAA");
    let refused = identities::enrol(url, data, &foreign, request).await.expect_err("it is not known");
    assert_eq!(reason(&refused), "TOKEN_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_asks_for_more_than_its_token_grants_is_refused() {
    const TEST: &str = "a_request_that_asks_for_more_than_its_token_grants_is_refused";
    if !identities::have_openssl(TEST) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &two());
    let token = identities::done(&server.url, &["token", "create", "--agent", "writer"]);
    let more: [(&str, &[&str]); 6] = [
        ("/CN=reader", &[]),
        ("/O=admins", &[]),
        ("/", &["subjectAltName=URI:spiffe://pitwall/operator/admin/writer"]),
        ("/", &["subjectAltName=DNS:localhost"]),
        ("/", &["basicConstraints=critical,CA:TRUE"]),
        ("/", &["extendedKeyUsage=serverAuth"]),
    ];
    for (subject, extensions) in more {
        let request = identities::request(dir.path(), subject, extensions);
        let refused = identities::enrol(&server.url, &server.data, &token, request).await.expect_err("it is too much");
        let told = (refused.code(), reason(&refused));
        assert_eq!(told, (Code::PermissionDenied, "REQUEST_ASKS_FOR_MORE".into()), "{subject} {extensions:?}");
    }
    audited(&server.url, "REQUEST_ASKS_FOR_MORE");
    // The token is good still, and what it grants is in the certificate, nothing of the request.
    let request = identities::request(dir.path(), "/CN=writer", &["keyUsage=digitalSignature"]);
    let made = identities::enrol(&server.url, &server.data, &token, request).await.expect("that is granted");
    let file = dir.path().join("made.pem");
    fs::write(&file, made.certificate_pem).expect("it can be written");
    let output = std::process::Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&file).output();
    let text = identities::told(&output.expect("openssl is there"));
    for part in ["URI:spiffe://pitwall/agent/e2e/writer", "TLS Web Client Authentication", "CA:FALSE"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("Server Authentication"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_without_dropping_the_stream() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start_with(dir.path(), &two(), &["--certificate-life", "20s"]);
    let sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    let client = client::connect(&server.url).await;
    let live = |s: &v1::Situation| client::status(s, "writer") == AgentStatus::Active;
    client::until(&client, "the sidecar joined", SOON, live).await;
    let began = Instant::now();
    let renewed = || audit(&server.url, &["--who", "writer"]).iter().filter(|e| e.call.ends_with("/Renew")).count();
    wait::until_sync("two renewals, and more than one life", Duration::from_secs(30), || {
        (renewed() >= 2 && began.elapsed() > Duration::from_secs(25)).then_some(())
    });
    let lost: Vec<String> = sidecar
        .stderr()
        .into_iter()
        .filter(|line| line.contains("no session") || line.contains("not renewed"))
        .collect();
    assert_eq!(lost, [] as [String; 0]);
    assert!(live(&client::situation(&mut client.clone()).await));
    // With what is kept it connects again after a restart, without a token.
    drop(sidecar);
    fs::remove_file(dir.path().join("writer/token")).expect("it was there");
    let _sidecar = binaries::sidecar(dir.path(), &server.url, "writer", &["--", "sleep", "600"]);
    client::until(&client, "it is back", SOON, live).await;
}
