//! HTTP checks: one GET over HTTP/1.1, its status, and conditions on its JSON body. No redirect is followed, nothing is
//! kept alive; what the server sends is bounded ([`HEAD_MAX`], [`BODY_MAX`]). The time limit is the caller's.
//! https is unknown until certificates come.
use http::Uri;
use pitwall_proto::v1::{HttpCheck, JsonCondition};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Seen, excerpt, net};

pub const HEAD_MAX: usize = 32 * 1024;
pub const BODY_MAX: usize = 1024 * 1024;
const HEADERS_MAX: usize = 96;
/// "100 Continue" and the like before the answer.
const INTERIM_MAX: usize = 8;

pub async fn check(rule: &HttpCheck) -> Seen {
    match get(&rule.url).await {
        Ok(answer) => judge(rule, &answer),
        Err(seen) => *seen,
    }
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    body: Body,
}

#[derive(Debug, PartialEq)]
enum Body {
    Whole(Vec<u8>),
    /// More than [`BODY_MAX`] bytes.
    TooLarge,
    /// The connection ended before it was whole.
    Torn(usize),
}

fn judge(rule: &HttpCheck, answer: &Answer) -> Seen {
    let wanted = if rule.status == 0 { 200 } else { rule.status };
    let (status, body) = (u32::from(answer.status), &answer.body);
    let told = format!("GET {}: {status}", rule.url);
    let mut seen = match body {
        _ if status != wanted => Seen::failed(format!("{told}, {wanted} is wanted")),
        Body::TooLarge if !rule.json.is_empty() => {
            Seen::unknown(format!("{told}, with more than the {BODY_MAX} bytes that are read"))
        }
        Body::Torn(n) => Seen::failed(format!("{told}, but the answer broke off after {n} bytes")),
        Body::TooLarge => Seen::passed(told),
        Body::Whole(_) if rule.json.is_empty() => Seen::passed(told),
        Body::Whole(bytes) => judge_json(&told, bytes, &rule.json),
    };
    seen.evidence.http_status = Some(status);
    if let Body::Whole(bytes) = body {
        seen.evidence.size_bytes = Some(bytes.len() as u64);
        seen.evidence.digest = blake3::hash(bytes).to_hex().to_string();
        if seen.evidence.excerpt.is_empty() {
            seen.evidence.excerpt = excerpt(bytes);
        }
    }
    seen
}

fn judge_json(told: &str, bytes: &[u8], conditions: &[JsonCondition]) -> Seen {
    let body: Value = match serde_json::from_slice(bytes) {
        Ok(body) => body,
        Err(error) => return Seen::failed(format!("{told}, its body is not JSON: {error}")),
    };
    for JsonCondition { pointer, equals_json } in conditions {
        let Some(found) = body.pointer(pointer) else {
            return Seen::failed(format!("{told}, its body has no {pointer}"));
        };
        if equals_json.is_empty() {
            continue;
        }
        let wanted: Value = match serde_json::from_str(equals_json) {
            Ok(wanted) => wanted,
            Err(error) => return Seen::unknown(format!("the wanted {equals_json} is not JSON: {error}")),
        };
        if !equal(found, &wanted) {
            let mut seen = Seen::failed(format!("{told}, {pointer} is not {}", excerpt(equals_json.as_bytes())));
            seen.evidence.excerpt = excerpt(format!("{pointer}: {found}").as_bytes());
            return seen;
        }
    }
    Seen::passed(match conditions {
        [one] => format!("{told}, {} is as wanted", one.pointer),
        _ => format!("{told}, all {} conditions on its body hold", conditions.len()),
    })
}

/// 1 and 1.0 are the same number.
fn equal(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => found == wanted,
    }
}

async fn get(url: &str) -> Result<Answer, Box<Seen>> {
    let wrong = |why: &str| Err(Box::new(Seen::unknown(format!("{url} cannot be asked: {why}"))));
    let Ok(uri) = url.parse::<Uri>() else { return wrong("it is not a URL") };
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return wrong("this version asks by http only"),
        Some(_) | None => return wrong("it does not begin with http://"),
    }
    let Some(authority) = uri.authority() else { return wrong("it names no host") };
    if authority.as_str().contains('@') {
        return wrong("it has a user name in it");
    }
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let (mut stream, _) = net::connect(&address).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: pitwall-sidecar/{}\r\nAccept: application/json, */*\r\n\
         Accept-Encoding: identity\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    let broke = |error: std::io::Error| {
        Box::new(Seen::failed(format!("GET {url}: the connection broke: {}", net::plain(&error))))
    };
    stream.write_all(request.as_bytes()).await.map_err(broke)?;
    let mut reader = Reader { stream, buffer: Vec::new() };
    reader.answer().await.map_err(|why| Box::new(Seen::failed(format!("GET {url}: {why}"))))
}

/// What a head says of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

struct Reader<S> {
    stream: S,
    /// Read and not used up.
    buffer: Vec<u8>,
}

impl<S: tokio::io::AsyncRead + Unpin> Reader<S> {
    /// `false`: the other side has closed.
    async fn more(&mut self) -> Result<bool, String> {
        let mut chunk = [0; 8 * 1024];
        match self.stream.read(&mut chunk).await {
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                Ok(n > 0)
            }
            Err(error) => Err(format!("the connection broke: {}", net::plain(&error))),
        }
    }

    async fn answer(&mut self) -> Result<Answer, String> {
        for _ in 0..INTERIM_MAX {
            let (status, framing) = self.head().await?;
            if !(100..200).contains(&status) {
                return Ok(Answer { status, body: self.body(framing).await? });
            }
        }
        Err(format!("more than {INTERIM_MAX} interim answers"))
    }

    async fn head(&mut self) -> Result<(u16, Framing), String> {
        loop {
            if let Some((used, status, framing)) = parse_head(&self.buffer)? {
                self.buffer.drain(..used);
                return Ok((status, framing));
            }
            if self.buffer.len() > HEAD_MAX {
                return Err(format!("the answer's head is larger than {HEAD_MAX} bytes"));
            }
            if !self.more().await? {
                return Err("the server closed the connection without an answer".into());
            }
        }
    }

    async fn body(&mut self, framing: Framing) -> Result<Body, String> {
        match framing {
            Framing::None => Ok(Body::Whole(Vec::new())),
            Framing::Length(length) if length > BODY_MAX as u64 => Ok(Body::TooLarge),
            Framing::Length(length) => {
                let length = usize::try_from(length).unwrap_or(BODY_MAX);
                while self.buffer.len() < length {
                    if !self.more().await.unwrap_or(false) {
                        return Ok(Body::Torn(self.buffer.len()));
                    }
                }
                self.buffer.truncate(length);
                Ok(Body::Whole(std::mem::take(&mut self.buffer)))
            }
            Framing::UntilClose => {
                while self.buffer.len() <= BODY_MAX {
                    match self.more().await {
                        Ok(true) => {}
                        Ok(false) => return Ok(Body::Whole(std::mem::take(&mut self.buffer))),
                        Err(_) => return Ok(Body::Torn(self.buffer.len())),
                    }
                }
                Ok(Body::TooLarge)
            }
            Framing::Chunked => self.chunks().await,
        }
    }

    async fn chunks(&mut self) -> Result<Body, String> {
        let mut body = Vec::new();
        loop {
            let (used, size) = match httparse::parse_chunk_size(&self.buffer) {
                Ok(httparse::Status::Complete((used, size))) => (used, size),
                // A chunk's size line with its extensions is short.
                Ok(httparse::Status::Partial) if self.buffer.len() < 4 * 1024 => {
                    if !self.more().await.unwrap_or(false) {
                        return Ok(Body::Torn(body.len()));
                    }
                    continue;
                }
                Ok(httparse::Status::Partial) | Err(_) => return Err("a chunk of the answer has no valid size".into()),
            };
            self.buffer.drain(..used);
            if size == 0 {
                return Ok(Body::Whole(body));
            }
            if size > (BODY_MAX - body.len()) as u64 {
                return Ok(Body::TooLarge);
            }
            let size = usize::try_from(size).unwrap_or(BODY_MAX);
            // With the line end behind it.
            while self.buffer.len() < size + 2 {
                if !self.more().await.unwrap_or(false) {
                    return Ok(Body::Torn(body.len() + self.buffer.len().min(size)));
                }
            }
            body.extend(self.buffer.drain(..size));
            if !self.buffer.starts_with(b"\r\n") {
                return Err("a chunk of the answer is longer than its size".into());
            }
            self.buffer.drain(..2);
        }
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<(usize, u16, Framing)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let used = match response.parse(bytes) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("the answer is not HTTP/1.1: {error}")),
    };
    let status = response.code.ok_or("the answer has no status")?;
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(header.value).trim().to_ascii_lowercase())
    };
    let framing = if matches!(status, 100..=199 | 204 | 304) {
        Framing::None
    } else if value("transfer-encoding").is_some_and(|coding| coding.ends_with("chunked")) {
        Framing::Chunked
    } else if let Some(length) = value("content-length") {
        Framing::Length(
            length.parse().map_err(|_| format!("the answer's content-length is {}", excerpt(length.as_bytes())))?,
        )
    } else {
        Framing::UntilClose
    };
    Ok(Some((used, status, framing)))
}

#[cfg(test)]
mod tests {
    use pitwall_proto::v1::Outcome;
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one connection with these bytes, and closes.
    async fn serve(answer: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/api/talents?x=1", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            assert!(request.starts_with(b"GET /api/talents?x=1 HTTP/1.1\r\n"));
            let _ = stream.write_all(&answer).await;
        });
        url
    }

    fn condition(pointer: &str, equals_json: &str) -> JsonCondition {
        JsonCondition { pointer: pointer.into(), equals_json: equals_json.into() }
    }

    async fn asked(answer: &str, status: u32, json: Vec<JsonCondition>) -> Seen {
        let url = serve(answer.as_bytes().to_vec()).await;
        check(&HttpCheck { url, status, json }).await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn answers_are_judged_by_status_and_body_however_they_are_framed() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{\"talents\":[{\"id\":7.0}],\"a\"";
        let good = "HTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\n{\"talents\":[{\"id\":7.0}]}";
        let chunked = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       a;x=y\r\n{\"talents\"\r\ne\r\n:[{\"id\":7.0}]}\r\n0\r\n\r\n";
        let close = "HTTP/1.0 200 OK\r\n\r\n{\"talents\":[{\"id\":7.0}]}";
        let id = || vec![condition("/talents/0/id", "")];
        let table: Vec<(&str, u32, Vec<JsonCondition>, Outcome)> = vec![
            (good, 200, id(), Outcome::Passed),
            (good, 0, vec![], Outcome::Passed),
            (chunked, 200, id(), Outcome::Passed),
            (close, 200, id(), Outcome::Passed),
            (good, 200, vec![condition("/talents/0/id", "7")], Outcome::Passed),
            (good, 200, vec![condition("/talents/0", "{\"id\": 7}")], Outcome::Passed),
            (good, 200, vec![condition("/talents/0/id", "8")], Outcome::Failed),
            (good, 200, vec![condition("/talents/1", "")], Outcome::Failed),
            (good, 200, vec![condition("/talents", "nonsense")], Outcome::Unknown),
            (good, 404, vec![], Outcome::Failed),
            (whole, 200, id(), Outcome::Failed),
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, vec![], Outcome::Passed),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort", 200, vec![], Outcome::Failed),
            ("HTTP/1.1 200 OK\r\nContent-Length: no\r\n\r\n", 200, vec![], Outcome::Failed),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 200, vec![], Outcome::Failed),
            ("SSH-2.0-OpenSSH\r\n", 200, vec![], Outcome::Failed),
            ("", 200, vec![], Outcome::Failed),
        ];
        for (answer, status, json, outcome) in table {
            let seen = asked(answer, status, json.clone()).await;
            assert_eq!(seen.outcome, outcome, "{answer} {json:?}: {seen:?}");
        }
        let seen = asked(good, 200, id()).await;
        assert_eq!((seen.evidence.http_status, seen.evidence.size_bytes), (Some(200), Some(24)));
        assert!(seen.evidence.excerpt.contains("talents") && !seen.evidence.digest.is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_server_that_sends_without_end_is_cut_off() {
        let flood = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(BODY_MAX + 100_000));
        assert_eq!(asked(&flood, 200, vec![]).await.outcome, Outcome::Passed);
        assert_eq!(asked(&flood, 200, vec![condition("", "")]).await.outcome, Outcome::Unknown);
        let chunk = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", u64::MAX);
        assert_eq!(asked(&chunk, 200, vec![condition("", "")]).await.outcome, Outcome::Unknown);
        let head = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(2 * HEAD_MAX));
        assert!(asked(&head, 200, vec![]).await.evidence.summary.contains("larger than"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_cannot_be_asked_is_unknown_and_a_refusal_fails() {
        for url in ["https://127.0.0.1/", "ftp://x/", "not a url", "http://user@127.0.0.1/", ""] {
            let rule = HttpCheck { url: url.into(), status: 200, json: vec![] };
            assert_eq!(check(&rule).await.outcome, Outcome::Unknown, "{url}");
        }
        let rule = HttpCheck { url: "http://127.0.0.1:1/".into(), status: 200, json: vec![] };
        assert_eq!(check(&rule).await.outcome, Outcome::Failed);
    }
}
