//! Real sockets on loopback: a development server whose routes are files, a database that accepts connections, and
//! a client that asks. Each connection is short and bounded in time and size.
use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    path::Path,
    thread,
    time::Duration,
};

use super::files;
use crate::demo::ports::listen_on;

const TIMEOUT: Duration = Duration::from_millis(500);
const REQUEST_MAX: u64 = 8 * 1024;
const ANSWER_MAX: u64 = 256 * 1024;

/// Serves `GET /api/NAME` from `source/api/NAME/route.ts` below the workspace, one connection after the other.
pub fn serve_routes(workspace: &Path, source: &str, port: u16, anywhere: bool) -> io::Result<()> {
    let listener = listen_on(port, anywhere)?;
    let api = workspace.join(source).join("api");
    thread::Builder::new().name("routes".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away or is slow harms only itself.
            answer(stream, &api).ok();
        }
    })?;
    Ok(())
}

fn answer(mut stream: TcpStream, api: &Path) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request = read_head(&mut stream)?;
    let path = request.strip_prefix("GET ").and_then(|r| r.split([' ', '?']).next()).unwrap_or_default();
    let name = path.strip_prefix("/api/").unwrap_or_default().trim_end_matches('/');
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let route = if plain { fs::read_to_string(api.join(name).join("route.ts")).ok() } else { None };
    let (status, body) = match route.as_deref().map(|source| files::answer(name, source)) {
        Some(Some(body)) => ("200 OK", body),
        Some(None) => ("500 Internal Server Error", "{\"error\":\"the route has no handler that works\"}".into()),
        None => ("404 Not Found", "{\"error\":\"no such route\"}".into()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut chunk = [0_u8; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut chunk)?;
        if n == 0 || head.len() as u64 > REQUEST_MAX {
            break;
        }
        head.extend_from_slice(&chunk[..n]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// A vector database as far as anybody here can tell: it takes connections.
pub fn serve_database(port: u16, anywhere: bool) -> io::Result<()> {
    let listener = listen_on(port, anywhere)?;
    thread::Builder::new().name("database".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            greet(stream).ok();
        }
    })?;
    Ok(())
}

fn greet(mut stream: TcpStream) -> io::Result<()> {
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(b"ready\n")
}

pub fn connects(host: &str, port: u16) -> bool {
    connect(host, port).is_ok()
}

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let address = (host, port).to_socket_addrs()?.next().ok_or_else(|| io::Error::other("no address"))?;
    TcpStream::connect_timeout(&address, TIMEOUT)
}

/// Status and body of a GET.
pub fn get(host: &str, port: u16, path: &str) -> io::Result<(u16, String)> {
    let mut stream = connect(host, port)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no HTTP answer"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| io::Error::other("no status"))?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::ports::Reserved;

    const LOCAL: &str = "127.0.0.1";

    #[test]
    fn a_route_is_served_from_its_file_as_soon_as_it_is_there() {
        let workspace = tempfile::tempdir().expect("a folder");
        let reserved = Reserved::new().expect("a port");
        let port = reserved.port();
        assert!(!connects(LOCAL, port), "a reserved port must refuse");
        serve_routes(workspace.path(), "app", port, false).expect("serves");
        assert_eq!(get(LOCAL, port, "/api/talents").expect("an answer").0, 404);
        files::write(workspace.path(), &files::route("app/api/talents/route.ts").expect("a route")).expect("written");
        let (status, body) = get(LOCAL, port, "/api/talents").expect("an answer");
        assert_eq!(status, 200);
        assert!(body.contains("talents-1"), "{body}");
        assert_eq!(get(LOCAL, port, "/api/../../etc/passwd").expect("an answer").0, 404);
    }
}
