//! The authority together with its records: every certificate is made here, after its record is durable. One change at
//! a time; a change that cannot be written did not happen. Reads see the last durable records. Only a revocation holds at
//! once, whether it can be written or not: until it is written, it is told as an error and tried again ([`Keeper::settle`]).
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pitwall_core::{
    identity::{
        Denied, DeniedClass, Misuse, NewCertificate, Records, Role, Standing, Subject, TokenEnd, TokenRecord,
        check_request,
    },
    io::Millis,
};
use pitwall_proto::join::{JoinToken, hex};
use rcgen::PublicKey;
use tokio::sync::Notify;

use super::{
    AGENT_LIFE, IdentityError, OPERATOR_LIFE, Result,
    authority::{self, Authority, Signed},
    certificate::{self, Seen},
    credentials::Credentials,
    files, ms, now, request,
};

pub(super) const RECORDS: &str = "records.json";
const OPERATOR: &str = "operator";
/// The name of the operator on the orchestrator's own machine.
const LOCAL: &str = "local";

/// How long certificates count.
#[derive(Clone, Copy, Debug)]
pub struct Lives {
    pub agent: Duration,
    pub server: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        Self { agent: AGENT_LIFE, server: super::SERVER_LIFE }
    }
}

#[derive(Debug)]
pub struct Keeper {
    pub authority: Authority,
    directory: PathBuf,
    lives: Lives,
    records: RwLock<Arc<Records>>,
    /// Held through a change, writing included.
    changing: Mutex<()>,
    /// A revocation holds and is not on disk.
    owed: AtomicBool,
    /// Told when that happens.
    pub owes: Notify,
}

/// A token that did not work, and what the operator is to be told about it.
#[derive(Debug)]
pub struct NotEnrolled {
    pub error: IdentityError,
    pub misuse: Option<Box<Misuse>>,
}

impl From<IdentityError> for NotEnrolled {
    fn from(error: IdentityError) -> Self {
        Self { error, misuse: None }
    }
}

impl From<Denied> for NotEnrolled {
    fn from(denied: Denied) -> Self {
        IdentityError::from(denied).into()
    }
}

impl Keeper {
    /// Of this data directory, which is this process's own; with a new authority where there is none.
    pub fn open(data: &Path, lives: Lives) -> Result<Self> {
        let directory = authority::directory(data);
        let path = directory.join(RECORDS);
        let records = match files::read(&path)? {
            None => Records::default(),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| IdentityError::File {
                doing: "understand",
                path,
                why: error.to_string(),
            })?,
        };
        let (authority, made) = Authority::open_or_make(&directory)?;
        if made {
            tracing::info!(directory = %directory.display(), "made a certificate authority");
        }
        let (records, changing) = (RwLock::new(Arc::new(records)), Mutex::new(()));
        let (owed, owes) = (AtomicBool::new(false), Notify::new());
        Ok(Self { authority, directory, lives, records, changing, owed, owes })
    }

    pub fn records(&self) -> Arc<Records> {
        self.records.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a change durable, then visible. Also where the change says no: what it noted is kept.
    fn change<T, E: From<IdentityError>>(
        &self,
        change: impl FnOnce(&mut Records) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.records();
        let mut after = Records::clone(&before);
        let answer = change(&mut after);
        if after == *before {
            return answer;
        }
        self.write(&after)?;
        self.show(after);
        answer
    }

    fn write(&self, records: &Records) -> Result<()> {
        let path = self.directory.join(RECORDS);
        let bytes = serde_json::to_vec_pretty(records).map_err(|error| IdentityError::File {
            doing: "encode",
            path: path.clone(),
            why: error.to_string(),
        })?;
        files::write(&path, &bytes, files::SECRET)?;
        // Everything that held before is in it.
        self.owed.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn show(&self, records: Records) {
        *self.records.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(records);
    }

    /// Whether a revocation is to be written yet.
    pub fn is_owing(&self) -> bool {
        self.owed.load(Ordering::Relaxed)
    }

    /// Tries again to write a revocation that holds already.
    pub fn settle(&self) -> Result<()> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_owing() { self.write(&self.records()) } else { Ok(()) }
    }

    /// A token for the sidecar of this agent, its id and its end.
    pub fn create_token(&self, project: &str, agent: &str, ttl: Duration) -> Result<(JoinToken, Millis)> {
        if Subject::agent(project, agent).is_none() {
            return Err(bad_name(agent).into());
        }
        let token = JoinToken {
            id: authority::random()?,
            secret: authority::random()?,
            authority: self.authority.fingerprint(),
        };
        let created = now();
        let record = TokenRecord {
            secret_hash: secret_hash(&token),
            project: project.into(),
            agent: agent.into(),
            created,
            expires: created + ms(ttl),
            spent: None,
            misused: 0,
            misused_at: None,
            revoked: false,
        };
        let expires = record.expires;
        self.change(|records| records.add_token(created, &hex(&token.id), record).map_err(IdentityError::from))?;
        Ok((token, expires))
    }

    /// A certificate for whoever has this token and this request's key.
    pub fn enrol(&self, token: &JoinToken, request: &[u8]) -> std::result::Result<(Subject, Signed), NotEnrolled> {
        let request = request::read(request)?;
        let (id, hash, now) = (hex(&token.id), secret_hash(token), now());
        // Of a snapshot, as anybody may come with anything: what is refused costs no lock, no copy and no write. And before
        // the token is spent, so that a request which asks for too much does not spend it.
        match self.records().judge_token(now, &id, &hash, &request.fingerprint) {
            Ok(subject) => check_request(&request.asked, &subject)?,
            Err(end) if end.misuse.as_ref().is_some_and(|misuse| misuse.counts) => {}
            Err(end) => return Err(not_enrolled(end)),
        }
        self.change(|records| {
            let subject = records.use_token(now, &id, &hash, &request.fingerprint).map_err(not_enrolled)?;
            check_request(&request.asked, &subject)?;
            let signed = self.sign(records, &subject, &request.key, self.lives.agent)?;
            Ok((subject, signed))
        })
    }

    /// A further certificate for whoever holds one of these, which must count at the very change: it may have been revoked
    /// since the call began, though its identity has joined again.
    pub fn renew(&self, held: &[Seen], request: &[u8]) -> Result<Signed> {
        let request = request::read(request)?;
        self.change(|records| {
            let now = now();
            let mut told = None;
            for seen in held {
                match judge(records, now, seen) {
                    Err(denied) => told = told.or(Some(denied)),
                    Ok(_) => {
                        check_request(&request.asked, &seen.subject)?;
                        records.may_renew(now, &seen.subject, ms(self.lives.agent))?;
                        return self.sign(records, &seen.subject, &request.key, self.lives.agent);
                    }
                }
            }
            Err(told.unwrap_or_else(nothing_held).into())
        })
    }

    /// An operator's certificate for the key of this request.
    pub fn create_operator(&self, name: &str, role: Role, request: &[u8], life: Duration) -> Result<(Subject, Signed)> {
        let subject = Subject::operator(role, name).ok_or_else(|| bad_name(name))?;
        let request = request::read(request)?;
        check_request(&request.asked, &subject)?;
        self.change(|records| {
            records.free_operator(now(), &subject)?;
            let signed = self.sign(records, &subject, &request.key, life)?;
            Ok((subject.clone(), signed))
        })
    }

    /// Holds at once, and until a restart where it cannot be written; then that is the error.
    pub fn revoke(&self, name: &str) -> Result<(Subject, u32)> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut after = Records::clone(&self.records());
        let subject = after.find(now(), name)?;
        let tokens = after.revoke(now(), &subject);
        self.show(after);
        self.owed.store(true, Ordering::Relaxed);
        self.write(&self.records()).map_err(|error| {
            self.owes.notify_one();
            IdentityError::NotDurable { what: format!("{subject} is revoked"), why: error.to_string() }
        })?;
        Ok((subject, tokens))
    }

    fn sign(&self, records: &mut Records, subject: &Subject, key: &PublicKey, life: Duration) -> Result<Signed> {
        let now = now();
        let signed = self.authority.sign_client(subject, key, now, life)?;
        let new = NewCertificate { serial: signed.serial.clone(), expires: signed.expires };
        records.add_certificate(now, subject, new)?;
        Ok(signed)
    }

    /// Until when a certificate counts, or why it does not.
    pub fn check(&self, seen: &Seen) -> std::result::Result<Millis, Denied> {
        judge(&self.records(), now(), seen)
    }

    /// The credential with which the command line on this machine connects: an admin's. Made when there is none, and
    /// anew when half of its life is over.
    pub fn local_operator(&self) -> Result<PathBuf> {
        let directory = self.directory.join(OPERATOR);
        let (now, half) = (now(), ms(OPERATOR_LIFE) / 2);
        let held = Credentials::load(&directory).ok().filter(|held| held.authority_pem == self.authority.pem());
        let seen = held.as_ref().and_then(|held| held.seen().ok());
        if seen.is_some_and(|seen| self.check(&seen).is_ok_and(|until| until - now > half)) {
            return Ok(directory);
        }
        let subject = Subject::operator(Role::Admin, LOCAL).ok_or_else(|| bad_name(LOCAL))?;
        let (key_pem, request) = request::make()?;
        let request = request::read(&request)?;
        let signed = self.change(|records| self.sign(records, &subject, &request.key, OPERATOR_LIFE))?;
        let made = Credentials { authority_pem: self.authority.pem().into(), certificate_pem: signed.pem, key_pem };
        made.save(&directory)?;
        Ok(directory)
    }

    pub fn server_certificate(&self, names: &[String]) -> Result<(Arc<rustls::sign::CertifiedKey>, Millis)> {
        self.authority.sign_server(names, self.lives.server)
    }
}

/// The secret itself is not kept: whoever reads the records cannot join with them.
fn secret_hash(token: &JoinToken) -> String {
    hex(&certificate::sha256(&token.secret))
}

fn bad_name(name: &str) -> Denied {
    Denied {
        class: DeniedClass::Invalid,
        reason: "NAME_INVALID",
        message: format!(
            "{name:?} is no name: 1 to 63 letters, digits, `-`, `_` or `.`, beginning with a letter or digit"
        ),
        hint: String::new(),
    }
}

fn not_enrolled(end: TokenEnd) -> NotEnrolled {
    NotEnrolled { error: end.denied.into(), misuse: end.misuse }
}

fn nothing_held() -> Denied {
    Denied {
        class: DeniedClass::Unauthenticated,
        reason: "CERTIFICATE_MISSING",
        message: "only a certificate can be renewed".into(),
        hint: String::new(),
    }
}

fn judge(records: &Records, now: Millis, seen: &Seen) -> std::result::Result<Millis, Denied> {
    match records.standing(now, &seen.subject, &seen.serial, seen.expires) {
        Standing::Counts(until) => Ok(until),
        standing @ (Standing::Expired(_) | Standing::Revoked(_) | Standing::Unknown) => {
            Err(no_standing(&seen.subject, standing))
        }
    }
}

fn no_standing(subject: &Subject, standing: Standing) -> Denied {
    let name = subject.name();
    let again = match subject {
        Subject::Agent { .. } => {
            format!("let its sidecar join again: `pitwall token create --agent {name}`")
        }
        Subject::Operator { role, .. } => {
            format!("make another one: `pitwall identity create {name} --role {role} --out DIR`")
        }
    };
    let ago = |at: Millis| pitwall_core::text::duration((now() - at).max(0));
    let (reason, message) = match standing {
        Standing::Expired(at) => ("CERTIFICATE_EXPIRED", format!("the certificate of {name} expired {} ago", ago(at))),
        Standing::Revoked(at) => {
            ("CERTIFICATE_REVOKED", format!("the certificate of {name} was revoked {} ago", ago(at)))
        }
        Standing::Unknown | Standing::Counts(_) => {
            ("CERTIFICATE_UNKNOWN", format!("the certificate of {name} is not in this orchestrator's records"))
        }
    };
    Denied { class: DeniedClass::Unauthenticated, reason, message, hint: again }
}

#[cfg(test)]
mod tests;
