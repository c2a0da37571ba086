//! Who may do what: names in certificates, join tokens, what a signing request may become, roles, revocation.
//! Pure: keys, signatures, files and the clock are the shell's (`pitwall::identity`), which hands in what it saw. Every
//! refusal has a machine's reason and says what to do; nothing here is a default that lets somebody in.
mod calls;
mod grant;
mod pace;
mod records;
mod subject;

pub use calls::{Access, CALLS, Call, call, permit, speaks_for};
pub use grant::{Asked, AskedName, check as check_request};
pub use pace::{Pace, Paces};
pub use records::{
    CertificateRecord, IdentityRecord, Misuse, NewCertificate, Records, SpentBy, Standing, TokenEnd, TokenRecord, role,
};
pub use subject::{Role, Subject, is_name};

/// Why an identity, a token or a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub class: DeniedClass,
    /// `ErrorInfo.reason`, for example `ROLE_INSUFFICIENT`.
    pub reason: &'static str,
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

/// The shell maps it to a gRPC code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedClass {
    /// Nobody that counts: connect with another certificate.
    Unauthenticated,
    /// Known, and not allowed this.
    Forbidden,
    /// What was asked for is wrong whoever asks.
    Invalid,
    NotFound,
    Exists,
    /// A limit is reached.
    Exhausted,
}

fn denied(class: DeniedClass, reason: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Denied {
    Denied { class, reason, message: message.into(), hint: hint.into() }
}
