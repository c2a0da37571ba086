//! gRPC health checks: asks `grpc.health.v1.Health/Check` in plaintext. Serving passes; refused, silent, not serving or
//! without that service fails, as all of it was seen; a name that cannot be resolved is not known.
use std::sync::Mutex;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use pitwall_proto::v1;
use tonic::{Code, Request, Status, client::Grpc, transport::Endpoint};
use tower::service_fn;

use super::{Seen, net};

const METHOD: PathAndQuery = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
/// An answer has two bytes.
const ANSWER_BYTES: usize = 4 * 1_024;
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

pub async fn check(rule: &v1::GrpcCheck) -> Seen {
    let what = match rule.service.as_str() {
        "" => rule.address.clone(),
        service => format!("{} of {}", service, rule.address),
    };
    let stream = match net::connect(&rule.address).await {
        Ok((stream, _)) => Mutex::new(Some(stream)),
        Err(seen) => return *seen,
    };
    let Ok(endpoint) = Endpoint::from_shared(format!("http://{}", rule.address)) else {
        return Seen::unknown(format!("{} is not host:port", rule.address));
    };
    // One connection, and no second.
    let connector = service_fn(move |_| {
        let stream = stream.lock().ok().and_then(|mut stream| stream.take());
        async move { stream.map(TokioIo::new).ok_or_else(|| std::io::Error::other("the connection ended")) }
    });
    let channel = match endpoint.connect_with_connector(connector).await {
        Ok(channel) => channel,
        Err(_) => return Seen::failed(format!("{} does not speak gRPC", rule.address)),
    };
    let mut client = Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES);
    if let Err(error) = client.ready().await {
        return Seen::failed(format!("{what}: {error}"));
    }
    let request = Request::new(HealthCheckRequest { service: rule.service.clone() });
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    match client.unary(request, METHOD, codec).await {
        Ok(answer) if answer.get_ref().status == SERVING => Seen::passed(format!("{what} serves")),
        Ok(answer) => Seen::failed(format!("{what} is {}", word(answer.get_ref().status))),
        Err(status) => refused(&what, &status),
    }
}

fn word(status: i32) -> &'static str {
    match status {
        2 => "not serving",
        3 => "unknown to its server",
        _ => "in no state that it names",
    }
}

fn refused(what: &str, status: &Status) -> Seen {
    Seen::failed(match status.code() {
        Code::Unimplemented => format!("{what} does not serve grpc.health.v1"),
        Code::NotFound => format!("{what} is unknown to its server"),
        code => format!("{what} answers {code:?}: {}", super::excerpt(status.message().as_bytes())),
    })
}

#[cfg(test)]
mod tests {
    use pitwall_proto::v1::Outcome;

    use super::*;

    fn rule(address: String) -> v1::GrpcCheck {
        v1::GrpcCheck { address, service: String::new() }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nobody_there_and_no_grpc_fail_and_no_address_is_not_known() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        // Somebody who speaks something else.
        let server = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await.unwrap();
            drop(listener);
        });
        let seen = check(&rule(address.clone())).await;
        assert_eq!(seen.outcome, Outcome::Failed, "{seen:?}");
        server.await.unwrap();
        let refused = check(&rule(address)).await;
        assert!(refused.outcome == Outcome::Failed && refused.evidence.summary.contains("refused"), "{refused:?}");
        assert_eq!(check(&rule("no port".into())).await.outcome, Outcome::Unknown);
    }
}
