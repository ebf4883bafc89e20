//! Which engine's server answers at an address: what the engines' protocols say first tells them apart.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Engine;
use crate::api::EngineKind;

/// Those that are asked. The first speaks first: it is not sent what it would take for a broken client's.
const ENGINES: [EngineKind; 4] = [EngineKind::MySQL, EngineKind::Redis, EngineKind::PostgreSQL, EngineKind::MongoDB];
/// How long a connection may take, and an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longer than what is looked at of an answer.
const ENOUGH: usize = 512;

/// Name of the engine, as in `spec.engine`, whose server answers at `host:port`; none where it is `E`, nobody answers, or who it is cannot be told. Nothing is
/// logged in to.
pub async fn other_engine<E: Engine>(host: &str, port: u16) -> Option<&'static str> {
    if E::greets(&answer(host, port, E::HELLO).await?) {
        return None;
    }
    for kind in ENGINES {
        let (name, hello, greets) = with_engine!(kind, Other => (Other::NAME, Other::HELLO, Other::greets as fn(&[u8]) -> bool));
        if name != E::NAME && greets(&answer(host, port, hello).await?) {
            return Some(name);
        }
    }
    None
}

/// What comes first after these words, empty where nothing does; none without a connection.
async fn answer(host: &str, port: u16, hello: &[u8]) -> Option<Vec<u8>> {
    let mut stream = tokio::time::timeout(PATIENCE, TcpStream::connect((host, port))).await.ok()?.ok()?;
    let mut answer = vec![0; ENOUGH];
    let asked = async {
        stream.write_all(hello).await?;
        stream.read(&mut answer).await
    };
    let length = tokio::time::timeout(PATIENCE, asked).await.map_or(0, |read| read.unwrap_or(0));
    answer.truncate(length);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{postgresql::PostgreSql, redis::Redis};
    use tokio::net::TcpListener;

    /// A server that answers so once it is greeted so, or at once; of who does not, nothing is read.
    async fn told(hello: &'static [u8], says: &'static [u8]) -> Option<&'static str> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut found = vec![0; hello.len()];
                    if stream.read_exact(&mut found).await.is_ok() && found == hello {
                        let _ = stream.write_all(says).await;
                    }
                    // It waits for more.
                    let _ = stream.read(&mut [0]).await;
                });
            }
        });
        // Asked by those who expect each of two engines: what is expected is no other one.
        let (one, another) = (other_engine::<PostgreSql>("127.0.0.1", port).await, other_engine::<Redis>("127.0.0.1", port).await);
        server.abort();
        assert!(one != Some("PostgreSQL") && another != Some("Redis"), "{one:?} {another:?}");
        one.or(another)
    }

    #[tokio::test]
    async fn engines_are_told_apart() {
        let mysql = b"\x4a\x00\x00\x00\x0a8.0.46\x00and more";
        let blocked = b"\x45\x00\x00\x00\xff\x69\x04Host is blocked";
        let mongodb = b"\x2d\x00\x00\x00\x01\x00\x00\x00\x07\x00\x00\x00\xdd\x07\x00\x00\x00\x00\x00\x00\x00";
        let ssl = b"\x00\x00\x00\x08\x04\xd2\x16\x2f";
        for (hello, says, engine) in [
            (&b""[..], &mysql[..], Some("MySQL")),
            (b"", blocked, Some("MySQL")),
            (b"PING\r\n", b"+PONG\r\n", Some("Redis")),
            (b"PING\r\n", b"-NOAUTH Authentication required.\r\n", Some("Redis")),
            (ssl, b"S", Some("PostgreSQL")),
            (ssl, b"N", Some("PostgreSQL")),
            (b"\x34\x00\x00\x00", mongodb, Some("MongoDB")),
            (b"PING\r\n", b"HTTP/1.1 400 Bad Request\r\n", None),
            (b"", b"220 mail ESMTP\r\n", None),
            (b"nobody says this", b"", None),
        ] {
            assert_eq!(told(hello, says).await, engine, "{:?}", String::from_utf8_lossy(says));
        }
        assert_eq!(other_engine::<PostgreSql>("127.0.0.1", 1).await, None);
    }
}
