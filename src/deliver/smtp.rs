//! E-mail by SMTP.
//!
//! lettre speaks the protocol; the steps are walked here one by one, because
//! only then is it known whether a connection was lost before the message left
//! (certainly not sent) or after (nobody knows).

mod reply;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use lettre::{Address, Message as Mime};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::{Instant as Deadline, timeout_at};

use self::reply::{Stage, failure, unreachable_now};
use super::unsubscribe::{Subscription, UnsubscribeLinks};
use super::{Message, SendOutcome};
use crate::config::{Email, Plan};
use crate::domain::{Channel, Reason, Redacted};

/// Longest time for one connection: TCP, TLS, greeting, EHLO and AUTH.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Servers close idle sessions after a minute or more; ours go before.
const IDLE_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TlsMode {
    None,
    StartTls,
    Tls,
}

struct Idle {
    connection: AsyncSmtpConnection,
    since: Instant,
}

/// A client of one SMTP server.
pub(super) struct Smtp {
    host: String,
    port: u16,
    tls_mode: TlsMode,
    tls: Option<TlsParameters>,
    credentials: Option<Credentials>,
    hello: ClientId,
    from: Mailbox,
    message_id_domain: String,
    unsubscribe: Option<UnsubscribeLinks>,
    /// The provider reports what becomes of a message, and echoes what it is given for that.
    reports: bool,
    timeout: Duration,
    idle_max: usize,
    idle: Mutex<Vec<Idle>>,
}

/// A header whose value is plain ASCII of ours.
macro_rules! plain_header {
    ($name:ident, $header:literal) => {
        #[derive(Clone)]
        struct $name(String);

        impl Header for $name {
            fn name() -> HeaderName {
                HeaderName::new_from_ascii_str($header)
            }
            fn parse(text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
                Ok(Self(text.to_owned()))
            }
            fn display(&self) -> HeaderValue {
                HeaderValue::new(Self::name(), self.0.clone())
            }
        }
    };
}
plain_header!(AutoSubmitted, "Auto-Submitted");
plain_header!(DeliveryHeader, "X-Notification-Delivery");
plain_header!(ListUnsubscribe, "List-Unsubscribe");
plain_header!(ListUnsubscribePost, "List-Unsubscribe-Post");
// SendGrid takes this one out, and puts its arguments into each event about the message.
plain_header!(SmtpApi, "X-SMTPAPI");

impl Smtp {
    /// Builds the client; gives every fault as (key, problem).
    pub(super) fn from_config(config: &Email, plan: &Plan) -> Result<Self, Vec<(&'static str, String)>> {
        let mut faults = Vec::new();
        if config.smtp_host.is_empty() {
            faults.push(("email.smtp_host", "must name a host".to_owned()));
        }
        if !is_domain(&config.message_id_domain) {
            faults.push(("email.message_id_domain", "must be a domain name".to_owned()));
        }
        let tls_mode = match config.smtp_tls.as_str() {
            "none" => Some(TlsMode::None),
            "starttls" => Some(TlsMode::StartTls),
            "tls" => Some(TlsMode::Tls),
            _ => None,
        };
        if tls_mode.is_none() {
            faults.push(("email.smtp_tls", "must be none, starttls or tls".to_owned()));
        }
        let tls = match tls_mode {
            Some(TlsMode::StartTls | TlsMode::Tls) => TlsParameters::new(config.smtp_host.clone())
                .map_err(|error| {
                    faults.push(("email.smtp_host", format!("cannot be used for TLS ({error})")))
                })
                .ok(),
            Some(TlsMode::None) | None => None,
        };
        let from = parse_from(&config.from_address, &plan.sender_name)
            .map_err(|problem| faults.push(("email.from_address", problem)))
            .ok();
        let (Some(tls_mode), Some(from), true) = (tls_mode, from, faults.is_empty()) else {
            return Err(faults);
        };
        Ok(Self {
            host: config.smtp_host.clone(),
            port: config.smtp_port,
            tls_mode,
            tls,
            credentials: (!config.username.is_empty())
                .then(|| Credentials::new(config.username.clone(), config.password.expose().clone())),
            hello: ClientId::default(),
            from,
            message_id_domain: config.message_id_domain.clone(),
            unsubscribe: UnsubscribeLinks::from_config(config),
            reports: !config.event_webhook_public_key.is_empty(),
            timeout: Duration::from_millis(config.timeout_ms),
            idle_max: config.concurrency,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Hands one message to the server. The id that comes back is our
    /// `Message-ID`: the same for each repeat within an attempt group.
    pub(super) async fn send(
        &self,
        message: &Message,
        subject: &Redacted<String>,
        text: &Redacted<String>,
        html: &Redacted<String>,
    ) -> SendOutcome {
        let Ok(to) = message.address.expose().parse::<Address>() else {
            return SendOutcome::Permanent(Reason::InvalidAddress);
        };
        let id = format!("{}.{}@{}", message.delivery_id, message.attempt_group, self.message_id_domain);
        let mut mime = Mime::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to.clone()))
            .subject(subject.expose().as_str())
            .message_id(Some(format!("<{id}>")))
            .header(AutoSubmitted("auto-generated".to_owned()))
            .header(DeliveryHeader(message.delivery_id.to_string()));
        if let Some(link) = self.unsubscribe_link(message) {
            mime = mime
                .header(ListUnsubscribe(format!("<{link}>")))
                .header(ListUnsubscribePost("List-Unsubscribe=One-Click".to_owned()));
        }
        if self.reports {
            let arguments = format!("{{\"unique_args\":{{\"delivery_id\":\"{}\"}}}}", message.delivery_id);
            mime = mime.header(SmtpApi(arguments));
        }
        let mime =
            mime.multipart(MultiPart::alternative_plain_html(text.expose().clone(), html.expose().clone()));
        let Ok(mime) = mime else {
            return SendOutcome::Permanent(Reason::ProviderRefused);
        };
        match self.exchange(to, &mime.formatted()).await {
            Ok(()) => SendOutcome::Sent { provider_message_id: id },
            Err(outcome) => outcome,
        }
    }

    /// Connects and signs in, without a message.
    pub(super) async fn greet(&self) -> Result<(), Reason> {
        match self.connect(Deadline::now() + self.timeout).await {
            Ok(mut connection) => {
                // It answered: how it takes the goodbye changes nothing.
                let _ = timeout_at(Deadline::now() + self.timeout, connection.quit()).await;
                Ok(())
            }
            Err(SendOutcome::Permanent(reason) | SendOutcome::Transient { reason, .. }) => Err(reason),
            Err(SendOutcome::Throttled { .. }) => Err(Reason::Throttled),
            Err(SendOutcome::Ambiguous(_) | SendOutcome::Sent { .. }) => Err(Reason::ProviderTimeout),
        }
    }

    fn unsubscribe_link(&self, message: &Message) -> Option<String> {
        let what = Subscription {
            recipient_id: message.recipient_id,
            channel: Channel::Email,
            purpose: message.purpose,
        };
        self.unsubscribe.as_ref()?.url(what, Timestamp::now())
    }

    async fn exchange(&self, to: Address, content: &[u8]) -> Result<(), SendOutcome> {
        let deadline = Deadline::now() + self.timeout;
        let mut connection = self.ready(to, deadline).await?;
        match timeout_at(deadline, connection.message(content)).await {
            Ok(Ok(_)) => {
                self.give_back(connection);
                Ok(())
            }
            Ok(Err(error)) => {
                let outcome = failure(Stage::Content, &error);
                self.reset(connection, &error, deadline).await;
                Err(outcome)
            }
            Err(_) => Err(SendOutcome::Ambiguous(Reason::ProviderTimeout)),
        }
    }

    /// A connection that waits for the message. An idle connection may have been
    /// closed by the server meanwhile: then a fresh one is tried, once.
    async fn ready(&self, to: Address, deadline: Deadline) -> Result<AsyncSmtpConnection, SendOutcome> {
        if let Some(mut connection) = self.take_idle() {
            match self.envelope(&mut connection, &to, deadline).await {
                Ok(()) => return Ok(connection),
                Err((stage, Some(error))) if error.status().is_some_and(|code| u16::from(code) != 421) => {
                    let outcome = failure(stage, &error);
                    self.reset(connection, &error, deadline).await;
                    return Err(outcome);
                }
                Err((_, Some(_))) => {}
                Err((_, None)) => return Err(unreachable_now()),
            }
        }
        let mut connection = self.connect(deadline).await?;
        match self.envelope(&mut connection, &to, deadline).await {
            Ok(()) => Ok(connection),
            Err((stage, Some(error))) => {
                let outcome = failure(stage, &error);
                self.reset(connection, &error, deadline).await;
                Err(outcome)
            }
            Err((_, None)) => Err(unreachable_now()),
        }
    }

    async fn connect(&self, deadline: Deadline) -> Result<AsyncSmtpConnection, SendOutcome> {
        let deadline = deadline.min(Deadline::now() + CONNECT_TIMEOUT);
        match timeout_at(deadline, self.open()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err((stage, Some(error)))) => Err(failure(stage, &error)),
            Ok(Err((_, None))) | Err(_) => Err(unreachable_now()),
        }
    }

    async fn open(&self) -> Result<AsyncSmtpConnection, (Stage, Option<SmtpError>)> {
        let at = |stage| move |error| (stage, Some(error));
        let server = (self.host.as_str(), self.port);
        let mut connection = match self.tls_mode {
            TlsMode::Tls => {
                AsyncSmtpConnection::connect_tokio1(server, None, &self.hello, self.tls.clone(), None).await
            }
            TlsMode::None | TlsMode::StartTls => {
                let stream = TcpStream::connect(server).await.map_err(|_| (Stage::Connect, None))?;
                // The end of a message is a small write of its own: it must not wait for an ACK.
                stream.set_nodelay(true).map_err(|_| (Stage::Connect, None))?;
                AsyncSmtpConnection::connect_with_transport(Box::new(stream), &self.hello).await
            }
        }
        .map_err(at(Stage::Connect))?;
        if let (TlsMode::StartTls, Some(tls)) = (self.tls_mode, &self.tls) {
            connection.starttls(tls.clone(), &self.hello).await.map_err(at(Stage::Connect))?;
        }
        if let Some(credentials) = &self.credentials {
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            connection.auth(&mechanisms, credentials).await.map_err(at(Stage::Auth))?;
        }
        Ok(connection)
    }

    /// MAIL, RCPT, DATA; `None` for an error is a time-out.
    async fn envelope(
        &self,
        connection: &mut AsyncSmtpConnection,
        to: &Address,
        deadline: Deadline,
    ) -> Result<(), (Stage, Option<SmtpError>)> {
        let mut options = Vec::new();
        let is_ascii = AsRef::<str>::as_ref(to).is_ascii();
        if !is_ascii && connection.server_info().supports_feature(Extension::SmtpUtfEight) {
            options.push(MailParameter::SmtpUtfEight);
        }
        let steps = async {
            let at = |stage| move |error| (stage, Some(error));
            let mail = Mail::new(Some(self.from.email.clone()), options);
            connection.command(mail).await.map_err(at(Stage::Envelope))?;
            connection.command(Rcpt::new(to.clone(), Vec::new())).await.map_err(at(Stage::Recipient))?;
            connection.command(Data).await.map_err(at(Stage::Envelope))?;
            Ok(())
        };
        timeout_at(deadline, steps).await.unwrap_or(Err((Stage::Envelope, None)))
    }

    /// After a reply the session goes on; after anything else it is dropped.
    async fn reset(&self, mut connection: AsyncSmtpConnection, error: &SmtpError, deadline: Deadline) {
        let goes_on = error.status().is_some_and(|code| u16::from(code) != 421);
        if goes_on && matches!(timeout_at(deadline, connection.command(Rset)).await, Ok(Ok(_))) {
            self.give_back(connection);
        }
    }

    fn take_idle(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle.lock();
        while let Some(entry) = idle.pop() {
            if entry.since.elapsed() < IDLE_MAX {
                return Some(entry.connection);
            }
        }
        None
    }

    fn give_back(&self, connection: AsyncSmtpConnection) {
        let mut idle = self.idle.lock();
        if idle.len() < self.idle_max {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }
}

fn is_domain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
}

/// `a@b` gets the sender's name, `Name <a@b>` keeps its own.
fn parse_from(text: &str, sender_name: &str) -> Result<Mailbox, String> {
    let mailbox: Mailbox =
        text.parse().map_err(|_| "must be a mailbox, for example no-reply@portal.example.org".to_owned())?;
    let name = mailbox.name.or_else(|| (!sender_name.is_empty()).then(|| sender_name.to_owned()));
    Ok(Mailbox::new(name, mailbox.email))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_senders_name_is_added_unless_there_is_one() {
        let bare = parse_from("no-reply@example.org", "Example Health").unwrap();
        assert_eq!(bare.name.as_deref(), Some("Example Health"));
        let named = parse_from("Portal <no-reply@example.org>", "Example Health").unwrap();
        assert_eq!(named.name.as_deref(), Some("Portal"));
        assert!(parse_from("nobody", "Example Health").is_err());
    }
}
