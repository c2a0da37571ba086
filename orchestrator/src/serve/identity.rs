//! `IdentityService`: enrolment, renewal, tokens, identities, the audit log. Who may call what was decided at the door;
//! what a token or a request grants is the keeper's. Files are written away from the threads that serve.
use std::{sync::Arc, time::Duration};

use pitwall_core::{
    identity::{Denied, DeniedClass, Role, Subject, role},
    io::Millis,
};
use pitwall_proto::{
    join::{JoinToken, hex},
    v1::{self, identity_service_server::IdentityService},
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tonic::{Code, Request, Response, Status};

use super::{
    door::{audited::Noted, peer::Peer, refused},
    mailbox::ProjectHandle,
    status::status,
};
use crate::identity::{
    IdentityError, OPERATOR_LIFE, OPERATOR_LIFE_MAX, TOKEN_LIFE, TOKEN_LIFE_MAX,
    audit::{Audit, Entry},
    authority::Signed,
    certificate,
    keeper::{Keeper, NotEnrolled},
    now,
};

const ENTRIES_DEFAULT: u32 = 100;
const ENTRIES_MAX: u32 = 1_000;

type Answer<T> = Result<Response<T>, Status>;

pub struct Identities {
    /// `None`: `--insecure`; then only the audit log is there.
    keeper: Option<Arc<Keeper>>,
    audit: Arc<Audit>,
    project: ProjectHandle,
}

impl Identities {
    pub fn new(keeper: Option<Arc<Keeper>>, audit: Arc<Audit>, project: ProjectHandle) -> Self {
        Self { keeper, audit, project }
    }

    fn keeper(&self) -> Result<Arc<Keeper>, Status> {
        // The door refuses such calls before.
        self.keeper.clone().ok_or_else(|| {
            status(Code::FailedPrecondition, "NO_IDENTITIES", "this orchestrator runs with --insecure", "")
        })
    }

    /// Away from the threads that serve: records are written and synced.
    async fn with<T: Send + 'static, E: Send + 'static>(
        &self,
        work: impl FnOnce(&Keeper) -> Result<T, E> + Send + 'static,
    ) -> Result<Result<T, E>, Status> {
        let keeper = self.keeper()?;
        tokio::task::spawn_blocking(move || work(&keeper)).await.map_err(|_| {
            status(Code::Internal, "IDENTITY_FAILED", "the change was not made", "see the orchestrator's log")
        })
    }

    fn certificate(&self, subject: &Subject, signed: &Signed) -> Result<v1::Certificate, Status> {
        Ok(v1::Certificate {
            certificate_pem: signed.pem.clone(),
            authority_pem: self.keeper()?.authority.pem().into(),
            not_after_unix_ms: signed.expires,
            valid_for_ms: u64::try_from(signed.expires - now()).unwrap_or(0),
            subject: subject.to_string(),
        })
    }
}

fn failed(error: &IdentityError) -> Status {
    match error {
        IdentityError::Denied(denied) => refused(denied),
        IdentityError::File { .. } => {
            tracing::error!(%error, "an identity was not changed");
            let hint = "nothing was changed; see the orchestrator's log";
            status(Code::Unavailable, "RECORDS_UNWRITABLE", error.to_string(), hint)
        }
        IdentityError::NotDurable { .. } => {
            tracing::error!(%error, "a revocation is not written down");
            let hint = "it is tried again; make room on the orchestrator's disk";
            status(Code::DataLoss, "NOT_DURABLE", error.to_string(), hint)
        }
        IdentityError::Crypto { .. } => {
            tracing::error!(%error, "an identity was not changed");
            status(Code::Internal, "IDENTITY_FAILED", error.to_string(), "nothing was changed")
        }
    }
}

fn invalid(reason: &'static str, message: String, hint: &str) -> Status {
    refused(&Denied { class: DeniedClass::Invalid, reason, message, hint: hint.into() })
}

/// `asked` of 0 means the usual one.
fn life(asked: u64, usual: Duration, longest: Duration) -> Result<Duration, Status> {
    let asked = Duration::from_millis(asked);
    if asked.is_zero() {
        return Ok(usual);
    }
    if asked > longest {
        let message = format!("it would count for {} s, and {} s is the limit", asked.as_secs(), longest.as_secs());
        return Err(invalid("FIELD_OUT_OF_RANGE", message, "make another one before this one ends"));
    }
    Ok(asked)
}

pub fn to_wire(role: Option<Role>) -> v1::Role {
    match role {
        None => v1::Role::Unspecified,
        Some(Role::Viewer) => v1::Role::Viewer,
        Some(Role::Operator) => v1::Role::Operator,
        Some(Role::Admin) => v1::Role::Admin,
    }
}

fn from_wire(role: v1::Role) -> Option<Role> {
    match role {
        v1::Role::Unspecified => None,
        v1::Role::Viewer => Some(Role::Viewer),
        v1::Role::Operator => Some(Role::Operator),
        v1::Role::Admin => Some(Role::Admin),
    }
}

#[tonic::async_trait]
impl IdentityService for Identities {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Answer<v1::EnrolResponse> {
        let noted = request.extensions().get::<Noted>().cloned().unwrap_or_default();
        let request = request.into_inner();
        let token: JoinToken = request.token.parse().map_err(|error: pitwall_proto::join::NotAToken| {
            invalid("TOKEN_MALFORMED", error.to_string(), "`pitwall token create --agent NAME` prints a token")
        })?;
        let id = hex(&token.id);
        match self.with(move |keeper| keeper.enrol(&token, &request.signing_request)).await? {
            Ok((subject, signed)) => {
                tracing::info!(%subject, "joined");
                noted.set(format!("{subject} joins with token {id}"));
                Ok(Response::new(v1::EnrolResponse { certificate: Some(self.certificate(&subject, &signed)?) }))
            }
            Err(NotEnrolled { error, misuse }) => {
                noted.set(format!("join with token {id}"));
                if let Some(misuse) = misuse.filter(|misuse| misuse.project == *self.project.name) {
                    self.project.token_misused(misuse).await;
                }
                Err(failed(&error))
            }
        }
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Answer<v1::RenewResponse> {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let Some((peer, subject)) = peer.and_then(|peer| Some((peer.clone(), peer.subject()?.clone()))) else {
            return Err(invalid("CERTIFICATE_MISSING", "only a certificate can be renewed".into(), ""));
        };
        let (asked, held) = (request.into_inner().signing_request, peer.held());
        let signed = self.with(move |keeper| keeper.renew(&held, &asked)).await?.map_err(|error| failed(&error))?;
        let renewed = CertificateDer::from_pem_slice(signed.pem.as_bytes()).ok().map(|der| certificate::client(&der));
        if let Some(Ok(seen)) = renewed {
            peer.renew(seen);
        }
        Ok(Response::new(v1::RenewResponse { certificate: Some(self.certificate(&subject, &signed)?) }))
    }

    async fn create_token(&self, request: Request<v1::CreateTokenRequest>) -> Answer<v1::CreateTokenResponse> {
        Noted::note(&request, || format!("token for {}", request.get_ref().agent));
        let request = request.into_inner();
        let project = self.project.named(&request.project)?;
        let (name, agent) = (project.name.clone(), request.agent.clone());
        let known = project
            .ask(move |core, _| {
                let agents = &core.state().plan.agents;
                agents
                    .contains_key(&agent)
                    .then_some(())
                    .ok_or_else(|| agents.keys().cloned().collect::<Vec<_>>().join(", "))
            })
            .await?;
        known.map_err(|all| {
            refused(&Denied {
                class: DeniedClass::NotFound,
                reason: "AGENT_UNKNOWN",
                message: format!("the plan has no agent {:?}; it has: {all}", request.agent),
                hint: String::new(),
            })
        })?;
        let ttl = life(request.ttl_ms.into(), TOKEN_LIFE, TOKEN_LIFE_MAX)?;
        let made = self.with(move |keeper| keeper.create_token(&name, &request.agent, ttl)).await?;
        let (token, expires_unix_ms) = made.map_err(|error| failed(&error))?;
        let id = hex(&token.id);
        Ok(Response::new(v1::CreateTokenResponse { token: token.to_string(), id, expires_unix_ms }))
    }

    async fn create_identity(&self, request: Request<v1::CreateIdentityRequest>) -> Answer<v1::CreateIdentityResponse> {
        Noted::note(&request, || {
            let asked = request.get_ref();
            format!("identity {} as {}", asked.name, from_wire(asked.role()).map_or("nothing", Role::word))
        });
        let request = request.into_inner();
        let role = from_wire(request.role()).ok_or_else(|| {
            invalid("ROLE_MISSING", "name a role: viewer, operator or admin".into(), "sidecars join with a token")
        })?;
        let ttl = life(request.ttl_ms, OPERATOR_LIFE, OPERATOR_LIFE_MAX)?;
        let made =
            self.with(move |keeper| keeper.create_operator(&request.name, role, &request.signing_request, ttl)).await?;
        let (subject, signed) = made.map_err(|error| failed(&error))?;
        Ok(Response::new(v1::CreateIdentityResponse { certificate: Some(self.certificate(&subject, &signed)?) }))
    }

    async fn list_identities(&self, request: Request<v1::ListIdentitiesRequest>) -> Answer<v1::ListIdentitiesResponse> {
        let (all, now, records) = (request.get_ref().include_ended, now(), self.keeper()?.records());
        let identities = records.identities.iter().filter(|(_, record)| all || record.counts(now));
        let identities = identities.filter_map(|(name, _)| identity(&records, &Subject::parse(name)?, now)).collect();
        let mut tokens: Vec<v1::Token> = records
            .tokens
            .iter()
            .filter(|(_, token)| all || token.is_open(now))
            .map(|(id, token)| v1::Token {
                id: id.clone(),
                agent: token.agent.clone(),
                created_unix_ms: token.created,
                expires_unix_ms: token.expires,
                spent_unix_ms: token.spent.as_ref().map(|spent| spent.at),
                key_fingerprint: token.spent.as_ref().map(|spent| spent.key.clone()).unwrap_or_default(),
                misused: token.misused,
            })
            .collect();
        tokens.sort_by_key(|token| token.expires_unix_ms);
        Ok(Response::new(v1::ListIdentitiesResponse { identities, tokens }))
    }

    async fn revoke_identity(&self, request: Request<v1::RevokeIdentityRequest>) -> Answer<v1::RevokeIdentityResponse> {
        Noted::note(&request, || format!("revoke {}", request.get_ref().name));
        let name = request.into_inner().name;
        let done = self.with(move |keeper| keeper.revoke(&name)).await?;
        let (subject, tokens) = done.map_err(|error| failed(&error))?;
        // Of a token that was not used yet there is no more than the name.
        let identity = identity(&self.keeper()?.records(), &subject, now()).unwrap_or_else(|| v1::Identity {
            subject: subject.to_string(),
            name: subject.name().into(),
            ..Default::default()
        });
        Ok(Response::new(v1::RevokeIdentityResponse { identity: Some(identity), tokens }))
    }

    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> Answer<v1::ListAuditEntriesResponse> {
        let request = request.into_inner();
        let limit = if request.limit == 0 { ENTRIES_DEFAULT } else { request.limit.min(ENTRIES_MAX) } as usize;
        let v1::ListAuditEntriesRequest { who, refused_only, .. } = request;
        let fits = move |entry: &Entry| {
            let whose = who.is_empty() || entry.who == who || entry.who.ends_with(&format!("/{who}"));
            whose && (!refused_only || entry.outcome != "OK")
        };
        let entries = self.audit.list(limit, fits).await;
        Ok(Response::new(v1::ListAuditEntriesResponse {
            entries: entries.into_iter().map(entry).collect(),
            not_written: self.audit.not_written(),
        }))
    }
}

fn identity(records: &pitwall_core::identity::Records, subject: &Subject, now: Millis) -> Option<v1::Identity> {
    let record = records.identities.get(&subject.to_string())?;
    let counting = record.certificates.iter().filter(|c| c.expires > now).count();
    Some(v1::Identity {
        subject: subject.to_string(),
        name: subject.name().into(),
        role: to_wire(role(subject)).into(),
        created_unix_ms: record.created,
        renewed_unix_ms: record.renewed,
        expires_unix_ms: record.expires,
        revoked_unix_ms: record.revoked,
        certificates: u32::try_from(counting).unwrap_or(u32::MAX),
    })
}

fn entry(entry: Entry) -> v1::AuditEntry {
    v1::AuditEntry {
        at_unix_ms: entry.at,
        who: entry.who,
        from: entry.from,
        call: entry.call,
        what: entry.what,
        outcome: entry.outcome,
        reason: entry.reason,
        message: entry.message,
        times: entry.times,
    }
}
