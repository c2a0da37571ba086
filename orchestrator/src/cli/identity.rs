//! `pitwall setup`, `token`, `identity` and `audit`: who may talk to the orchestrator, and what they did. Keys are made
//! here and stay here; the orchestrator sees a signing request.
use std::{io::Write as _, path::Path, time::Duration};

use pitwall_core::plan;
use pitwall_proto::v1;
use serde::Serialize;

use super::{
    args::{Audit, IdentityAction, RoleWord, Setup, TokenAction},
    client::{Client, within},
    exit::{CliError, Exit, Result},
    input,
    out::{Out, now},
    render::identities as render,
};
use crate::{
    identity::{
        credentials::{self, Credentials},
        files, request, setup,
    },
    serve::{identity_failed, lock_failed},
    store::{DataDir, LockError},
};

#[derive(Serialize)]
struct Made<'a> {
    agent: &'a str,
    secret: &'a Path,
    state: &'static str,
}

pub fn setup(out: Out, asked: &Setup) -> Result<()> {
    let text = input::read(&asked.plan, plan::TEXT_MAX, "plan")?;
    let parsed = plan::parse(&text, &input::name(&asked.plan))
        .map_err(|mistakes| CliError::bad_input(mistakes.render(out.error_color).trim_end()))?;
    let ttl = Duration::from_millis(asked.ttl.into());
    let done = match DataDir::take(&asked.data) {
        Ok(data) => setup::run(&parsed.plan, data.path(), &asked.secrets, ttl).map_err(|error| identity_failed(&error)),
        // A server that runs owns its records: there is nothing to do, or it is for that one to do.
        Err(LockError::Held { path, .. }) => left_by_a_server(&parsed.plan, &path, &asked.secrets),
        Err(error) => Err(lock_failed(&error)),
    }?;
    for directory in [asked.data.as_path(), asked.secrets.as_path()] {
        files::give_to_owner(directory).map_err(|error| identity_failed(&error))?;
    }
    let made: Vec<Made<'_>> = done
        .iter()
        .map(|(agent, secret)| {
            let (secret, state) = match secret {
                setup::Secret::Written(path) => (path, "written"),
                setup::Secret::Kept(path) => (path, "kept, not used yet"),
                setup::Secret::Joined(path) => (path, "not needed, has joined"),
            };
            Made { agent, secret, state }
        })
        .collect();
    out.show(&made, |style| render::secrets(made.iter().map(|m| (m.agent, m.secret, m.state)), style))
}

fn left_by_a_server(plan: &plan::Plan, data: &Path, secrets: &Path) -> Result<Vec<(String, setup::Secret)>> {
    let mut done = Vec::new();
    let mut open = Vec::new();
    for (agent, found) in setup::look(plan, data, secrets).map_err(|error| identity_failed(&error))? {
        match found {
            Some(secret) => done.push((agent, secret)),
            None => open.push(agent),
        }
    }
    let Some(first) = open.first() else { return Ok(done) };
    let message = format!("an orchestrator uses {} now, and has no secret for {}", data.display(), open.join(", "));
    let path = setup::secret_file(secrets, first);
    let hint = format!("ask that one: pitwall token create --agent {first} > {}", path.display());
    Err(CliError::new(Exit::Failed, message).hint(hint))
}

pub async fn token(out: Out, action: &TokenAction) -> Result<()> {
    match action {
        TokenAction::Create { agent, ttl, connect } => {
            let client = Client::connect(connect).await?;
            let request = v1::CreateTokenRequest { project: client.project(), agent: agent.clone(), ttl_ms: *ttl };
            let answer = within(client.identities().create_token(request)).await?;
            // The token alone on standard output, so that `>` makes a secret file of it.
            out.show(&answer, |_| format!("{}\n", answer.token))?;
            let left = pitwall_core::text::duration((*ttl).into());
            out.progress(&format!(
                "token {} for {agent}, to be used once within {left}: pitwall-sidecar --join-token-file FILE",
                answer.id
            ));
            Ok(())
        }
    }
}

pub async fn identity(out: Out, action: &IdentityAction) -> Result<()> {
    match action {
        IdentityAction::Create { name, role, out: directory, ttl, connect } => {
            let client = Client::connect(connect).await?;
            create(out, &client, name, *role, directory, ttl.unwrap_or(0)).await
        }
        IdentityAction::List { all, connect } => {
            let client = Client::connect(connect).await?;
            let request = v1::ListIdentitiesRequest { include_ended: *all };
            let answer = within(client.identities().list_identities(request)).await?;
            out.show(&answer, |style| render::all(&answer, now(), style))
        }
        IdentityAction::Revoke { name, connect } => {
            let client = Client::connect(connect).await?;
            let request = v1::RevokeIdentityRequest { name: name.clone() };
            let answer = within(client.identities().revoke_identity(request)).await?;
            out.show(&answer, |_| {
                let subject = answer.identity.as_ref().map_or("", |identity| identity.subject.as_str());
                let tokens = match answer.tokens {
                    0 => String::new(),
                    n => format!(", and {} for it", pitwall_core::text::count(n as usize, "open token")),
                };
                format!("revoked {subject}{tokens}; its streams end within 5 s\n")
            })
        }
    }
}

async fn create(out: Out, client: &Client, name: &str, role: RoleWord, directory: &Path, ttl: u64) -> Result<()> {
    // Asked before: a key that is overwritten is gone.
    if directory.join(credentials::KEY).exists() {
        let message = format!("{} holds an identity already", directory.display());
        return Err(CliError::new(Exit::Failed, message).hint("give another directory, or remove that one first"));
    }
    let (key_pem, signing_request) = request::make().map_err(|error| identity_failed(&error))?;
    let role = match role {
        RoleWord::Viewer => v1::Role::Viewer,
        RoleWord::Operator => v1::Role::Operator,
        RoleWord::Admin => v1::Role::Admin,
    };
    let asked = v1::CreateIdentityRequest { name: name.into(), role: role.into(), signing_request, ttl_ms: ttl };
    let answer = within(client.identities().create_identity(asked)).await?;
    let made = answer.certificate.clone().unwrap_or_default();
    let identity = Credentials { authority_pem: made.authority_pem, certificate_pem: made.certificate_pem, key_pem };
    identity.save(directory).map_err(|error| identity_failed(&error))?;
    out.show(&answer, |_| {
        format!("{} in {}, for {}\n", made.subject, directory.display(), until(made.not_after_unix_ms))
    })?;
    out.progress(&format!(
        "use it from anywhere: pitwall context add {name} --orchestrator {} --identity {}",
        client.url,
        directory.display()
    ));
    Ok(())
}

fn until(at: i64) -> String {
    pitwall_core::text::duration((at - now()).max(0))
}

pub async fn audit(out: Out, asked: &Audit) -> Result<()> {
    let client = Client::connect(&asked.connect).await?;
    let request =
        v1::ListAuditEntriesRequest { limit: asked.limit, refused_only: asked.refused, who: asked.who.clone() };
    let answer = within(client.identities().list_audit_entries(request)).await?;
    out.show(&answer, |style| render::audit(&answer.entries, style))?;
    if answer.not_written > 0 {
        let _ = writeln!(std::io::stderr(), "{} more refusals came too fast to be written", answer.not_written);
    }
    Ok(())
}
