//! The audit, for every call in this one place: each mutation with its outcome, written before it is answered, and each
//! refusal, also one that ends a stream later. Handlers add what was asked in words ([`Noted`]).
use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use http_body::{Frame, SizeHint};
use pitwall_core::identity::call;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::peer::Peer;
use crate::{
    identity::{
        self,
        audit::{Audit, Entry},
    },
    serve::status::status,
};

/// Ending somebody's access does not wait for a disk.
const ALWAYS: &str = "IdentityService/RevokeIdentity";

/// In the extensions of each request: what is asked, for people. The first word counts.
#[derive(Clone, Debug, Default)]
pub struct Noted(Arc<OnceLock<String>>);

impl Noted {
    pub fn set(&self, what: String) {
        // Said already.
        let _ = self.0.set(what);
    }

    pub fn note<T>(request: &tonic::Request<T>, what: impl FnOnce() -> String) {
        if let Some(noted) = request.extensions().get::<Self>() {
            noted.set(what());
        }
    }
}

#[derive(Clone, Debug)]
pub struct AuditLayer {
    audit: Arc<Audit>,
}

impl AuditLayer {
    pub fn new(audit: Arc<Audit>) -> Self {
        Self { audit }
    }
}

impl<S> Layer<S> for AuditLayer {
    type Service = Audited<S>;

    fn layer(&self, inner: S) -> Audited<S> {
        Audited { inner, audit: self.audit.clone() }
    }
}

#[derive(Clone, Debug)]
pub struct Audited<S> {
    inner: S,
    audit: Arc<Audit>,
}

impl<S> Service<http::Request<Body>> for Audited<S>
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

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let known = call(path);
        let record = Record {
            audit: self.audit.clone(),
            peer: request.extensions().get::<Arc<Peer>>().cloned(),
            // The path is a stranger's to choose: one of many would be a refusal of its own kind each time.
            call: known.map_or("unknown", |call| call.name),
            mutates: known.is_some_and(|call| call.mutates),
            noted: Noted::default(),
        };
        if record.mutates && record.call != ALWAYS && !self.audit.is_writable() {
            let told = status(
                Code::Unavailable,
                "AUDIT_UNWRITABLE",
                "the audit log cannot be written, so nothing is changed",
                "look at the orchestrator's log, and at the room on its disk",
            );
            // Its success makes the log writable again.
            record.refused(&told);
            return Box::pin(async move { Ok(told.into_http()) });
        }
        request.extensions_mut().insert(record.noted.clone());
        let mutates = record.mutates;
        let answer = recorded(self.inner.call(request), record);
        if !mutates {
            return Box::pin(answer);
        }
        // To its end whatever becomes of the caller: one that is cut off after it changed something is in the log.
        let answer = tokio::spawn(answer);
        Box::pin(async move {
            answer.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a call failed");
                let told = status(Code::Internal, "CALL_FAILED", "the call failed", "see the orchestrator's log");
                Ok(told.into_http())
            })
        })
    }
}

async fn recorded<E>(
    answer: impl Future<Output = Result<http::Response<Body>, E>>,
    record: Record,
) -> Result<http::Response<Body>, E> {
    let answer = answer.await?;
    match Status::from_header_map(answer.headers()) {
        Some(told) => {
            record.ended(&told).await;
            Ok(answer)
        }
        // Begun well: a unary call has succeeded, a stream may end badly yet.
        None if record.mutates => {
            record.ended(&Status::ok("")).await;
            Ok(answer)
        }
        None => Ok(answer.map(|body| Body::new(Trailing { inner: body, record: Some(record) }))),
    }
}

/// One call as it will stand in the log.
struct Record {
    audit: Arc<Audit>,
    peer: Option<Arc<Peer>>,
    call: &'static str,
    mutates: bool,
    noted: Noted,
}

impl Record {
    fn entry(&self, told: &Status) -> Entry {
        use tonic_types::StatusExt as _;
        let subject = self.peer.as_ref().and_then(|peer| peer.subject());
        let details = told.get_error_details();
        Entry {
            at: identity::now(),
            who: subject.map(ToString::to_string).unwrap_or_default(),
            from: self.peer.as_ref().map(|peer| peer.address.to_string()).unwrap_or_default(),
            call: self.call.into(),
            what: self.noted.0.get().cloned().unwrap_or_default(),
            outcome: if told.code() == Code::Ok { "OK".into() } else { format!("{:?}", told.code()) },
            reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
            message: told.message().into(),
            times: 1,
        }
    }

    fn refused(&self, told: &Status) {
        self.audit.refusal(self.entry(told));
    }

    async fn ended(&self, told: &Status) {
        // What a stranger or a sidecar gets wrong must not fill the log of changes: it is counted with its like.
        let trusted = self.peer.as_ref().is_some_and(|peer| peer.is_operator());
        if is_refusal(told.code()) || (!trusted && told.code() != Code::Ok) {
            self.refused(told);
        } else if self.mutates && !self.audit.change(self.entry(told)).await {
            tracing::error!(call = self.call, "was not written to the audit log");
        }
    }
}

fn is_refusal(code: Code) -> bool {
    matches!(code, Code::Unauthenticated | Code::PermissionDenied | Code::ResourceExhausted)
}

/// Looks at how a stream ends.
struct Trailing {
    inner: Body,
    /// `None`: it was told.
    record: Option<Record>,
}

type Data = <Body as http_body::Body>::Data;

impl http_body::Body for Trailing {
    type Data = Data;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(told) = frame.trailers_ref().and_then(Status::from_header_map)
            && let Some(record) = self.record.take()
            && is_refusal(told.code())
        {
            record.refused(&told);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_change_is_in_the_log_though_its_caller_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Arc::new(Audit::open(dir.path()).unwrap());
        let (begun, mut has_begun) = tokio::sync::mpsc::channel(1);
        let (go, may_go) = tokio::sync::watch::channel(false);
        let slow = tower::service_fn(move |request: http::Request<Body>| {
            let (begun, mut may_go) = (begun.clone(), may_go.clone());
            async move {
                request.extensions().get::<Noted>().unwrap().set("tell a: x".into());
                begun.send(()).await.unwrap();
                may_go.wait_for(|go| *go).await.unwrap();
                Ok::<_, Infallible>(http::Response::new(Body::empty()))
            }
        });
        let mut layered = AuditLayer::new(audit.clone()).layer(slow);
        let path = "/pitwall.v1.ControlService/IssueCommand";
        let request = http::Request::builder().uri(path).body(Body::empty()).unwrap();
        let answer = tokio::spawn(layered.call(request));
        has_begun.recv().await.unwrap();
        answer.abort();
        assert!(answer.await.unwrap_err().is_cancelled());
        assert_eq!(audit.list(10, |_| true).await, []);
        go.send(true).unwrap();
        let told = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                let told = audit.list(10, |_| true).await;
                if !told.is_empty() {
                    break told;
                }
                tokio::task::yield_now().await;
            }
        });
        let told = told.await.unwrap();
        assert_eq!((told[0].outcome.as_str(), told[0].what.as_str()), ("OK", "tell a: x"));
    }

    fn asked(path: &str, peer: Arc<Peer>) -> http::Request<Body> {
        let mut request = http::Request::builder().uri(path).body(Body::empty()).unwrap();
        request.extensions_mut().insert(peer);
        request
    }

    fn stranger() -> Arc<Peer> {
        Peer::nobody([192, 0, 2, 1].into())
    }

    #[tokio::test]
    async fn paths_that_are_no_calls_are_one_kind_of_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Arc::new(Audit::open(dir.path()).unwrap());
        let refuses = tower::service_fn(|_| async {
            Ok::<_, Infallible>(status(Code::PermissionDenied, "CALL_UNKNOWN", "no call", "").into_http())
        });
        let mut layered = AuditLayer::new(audit.clone()).layer(refuses);
        for n in 0..50 {
            layered.call(asked(&format!("/x{n}"), stranger())).await.unwrap();
        }
        let told: Vec<_> = audit.list(100, |_| true).await.into_iter().map(|e| (e.call, e.times)).collect();
        assert_eq!(told.iter().map(|(_, times)| times).sum::<u32>(), 50);
        assert!(told.len() <= 4 && told.iter().all(|(call, _)| call == "unknown"), "{told:?}");
    }

    #[tokio::test]
    async fn what_a_sidecar_gets_wrong_is_counted_and_what_it_changes_is_told() {
        use rustls::pki_types::{CertificateDer, pem::PemObject as _};

        use crate::identity::{
            certificate,
            keeper::{Keeper, Lives},
            request,
        };
        let dir = tempfile::tempdir().unwrap();
        let audit = Arc::new(Audit::open(dir.path()).unwrap());
        let keeper = Arc::new(Keeper::open(dir.path(), Lives::default()).unwrap());
        let (token, _) = keeper.create_token("p", "a", Duration::from_secs(60)).unwrap();
        let (_, signed) = keeper.enrol(&token, &request::make().unwrap().1).unwrap();
        let seen = certificate::client(&CertificateDer::from_pem_slice(signed.pem.as_bytes()).unwrap()).unwrap();
        let sidecar = Peer::named([192, 0, 2, 1].into(), seen, keeper);
        let renew = "/pitwall.v1.IdentityService/Renew";
        let wrong = tower::service_fn(|_| async {
            Ok::<_, Infallible>(status(Code::InvalidArgument, "REQUEST_MALFORMED", "it is none", "").into_http())
        });
        let mut layered = AuditLayer::new(audit.clone()).layer(wrong);
        for _ in 0..50 {
            layered.call(asked(renew, sidecar.clone())).await.unwrap();
        }
        let right = tower::service_fn(|_| async { Ok::<_, Infallible>(http::Response::new(Body::empty())) });
        AuditLayer::new(audit.clone()).layer(right).call(asked(renew, sidecar)).await.unwrap();
        audit.list(100, |_| true).await;
        let lines = |name: &str| std::fs::read_to_string(dir.path().join("audit").join(name)).unwrap().lines().count();
        assert_eq!(lines("changes.jsonl"), 1);
        assert!(lines("refusals.jsonl") <= 4);
    }

    #[tokio::test]
    async fn without_a_log_nothing_is_changed_but_access_ended() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Arc::new(Audit::open(dir.path()).unwrap());
        let done = tower::service_fn(|_| async { Ok::<_, Infallible>(http::Response::new(Body::empty())) });
        let mut layered = AuditLayer::new(audit.clone()).layer(done);
        let mut code = async |path: &str| {
            let peer = Peer::plaintext([127, 0, 0, 1].into());
            let answer = layered.call(asked(path, peer)).await.unwrap();
            Status::from_header_map(answer.headers()).map(|told| told.code())
        };
        // Grown enough to be put aside, and something in the way of that.
        let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("audit/changes.jsonl")).unwrap();
        file.set_len(64 * 1024 * 1024).unwrap();
        for n in 1..=4 {
            std::fs::create_dir_all(dir.path().join(format!("audit/changes.{n}.jsonl/x"))).unwrap();
        }
        let command = "/pitwall.v1.ControlService/IssueCommand";
        assert_eq!(code(command).await, None);
        assert_eq!(code(command).await, Some(Code::Unavailable));
        assert_eq!(code("/pitwall.v1.IdentityService/RevokeIdentity").await, None);
        assert_eq!(code(command).await, Some(Code::Unavailable));
        assert_eq!(code("/pitwall.v1.ControlService/GetSituation").await, None);
    }

    /// Whoever resets its calls as soon as they are understood has them carried out still.
    #[tokio::test]
    async fn a_mutation_keeps_its_place_though_its_caller_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Arc::new(Audit::open(dir.path()).unwrap());
        let (begun, mut has_begun) = tokio::sync::mpsc::channel(1);
        let slow = tower::service_fn(move |_| {
            let begun = begun.clone();
            async move {
                begun.send(()).await.unwrap();
                std::future::pending::<Result<http::Response<Body>, Infallible>>().await
            }
        });
        let mut layered = AuditLayer::new(audit).layer(crate::serve::calls::CallLayer::default().layer(slow));
        let enrol = "/pitwall.v1.IdentityService/Enrol";
        let refused = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                // Dropped once it has begun.
                let answer = layered.call(asked(enrol, stranger()));
                tokio::select! {
                    Some(()) = has_begun.recv() => {}
                    answer = answer => break answer.unwrap(),
                }
            }
        });
        let told = Status::from_header_map(refused.await.expect("there is a limit").headers()).unwrap();
        assert_eq!(told.code(), Code::ResourceExhausted);
    }
}
