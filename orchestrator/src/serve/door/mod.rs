//! Who comes in: connections with TLS and a peer each ([`tls`], [`connection`]), and the layers through which every call
//! passes once: [`audited`] outermost, then [`auth`], then the limits ([`super::calls`]). Rules are `pitwall_core::identity`; records are `crate::identity`.
pub mod audited;
pub mod auth;
pub mod connection;
pub mod guard;
pub mod peer;
pub mod places;
pub mod tls;

use pitwall_core::identity::{Denied, DeniedClass};
use tonic::{Code, Status};

use super::status::status;

pub fn refused(denied: &Denied) -> Status {
    let code = match denied.class {
        DeniedClass::Unauthenticated => Code::Unauthenticated,
        DeniedClass::Forbidden => Code::PermissionDenied,
        DeniedClass::Invalid => Code::InvalidArgument,
        DeniedClass::NotFound => Code::NotFound,
        DeniedClass::Exists => Code::AlreadyExists,
        DeniedClass::Exhausted => Code::ResourceExhausted,
    };
    status(code, denied.reason, denied.message.as_str(), &denied.hint)
}
