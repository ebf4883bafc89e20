//! A real login for physical replication (manual, "Streaming Replication Protocol"): the driver has no such connections.

use bytes::BytesMut;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::session::{CONNECT, client_config};
use crate::engine::SessionError;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Logs in for physical replication and leaves again.
///
/// # Errors
/// [`SessionError::Refused`] with the server's own words, for example that pg_hba.conf rejects the connection.
pub async fn replication_login(host: &str, port: u16, user: &str, password: &str) -> Result<(), SessionError> {
    let unreachable = |error: &dyn std::fmt::Display| SessionError::Unreachable(format!("{host}:{port}: {error}"));
    match tokio::time::timeout(CONNECT * 2, login(host, port, user, password)).await {
        Err(_) => Err(unreachable(&"no answer to a replication login")),
        Ok(Err(Failure::Io(error))) => Err(unreachable(&error)),
        Ok(Err(Failure::Refused(message))) => Err(SessionError::Refused(message)),
        Ok(Ok(())) => Ok(()),
    }
}

enum Failure {
    Io(std::io::Error),
    Refused(String),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Encrypted if the server can, plain otherwise.
async fn open(host: &str, port: u16) -> Result<Box<dyn Stream>, Failure> {
    let mut stream = TcpStream::connect((host, port)).await?;
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    if stream.read_u8().await? != b'S' {
        return Ok(Box::new(stream));
    }
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config()));
    Ok(Box::new(connector.connect(name, stream).await?))
}

async fn login(host: &str, port: u16, user: &str, password: &str) -> Result<(), Failure> {
    let mut stream = open(host, port).await?;
    let mut out = BytesMut::new();
    frontend::startup_message([("user", user), ("replication", "true"), ("application_name", "understudy")], &mut out)?;
    let mut scram: Option<ScramSha256> = None;
    let mut input = BytesMut::new();
    let mut asked = false;
    loop {
        stream.write_all(&out).await?;
        out.clear();
        let message = next(&mut stream, &mut input).await?;
        match message {
            Message::AuthenticationSasl(_) => {
                let exchange = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                frontend::sasl_initial_response("SCRAM-SHA-256", exchange.message(), &mut out)?;
                scram = Some(exchange);
            }
            Message::AuthenticationSaslContinue(body) => {
                let exchange = scram.as_mut().ok_or_else(|| Failure::Refused("the server skipped a step of SCRAM".to_owned()))?;
                exchange.update(body.data())?;
                frontend::sasl_response(exchange.message(), &mut out)?;
            }
            Message::AuthenticationSaslFinal(body) => {
                let exchange = scram.as_mut().ok_or_else(|| Failure::Refused("the server skipped a step of SCRAM".to_owned()))?;
                exchange.finish(body.data())?;
            }
            Message::ErrorResponse(body) => return Err(refusal(&body)),
            Message::ReadyForQuery(_) if asked => {
                frontend::terminate(&mut out);
                stream.write_all(&out).await?;
                return Ok(());
            }
            Message::ReadyForQuery(_) => {
                asked = true;
                frontend::query("IDENTIFY_SYSTEM", &mut out)?;
            }
            // Another line of pg_hba.conf comes first and asks in another way: what a replica would answer, too.
            Message::AuthenticationCleartextPassword => frontend::password_message(password.as_bytes(), &mut out)?,
            Message::AuthenticationMd5Password(_) => return Err(Failure::Refused("the server asks for an md5 password of a role that has none".to_owned())),
            _ => {}
        }
    }
}

/// An error in the server's own words. A server that starts, stops or is full says nothing about the login.
fn refusal(body: &postgres_protocol::message::backend::ErrorResponseBody) -> Failure {
    use fallible_iterator::FallibleIterator;
    let (mut code, mut message) = (String::new(), "the server gave no reason".to_owned());
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = text,
            b'M' => message = text,
            _ => {}
        }
    }
    if code.starts_with("57P") || code == "53300" { Failure::Io(std::io::Error::other(message)) } else { Failure::Refused(message) }
}

async fn next(stream: &mut Box<dyn Stream>, input: &mut BytesMut) -> Result<Message, Failure> {
    loop {
        if let Some(message) = Message::parse(input)? {
            return Ok(message);
        }
        if stream.read_buf(input).await? == 0 {
            return Err(Failure::Io(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
}
