//! Authentication and roles, for every call in this one place: whether the peer's certificate counts now, and whether
//! whom it names may make this call. The answer's body is guarded, so that a stream ends when its identity does.
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pitwall_core::identity::{Denied, DeniedClass, permit};
use tonic::body::Body;
use tower::{Layer, Service};

use super::{guard::Guard, peer::Peer, refused};

#[derive(Clone, Copy, Debug, Default)]
pub struct AuthLayer;

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth { inner }
    }
}

#[derive(Clone, Debug)]
pub struct Auth<S> {
    inner: S,
}

/// Plaintext has no identities: everything is permitted on loopback but what is about identities.
fn admitted(peer: Option<&Arc<Peer>>, path: &str) -> Result<(), Denied> {
    let Some(peer) = peer else {
        return Err(Denied {
            class: DeniedClass::Unauthenticated,
            reason: "PEER_UNKNOWN",
            message: "it is not known who calls".into(),
            hint: String::new(),
        });
    };
    if peer.is_plaintext() {
        let about_identities = path.starts_with("/pitwall.v1.IdentityService/");
        return if about_identities && path != "/pitwall.v1.IdentityService/ListAuditEntries" {
            Err(Denied {
                class: DeniedClass::Forbidden,
                reason: "NO_IDENTITIES",
                message: "this orchestrator runs with --insecure: there are no identities".into(),
                hint: "start `pitwall serve` without --insecure".into(),
            })
        } else {
            Ok(())
        };
    }
    peer.standing()?;
    permit(path, peer.subject()).map(|_| ())
}

impl<S> Service<http::Request<Body>> for Auth<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        if let Err(denied) = admitted(peer.as_ref(), request.uri().path()) {
            return Box::pin(async move { Ok(refused(&denied).into_http()) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(match peer.filter(|peer| peer.subject().is_some()) {
                Some(peer) => answer.map(|body| Body::new(Guard::new(body, peer))),
                None => answer,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    /// A method that is served and not in the table would be refused to everybody.
    #[test]
    fn every_method_that_is_served_is_in_the_table_of_calls() {
        let sets = [pitwall_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
        let mut methods = 0;
        for set in sets {
            for file in prost_types::FileDescriptorSet::decode(set).unwrap().file {
                for service in &file.service {
                    for method in &service.method {
                        let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                        assert!(pitwall_core::identity::call(&path).is_some(), "{path}");
                        methods += 1;
                    }
                }
            }
        }
        assert!(methods > 20, "{methods}");
    }
}
