//! The other end of one connection: what its certificate says, and what was renewed on it since.
use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use pitwall_core::identity::{Denied, DeniedClass, Subject};

use crate::identity::{certificate::Seen, keeper::Keeper};

/// Shared by the connection and every request on it.
#[derive(Debug)]
pub struct Peer {
    pub address: IpAddr,
    who: Who,
    /// The last certificate that was renewed on this connection: it counts as the connection's own.
    renewed: Mutex<Option<Seen>>,
}

#[derive(Debug)]
enum Who {
    /// `--insecure`, on loopback: there are no identities.
    Plaintext,
    Nobody,
    /// With a certificate that the authority did not sign for a client, and why that is so.
    Untrusted(String),
    /// Signed by the authority, and the peer has the key. Whether it counts is asked at each call.
    Named(Box<Seen>, Arc<Keeper>),
}

impl Peer {
    fn new(address: IpAddr, who: Who) -> Arc<Self> {
        Arc::new(Self { address, who, renewed: Mutex::default() })
    }

    pub fn plaintext(address: IpAddr) -> Arc<Self> {
        Self::new(address, Who::Plaintext)
    }

    pub fn nobody(address: IpAddr) -> Arc<Self> {
        Self::new(address, Who::Nobody)
    }

    pub fn untrusted(address: IpAddr, why: String) -> Arc<Self> {
        Self::new(address, Who::Untrusted(why))
    }

    pub fn named(address: IpAddr, seen: Seen, keeper: Arc<Keeper>) -> Arc<Self> {
        Self::new(address, Who::Named(Box::new(seen), keeper))
    }

    pub fn is_plaintext(&self) -> bool {
        matches!(self.who, Who::Plaintext)
    }

    /// Without a certificate that names anybody.
    pub fn is_stranger(&self) -> bool {
        matches!(self.who, Who::Nobody | Who::Untrusted(_))
    }

    /// Whoever gives orders.
    pub fn is_operator(&self) -> bool {
        self.is_plaintext() || matches!(self.subject(), Some(Subject::Operator { .. }))
    }

    /// Whom the certificate names, whether it counts or not.
    pub fn subject(&self) -> Option<&Subject> {
        match &self.who {
            Who::Named(seen, _) => Some(&seen.subject),
            Who::Plaintext | Who::Nobody | Who::Untrusted(_) => None,
        }
    }

    /// Why nothing of this peer counts any more. A peer without a certificate has nothing to lose.
    pub fn standing(&self) -> Result<(), Denied> {
        let (seen, keeper) = match &self.who {
            Who::Plaintext | Who::Nobody => return Ok(()),
            Who::Untrusted(why) => return Err(untrusted(why)),
            Who::Named(seen, keeper) => (seen, keeper),
        };
        let renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match renewed.map(|renewed| keeper.check(&renewed)) {
            Some(Ok(_)) => Ok(()),
            // The newer one says more about why.
            Some(Err(denied)) => keeper.check(seen).map(|_| ()).map_err(|_| denied),
            None => keeper.check(seen).map(|_| ()),
        }
    }

    /// The certificates that count for this connection while they count at all, the newest first.
    pub fn held(&self) -> Vec<Seen> {
        let Who::Named(seen, _) = &self.who else { return Vec::new() };
        let renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        renewed.into_iter().chain([Seen::clone(seen)]).collect()
    }

    /// From now on this certificate counts for the connection too: its open streams go on until that one's end.
    pub fn renew(&self, seen: Seen) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
    }
}

fn untrusted(why: &str) -> Denied {
    Denied {
        class: DeniedClass::Unauthenticated,
        reason: "CERTIFICATE_UNTRUSTED",
        message: format!("the client's certificate was not made by this orchestrator's authority: {why}"),
        hint: "use an identity that this orchestrator made: `pitwall identity create NAME --role ROLE --out DIR`"
            .into(),
    }
}
