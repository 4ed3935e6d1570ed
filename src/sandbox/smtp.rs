//! A server that speaks SMTP (RFC 5321) as far as a client needs it.

use std::sync::Arc;
use std::time::Duration;

use mail_parser::MessageParser;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::faults::{Faults, Treatment};
use super::listen::{Gate, Line};
use super::log::{MessageLog, Received};
use crate::domain::{Channel, Redacted};

/// Octets of a line, its end included.
const LINE_MAX_BYTES: usize = 4096;
/// Octets of a message.
const MESSAGE_MAX_BYTES: usize = 1024 * 1024;
const RECIPIENTS_MAX: usize = 100;
/// A session that says nothing for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// Serves until `stop`.
pub(super) async fn serve(
    mut gate: Gate,
    log: Arc<MessageLog>,
    faults: Arc<Faults>,
    stop: CancellationToken,
) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            line = gate.next() => {
                let session = Session::new(line, Arc::clone(&log), Arc::clone(&faults));
                sessions.spawn(session.run());
            }
            Some(_) = sessions.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    sessions.shutdown().await;
}

/// Why a session ends before QUIT: the line is gone, too long, or silent.
struct Over;

struct Session {
    stream: BufReader<Line>,
    log: Arc<MessageLog>,
    faults: Arc<Faults>,
    has_sender: bool,
    recipients: Vec<String>,
}

impl Session {
    fn new(line: Line, log: Arc<MessageLog>, faults: Arc<Faults>) -> Self {
        Self { stream: BufReader::new(line), log, faults, has_sender: false, recipients: Vec::new() }
    }

    async fn run(mut self) {
        // The end of a session, whichever it is, concerns nobody but the client.
        let _ = self.dialogue().await;
    }

    async fn dialogue(&mut self) -> Result<(), Over> {
        self.reply("220 sandbox ESMTP").await?;
        loop {
            let line = self.line().await?;
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => {
                    self.forget();
                    let extensions = "250-sandbox\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
                        250-ENHANCEDSTATUSCODES\r\n250-SIZE 1048576\r\n250 AUTH PLAIN";
                    self.reply(extensions).await?;
                }
                "HELO" => {
                    self.forget();
                    self.reply("250 sandbox").await?;
                }
                "AUTH" => self.auth(rest).await?,
                "MAIL" => self.mail(rest).await?,
                "RCPT" => self.rcpt(rest).await?,
                "DATA" => self.data().await?,
                "RSET" => {
                    self.forget();
                    self.reply("250 2.0.0 ok").await?;
                }
                "NOOP" => self.reply("250 2.0.0 ok").await?,
                "VRFY" => self.reply("252 2.1.5 try it").await?,
                "QUIT" => return self.reply("221 2.0.0 bye").await,
                _ => self.reply("502 5.5.1 not known here").await?,
            }
        }
    }

    async fn auth(&mut self, rest: &str) -> Result<(), Over> {
        let mut words = rest.split_whitespace();
        if !words.next().is_some_and(|mechanism| mechanism.eq_ignore_ascii_case("PLAIN")) {
            return self.reply("504 5.5.4 PLAIN only").await;
        }
        let response = match words.next() {
            Some(initial) => initial.to_owned(),
            None => {
                self.reply("334 ").await?;
                self.line().await?
            }
        };
        use base64::Engine as _;
        let plain = base64::engine::general_purpose::STANDARD.decode(response).unwrap_or_default();
        let is_refused = plain.split(|&byte| byte == 0).nth(1).is_none_or(|user| user == b"refused");
        self.reply(if is_refused { "535 5.7.8 not accepted" } else { "235 2.7.0 welcome" }).await
    }

    async fn mail(&mut self, rest: &str) -> Result<(), Over> {
        if self.has_sender {
            return self.reply("503 5.5.1 one sender at a time").await;
        }
        if address(rest, "FROM:").is_none() {
            return self.reply("501 5.5.4 MAIL FROM:<address>").await;
        }
        self.has_sender = true;
        self.reply("250 2.1.0 ok").await
    }

    async fn rcpt(&mut self, rest: &str) -> Result<(), Over> {
        if !self.has_sender {
            return self.reply("503 5.5.1 MAIL first").await;
        }
        let Some(to) = address(rest, "TO:").filter(|to| !to.is_empty()) else {
            return self.reply("501 5.5.4 RCPT TO:<address>").await;
        };
        if self.recipients.len() >= RECIPIENTS_MAX {
            return self.reply("452 4.5.3 too many recipients").await;
        }
        // Mailboxes that stand for a fault.
        match to.split('@').next() {
            Some("bounce") => self.reply("550 5.1.1 no such user").await,
            Some("blocked") => self.reply("550 5.7.1 refused by policy").await,
            Some("full") => self.reply("452 4.2.2 mailbox full").await,
            Some("greylisted") => self.reply("450 4.7.1 come back later").await,
            _ => {
                self.recipients.push(to.to_owned());
                self.reply("250 2.1.5 ok").await
            }
        }
    }

    async fn data(&mut self) -> Result<(), Over> {
        if self.recipients.is_empty() {
            return self.reply("503 5.5.1 RCPT first").await;
        }
        self.reply("354 end with a dot on a line of its own").await?;
        let Some(raw) = self.content().await? else {
            self.forget();
            return self.reply("552 5.3.4 too long").await;
        };
        let treatment = self.faults.treatment(Channel::Email);
        let recipients = std::mem::take(&mut self.recipients);
        self.forget();
        match treatment {
            Treatment::Hang => {
                // Until the client goes away.
                let mut rest = Vec::new();
                let _ = timeout(IDLE_MAX, (&mut self.stream).take(1).read_to_end(&mut rest)).await;
                Err(Over)
            }
            Treatment::Fail { status, .. } => {
                self.faults.latency(Channel::Email).await;
                self.reply(&failure_reply(status)).await
            }
            Treatment::Serve | Treatment::DropAfterReceive => {
                if recipients.iter().any(|to| to.starts_with("spam@")) {
                    return self.reply("554 5.6.0 content refused").await;
                }
                let queue_id = Uuid::new_v4().simple().to_string();
                for to in recipients {
                    self.log.push(received(&raw, to, &queue_id));
                }
                if treatment == Treatment::DropAfterReceive {
                    return Err(Over);
                }
                self.faults.latency(Channel::Email).await;
                self.reply(&format!("250 2.0.0 queued as {queue_id}")).await
            }
        }
    }

    /// The message with its dots unstuffed; `None` when it was too long (it is
    /// read to its end all the same).
    async fn content(&mut self) -> Result<Option<Vec<u8>>, Over> {
        let mut content = Vec::new();
        let mut is_too_long = false;
        loop {
            let line = self.raw_line().await?;
            if line == b".\r\n" {
                return Ok((!is_too_long).then_some(content));
            }
            let line = if line.starts_with(b".") { &line[1..] } else { &line[..] };
            if content.len() + line.len() > MESSAGE_MAX_BYTES {
                is_too_long = true;
                content.clear();
            }
            if !is_too_long {
                content.extend_from_slice(line);
            }
        }
    }

    fn forget(&mut self) {
        self.has_sender = false;
        self.recipients.clear();
    }

    async fn line(&mut self) -> Result<String, Over> {
        let line = self.raw_line().await?;
        Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    async fn raw_line(&mut self) -> Result<Vec<u8>, Over> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.stream).take(LINE_MAX_BYTES as u64);
        let read = timeout(IDLE_MAX, bounded.read_until(b'\n', &mut line)).await;
        if !matches!(read, Ok(Ok(1..))) {
            return Err(Over);
        }
        if line.ends_with(b"\n") {
            return Ok(line);
        }
        self.reply("500 5.5.2 line too long").await?;
        Err(Over)
    }

    async fn reply(&mut self, text: &str) -> Result<(), Over> {
        let bytes = format!("{text}\r\n");
        self.stream.get_mut().write_all(bytes.as_bytes()).await.map_err(|_| Over)
    }
}

/// The address between angle brackets after `FROM:` or `TO:`.
fn address<'a>(rest: &'a str, label: &str) -> Option<&'a str> {
    let after = rest.get(..label.len()).filter(|head| head.eq_ignore_ascii_case(label))?;
    let (_, from_bracket) = rest[after.len()..].split_once('<')?;
    from_bracket.split_once('>').map(|(address, _)| address)
}

fn failure_reply(status: u16) -> String {
    match status {
        429 => "450 4.7.1 too many messages".to_owned(),
        500 | 502..=504 => "451 4.3.0 failed on our side".to_owned(),
        421 => "421 4.3.2 closing".to_owned(),
        code @ 400..=499 => format!("{code} 4.0.0 not now"),
        code @ 501..=599 => format!("{code} 5.0.0 refused"),
        _ => "451 4.3.0 failed on our side".to_owned(),
    }
}

fn received(raw: &[u8], to: String, queue_id: &str) -> Received {
    let parsed = MessageParser::default().parse(raw);
    let subject = parsed.as_ref().and_then(|m| m.subject()).unwrap_or_default().to_owned();
    let text = parsed.as_ref().and_then(|m| m.body_text(0)).unwrap_or_default();
    let message_id = parsed.as_ref().and_then(|m| m.message_id()).unwrap_or(queue_id).to_owned();
    let delivery_id = parsed
        .as_ref()
        .and_then(|m| m.header_raw("X-Notification-Delivery"))
        .and_then(|value| value.trim().parse::<Uuid>().ok());
    // One click needs both headers (RFC 8058).
    let header = |name| parsed.as_ref().and_then(|m| m.header_raw(name)).map(str::trim);
    let one_click = header("List-Unsubscribe-Post") == Some("List-Unsubscribe=One-Click");
    let link = header("List-Unsubscribe").and_then(|value| value.strip_prefix('<')?.strip_suffix('>'));
    let mut received = Received::new(Channel::Email, message_id, to, subject, &text).of_delivery(delivery_id);
    received.unsubscribe = link.filter(|_| one_click).map(|link| Redacted::new(link.to_owned()));
    received
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_between_brackets() {
        assert_eq!(address("FROM:<a@b.org> SIZE=3", "FROM:"), Some("a@b.org"));
        assert_eq!(address("to: <a@b.org>", "TO:"), Some("a@b.org"));
        assert_eq!(address("FROM:a@b.org", "FROM:"), None);
        assert_eq!(address("F", "FROM:"), None);
    }
}
