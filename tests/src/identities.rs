//! Identities as tests need them: made by the real command line, taken from a sidecar, asked for with requests of
//! openssl's making; and what an answer's refusal says.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use pitwall_proto::v1::{
    self, control_service_client::ControlServiceClient, identity_service_client::IdentityServiceClient,
};
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{binaries, client, surroundings};

/// The machine's reason of a refusal.
pub fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// `pitwall` as the local operator; it must succeed.
pub fn done(url: &str, args: &[&str]) -> String {
    let output = binaries::pitwall(url, args).output().expect("it can be started");
    assert!(output.status.success(), "pitwall {args:?}: {}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// An operator's identity by `pitwall identity create`, in `dir/NAME`.
pub fn create(dir: &Path, url: &str, name: &str, role: &str, more: &[&str]) -> PathBuf {
    let out = dir.join(name);
    let path = out.to_str().expect("UTF-8").to_owned();
    done(url, &[&["identity", "create", name, "--role", role, "--out", &path], more].concat());
    out
}

/// A sidecar's own identity, from the state directory in `dir/AGENT`, as the three files.
pub fn of_sidecar(dir: &Path, agent: &str) -> PathBuf {
    let text = fs::read_to_string(dir.join(agent).join("state/identity.json")).expect("it has joined");
    let kept: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let out = dir.join(format!("{agent}-identity"));
    fs::create_dir_all(&out).expect("the folder can be made");
    for (file, value) in [
        ("authority.pem", &kept["certificate"]["authority_pem"]),
        ("certificate.pem", &kept["certificate"]["certificate_pem"]),
        ("key.pem", &kept["key_pem"]),
    ] {
        fs::write(out.join(file), value.as_str().expect("PEM")).expect("the file can be written");
    }
    out
}

/// One call of a viewer, on a connection of its own.
pub async fn look(url: &str, identity: &Path) -> Result<v1::Situation, Status> {
    let channel = client::channel(url, Some(identity)).await;
    let answer = ControlServiceClient::new(channel).get_situation(v1::GetSituationRequest::default()).await?;
    Ok(answer.into_inner().situation.expect("it is always set"))
}

/// A connection that trusts the server's authority and shows no certificate.
pub async fn nobody(url: &str, data: &Path) -> Channel {
    let authority = fs::read(data.join("identity/authority.pem")).expect("the server has made it");
    let tls =
        tonic::transport::ClientTlsConfig::new().ca_certificate(tonic::transport::Certificate::from_pem(authority));
    let endpoint = Channel::from_shared(url.to_owned()).expect("a URL").tls_config(tls).expect("an authority");
    endpoint.connect().await.unwrap_or_else(|error| panic!("{url} does not answer: {error:?}"))
}

pub async fn enrol(url: &str, data: &Path, token: &str, signing_request: Vec<u8>) -> Result<v1::Certificate, Status> {
    let request = v1::EnrolRequest { token: token.trim().into(), signing_request };
    let answer = IdentityServiceClient::new(nobody(url, data).await).enrol(request).await?;
    Ok(answer.into_inner().certificate.expect("it is always set"))
}

/// A signing request by openssl with a key of its own, DER.
pub fn request(dir: &Path, subject: &str, extensions: &[&str]) -> Vec<u8> {
    let out = dir.join("request.der");
    let mut command = Command::new("openssl");
    command.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.arg("-keyout").arg(dir.join("request.key")).args(["-subj", subject, "-outform", "DER", "-out"]).arg(&out);
    for extension in extensions {
        command.args(["-addext", extension]);
    }
    let output = command.output().expect("openssl is there");
    assert!(output.status.success(), "{}", told(&output));
    fs::read(out).expect("openssl wrote it")
}

pub fn have_openssl(test: &str) -> bool {
    let found = Command::new("openssl").arg("version").output();
    surroundings::have(test, "openssl", found.map(|_| ()).map_err(|error| format!("openssl: {error}")))
}

/// What the audit log says, newest first.
pub fn audit(url: &str, args: &[&str]) -> Vec<v1::AuditEntry> {
    let text = done(url, &[&["audit", "--limit", "1000", "--output", "json"], args].concat());
    serde_json::from_str::<v1::ListAuditEntriesResponse>(&text).expect("the protocol's answer").entries
}
