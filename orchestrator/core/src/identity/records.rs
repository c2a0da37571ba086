//! Tokens and identities as they are kept. A change is made on a copy that the shell makes durable before anybody
//! sees what came of it. Bounded: what ended long ago is forgotten, and beyond the limits nothing new is made.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Denied, DeniedClass, Role, Subject, denied};
use crate::io::Millis;

const TOKENS_MAX: usize = 4_096;
const IDENTITIES_MAX: usize = 4_096;
/// Certificates of one identity that count at the same time: a renewal at half-life needs two.
const CERTIFICATES_MAX: usize = 16;
/// Those that ended are kept for a while, so many of one identity: a clock that jumps ahead and back must not cost anybody
/// a certificate that counts.
const ENDED_KEPT_FOR_MS: Millis = 3 * 24 * 60 * 60 * 1_000;
const ENDED_MAX: usize = 16;
/// Renewed certificates of one identity with most of their life left: one is used, and an answer may be lost.
const FRESH_MAX: usize = 4;
/// How much of a life is most of it, in percent.
const FRESH_PERCENT: Millis = 60;
/// Uses with another key are counted once in so long, so that whoever has a spent token cannot make records be written
/// all the time.
const MISUSE_COUNTED_EVERY_MS: Millis = 60 * 1_000;
/// Ended tokens and identities are listed for so long.
const KEPT_FOR_MS: Millis = 30 * 24 * 60 * 60 * 1_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Records {
    /// By id.
    pub tokens: BTreeMap<String, TokenRecord>,
    /// By subject.
    pub identities: BTreeMap<String, IdentityRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// Of the secret, which is not kept.
    pub secret_hash: String,
    pub project: String,
    pub agent: String,
    pub created: Millis,
    pub expires: Millis,
    pub spent: Option<SpentBy>,
    /// In how many minutes another key tried.
    #[serde(default)]
    pub misused: u32,
    /// When that was counted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misused_at: Option<Millis>,
    #[serde(default)]
    pub revoked: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpentBy {
    pub at: Millis,
    /// SHA-256 of the public key.
    pub key: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityRecord {
    pub created: Millis,
    pub renewed: Millis,
    /// When the last certificate stops, or stopped, to count.
    pub expires: Millis,
    pub revoked: Option<Millis>,
    /// Those that count, or did until they expired lately.
    pub certificates: Vec<CertificateRecord>,
    /// Those that were revoked, until some time after they would have expired.
    #[serde(default)]
    pub revoked_certificates: Vec<CertificateRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateRecord {
    pub serial: String,
    pub expires: Millis,
}

/// A certificate that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCertificate {
    pub serial: String,
    pub expires: Millis,
}

/// Whether a certificate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Until then.
    Counts(Millis),
    Expired(Millis),
    Revoked(Millis),
    /// Signed by this authority and not in its records.
    Unknown,
}

/// A spent token came with another key: the operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misuse {
    pub token: String,
    pub project: String,
    pub agent: String,
    pub key: String,
    /// That it was spent with.
    pub by: String,
    /// Whether the record is to count it.
    pub counts: bool,
}

/// Why a token gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEnd {
    pub denied: Denied,
    pub misuse: Option<Box<Misuse>>,
}

impl From<Denied> for TokenEnd {
    fn from(denied: Denied) -> Self {
        Self { denied, misuse: None }
    }
}

impl Records {
    pub fn add_token(&mut self, now: Millis, id: &str, token: TokenRecord) -> Result<(), Denied> {
        self.forget(now);
        if self.tokens.len() >= TOKENS_MAX {
            let message = format!("{TOKENS_MAX} tokens are kept, which is the limit");
            return Err(denied(
                DeniedClass::Exhausted,
                "TOKENS_EXHAUSTED",
                message,
                "wait until old ones have expired",
            ));
        }
        if self.tokens.contains_key(id) {
            return Err(denied(DeniedClass::Exists, "TOKEN_EXISTS", format!("the token {id} exists"), "try again"));
        }
        self.tokens.insert(id.into(), token);
        Ok(())
    }

    /// What use of a token would give, or why nothing, without any change: asked of a snapshot first, as anybody may try.
    pub fn judge_token(&self, now: Millis, id: &str, secret_hash: &str, key: &str) -> Result<Subject, TokenEnd> {
        let unknown = || {
            let hint = "make a new one: `pitwall token create --agent NAME`";
            denied(DeniedClass::Unauthenticated, "TOKEN_UNKNOWN", "this join token is not known here", hint)
        };
        let token = self.tokens.get(id).filter(|token| token.secret_hash == secret_hash).ok_or_else(unknown)?;
        let again = format!("make a new one: `pitwall token create --agent {}`", token.agent);
        if token.revoked {
            let message = format!("the join token {id} of {} was revoked", token.agent);
            return Err(denied(DeniedClass::Unauthenticated, "TOKEN_REVOKED", message, again).into());
        }
        if let Some(spent) = token.spent.as_ref().filter(|spent| spent.key != key) {
            let message = format!("the join token {id} of {} was used already, with another key", token.agent);
            let misuse = Misuse {
                token: id.into(),
                project: token.project.clone(),
                agent: token.agent.clone(),
                key: key.into(),
                by: spent.key.clone(),
                counts: token.misused_at.is_none_or(|at| !(at..at + MISUSE_COUNTED_EVERY_MS).contains(&now)),
            };
            let denied = denied(DeniedClass::Unauthenticated, "TOKEN_SPENT", message, again);
            return Err(TokenEnd { denied, misuse: Some(Box::new(misuse)) });
        }
        if now >= token.expires {
            let message = format!("the join token {id} of {} has expired", token.agent);
            return Err(denied(DeniedClass::Unauthenticated, "TOKEN_EXPIRED", message, again).into());
        }
        Ok(Subject::agent(&token.project, &token.agent).ok_or_else(unknown)?)
    }

    /// For whom a token with this secret may be used by this key. Changes the record: spent by the first key, or
    /// misused by another one.
    pub fn use_token(&mut self, now: Millis, id: &str, secret_hash: &str, key: &str) -> Result<Subject, TokenEnd> {
        let judged = self.judge_token(now, id, secret_hash, key);
        if let Some(token) = self.tokens.get_mut(id) {
            match &judged {
                Ok(_) => {
                    token.spent.get_or_insert_with(|| SpentBy { at: now, key: key.into() });
                }
                Err(end) if end.misuse.as_ref().is_some_and(|misuse| misuse.counts) => {
                    token.misused = token.misused.saturating_add(1);
                    token.misused_at = Some(now);
                }
                Err(_) => {}
            }
        }
        judged
    }

    /// Notes a certificate for `subject`: after a token was used, for a renewal, or for an operator.
    pub fn add_certificate(&mut self, now: Millis, subject: &Subject, new: NewCertificate) -> Result<(), Denied> {
        self.forget(now);
        let name = subject.to_string();
        if !self.identities.contains_key(&name) && self.identities.len() >= IDENTITIES_MAX {
            let message = format!("{IDENTITIES_MAX} identities are kept, which is the limit");
            return Err(denied(
                DeniedClass::Exhausted,
                "IDENTITIES_EXHAUSTED",
                message,
                "revoke those that are not used",
            ));
        }
        let record =
            self.identities.entry(name).or_insert_with(|| IdentityRecord { created: now, ..Default::default() });
        let counting = record.certificates.iter().filter(|c| c.expires > now).count();
        if counting >= CERTIFICATES_MAX {
            let message = format!("{} has {counting} certificates that count, which is the limit", subject.name());
            return Err(denied(
                DeniedClass::Exhausted,
                "CERTIFICATES_EXHAUSTED",
                message,
                "wait until one has expired",
            ));
        }
        record.revoked = None;
        record.renewed = now;
        record.expires = record.expires.max(new.expires);
        record.certificates.push(CertificateRecord { serial: new.serial, expires: new.expires });
        Ok(())
    }

    /// Whether an operator of this name may be made: names are unique among those that count.
    pub fn free_operator(&self, now: Millis, wanted: &Subject) -> Result<(), Denied> {
        let taken = self.identities.iter().find_map(|(name, record)| {
            let subject = Subject::parse(name)?;
            let operator = matches!(subject, Subject::Operator { .. });
            (operator && subject.name() == wanted.name() && record.counts(now)).then_some(subject)
        });
        match taken {
            None => Ok(()),
            Some(Subject::Operator { role, name }) => Err(denied(
                DeniedClass::Exists,
                "IDENTITY_EXISTS",
                format!("there is an identity {name} already, with the role {role}"),
                format!("choose another name, or `pitwall identity revoke {name}` first"),
            )),
            Some(Subject::Agent { .. }) => Ok(()),
        }
    }

    /// Whether `subject` may have one more certificate of this life by renewal.
    pub fn may_renew(&self, now: Millis, subject: &Subject, life: Millis) -> Result<(), Denied> {
        let fresh = |c: &&CertificateRecord| c.expires - now > life / 100 * FRESH_PERCENT;
        let record = self.identities.get(&subject.to_string());
        let fresh = record.map_or(0, |record| record.certificates.iter().filter(fresh).count());
        if fresh < FRESH_MAX {
            return Ok(());
        }
        let message = format!("{} has {fresh} certificates with most of their life left", subject.name());
        Err(denied(
            DeniedClass::Exhausted,
            "RENEWED_ALREADY",
            message,
            "use the newest, and renew it at half of its life",
        ))
    }

    /// Of a certificate with this serial number and this end. Its beginning says nothing: none is ever made for later, so
    /// that one in these records which begins later was made before a clock was set back, and nobody is to be lost by that.
    pub fn standing(&self, now: Millis, subject: &Subject, serial: &str, expires: Millis) -> Standing {
        let record = self.identities.get(&subject.to_string());
        let revoked = record.is_some_and(|r| r.revoked_certificates.iter().any(|c| c.serial == serial));
        if let Some(record) = record.filter(|_| revoked) {
            return Standing::Revoked(record.revoked.unwrap_or(record.renewed));
        }
        if expires <= now {
            return Standing::Expired(expires);
        }
        let known = record.is_some_and(|r| r.certificates.iter().any(|c| c.serial == serial));
        if known { Standing::Counts(expires) } else { Standing::Unknown }
    }

    /// The one that is meant by a subject or a name: of an identity, or of a token that may become one.
    pub fn find(&self, now: Millis, name: &str) -> Result<Subject, Denied> {
        let open = self.tokens.values().filter(|token| token.is_open(now));
        let open = open.filter_map(|token| Subject::agent(&token.project, &token.agent));
        let known = self.identities.keys().filter_map(|subject| Subject::parse(subject));
        // Each once, in order.
        let found: BTreeMap<String, Subject> = known
            .chain(open)
            .map(|subject| (subject.to_string(), subject))
            .filter(|(whole, subject)| subject.name() == name || whole == name)
            .collect();
        let found: Vec<Subject> = found.into_values().collect();
        match found.as_slice() {
            [only] => Ok(only.clone()),
            [] => {
                let message = format!("no identity is named {name:?}");
                Err(denied(DeniedClass::NotFound, "IDENTITY_UNKNOWN", message, "`pitwall identity list` shows all"))
            }
            several => {
                let all = several.iter().map(Subject::to_string).collect::<Vec<_>>().join(", ");
                let message = format!("{name} may be {all}");
                Err(denied(DeniedClass::Invalid, "IDENTITY_AMBIGUOUS", message, "write the whole subject"))
            }
        }
    }

    /// No certificate of `subject` counts any more, and no token for it. How many tokens that were.
    pub fn revoke(&mut self, now: Millis, subject: &Subject) -> u32 {
        if let Some(record) = self.identities.get_mut(&subject.to_string()) {
            record.revoked = Some(now);
            let gone = std::mem::take(&mut record.certificates);
            record.revoked_certificates.extend(gone);
        }
        let Subject::Agent { project, name } = subject else { return 0 };
        let mut ended = 0;
        for token in self.tokens.values_mut() {
            if token.project == *project && token.agent == *name && !token.revoked {
                token.revoked = true;
                ended += u32::from(token.spent.is_none() && token.expires > now);
            }
        }
        self.forget(now);
        ended
    }

    /// Whether an agent needs a token to join: it has no certificate that counts.
    pub fn is_joined(&self, now: Millis, subject: &Subject) -> bool {
        self.identities.get(&subject.to_string()).is_some_and(|record| record.counts(now))
    }

    /// What ended long ago, and certificates that no check needs any more.
    fn forget(&mut self, now: Millis) {
        let lately = |at: Millis| at + KEPT_FOR_MS > now;
        self.tokens.retain(|_, token| lately(token.expires));
        for record in self.identities.values_mut() {
            forget_ended(&mut record.certificates, now);
            forget_ended(&mut record.revoked_certificates, now);
        }
        self.identities.retain(|_, r| {
            !r.certificates.is_empty() || !r.revoked_certificates.is_empty() || lately(r.revoked.unwrap_or(r.renewed))
        });
    }
}

/// Those that count, and the last ones that ended lately.
fn forget_ended(certificates: &mut Vec<CertificateRecord>, now: Millis) {
    certificates.sort_by_key(|c| std::cmp::Reverse(c.expires));
    let mut ended = 0;
    certificates.retain(|c| {
        ended += usize::from(c.expires <= now);
        c.expires > now || (ended <= ENDED_MAX && c.expires + ENDED_KEPT_FOR_MS > now)
    });
    certificates.reverse();
}

impl IdentityRecord {
    pub fn counts(&self, now: Millis) -> bool {
        self.revoked.is_none() && self.certificates.iter().any(|c| c.expires > now)
    }
}

impl TokenRecord {
    pub fn is_open(&self, now: Millis) -> bool {
        self.spent.is_none() && !self.revoked && self.expires > now
    }
}

/// `None` for a sidecar.
pub fn role(subject: &Subject) -> Option<Role> {
    match subject {
        Subject::Agent { .. } => None,
        Subject::Operator { role, .. } => Some(*role),
    }
}

#[cfg(test)]
mod tests;
