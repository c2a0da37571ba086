//! A client of the public API, with what tests look for.
use std::{fs, path::Path, time::Duration};

use pitwall_proto::v1::{self, control_service_client::ControlServiceClient};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::{binaries, wait};

pub type Client = ControlServiceClient<Channel>;

pub async fn connect(url: &str) -> Client {
    ControlServiceClient::new(channel(url, binaries::operator(url).as_deref()).await)
}

/// With the credential of this directory; without one: plaintext.
pub async fn channel(url: &str, identity: Option<&Path>) -> Channel {
    try_channel(url, identity).await.unwrap_or_else(|error| panic!("{url} does not answer: {error:?}"))
}

pub async fn try_channel(url: &str, identity: Option<&Path>) -> Result<Channel, tonic::transport::Error> {
    endpoint(url, identity)?.connect().await
}

/// What a channel is made of, for whoever wants it otherwise.
pub fn endpoint(url: &str, identity: Option<&Path>) -> Result<Endpoint, tonic::transport::Error> {
    let mut endpoint = Channel::from_shared(url.to_owned()).expect("a URL");
    if let Some(directory) = identity {
        let read = |name: &str| fs::read(directory.join(name)).expect("an identity has three files");
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read("authority.pem")))
            .identity(Identity::from_pem(read("certificate.pem"), read("key.pem")));
        endpoint = endpoint.tls_config(tls)?;
    }
    Ok(endpoint)
}

pub async fn situation(client: &mut Client) -> v1::Situation {
    let answer = client.get_situation(v1::GetSituationRequest::default()).await.expect("a situation");
    answer.into_inner().situation.expect("it is always set")
}

/// Waits until the situation fits.
pub async fn until(
    client: &Client,
    what: &str,
    promised: Duration,
    fits: impl Fn(&v1::Situation) -> bool,
) -> v1::Situation {
    wait::until(what, promised, || {
        let mut client = client.clone();
        let fits = &fits;
        async move {
            let now = situation(&mut client).await;
            fits(&now).then_some(now)
        }
    })
    .await
}

pub fn agent<'a>(situation: &'a v1::Situation, name: &str) -> &'a v1::Agent {
    situation.agents.iter().find(|a| a.name == name).unwrap_or_else(|| panic!("no agent {name}"))
}

pub fn status(situation: &v1::Situation, name: &str) -> v1::AgentStatus {
    agent(situation, name).status()
}

pub fn deliverable<'a>(situation: &'a v1::Situation, agent_name: &str, name: &str) -> &'a v1::Deliverable {
    let own = &agent(situation, agent_name).deliverables;
    own.iter().find(|d| d.name == name).unwrap_or_else(|| panic!("no deliverable {agent_name}/{name}"))
}

pub fn finding<'a>(situation: &'a v1::Situation, kind: v1::FindingKind, subject: &str) -> Option<&'a v1::Finding> {
    situation.findings.iter().find(|f| f.kind() == kind && f.subject == subject)
}

pub async fn issue(
    client: &mut Client,
    agent: &str,
    kind: v1::command_spec::Kind,
) -> Result<v1::Command, tonic::Status> {
    let request = v1::IssueCommandRequest {
        agent: agent.into(),
        spec: Some(v1::CommandSpec { kind: Some(kind) }),
        origin: "test".into(),
        ..Default::default()
    };
    Ok(client.issue_command(request).await?.into_inner().command.expect("it is always set"))
}

pub async fn command(client: &mut Client, id: &str) -> v1::Command {
    let request = v1::ListCommandsRequest { id: id.into(), ..Default::default() };
    let mut listed = client.list_commands(request).await.expect("commands").into_inner().commands;
    assert_eq!(listed.len(), 1, "command {id}");
    listed.remove(0)
}

/// Waits until the command is in one of these states.
pub async fn until_state(client: &Client, id: &str, promised: Duration, states: &[v1::CommandState]) -> v1::Command {
    wait::until(&format!("{id} in {states:?}"), promised, || {
        let mut client = client.clone();
        async move {
            let now = command(&mut client, id).await;
            states.contains(&now.state()).then_some(now)
        }
    })
    .await
}
