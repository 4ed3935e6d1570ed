//! Kinds of values, and what is wrong with a value that is not of its kind.

use std::net::SocketAddr;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use base64::Engine as _;
use toml::Value;
use tracing_subscriber::EnvFilter;

use crate::domain::Channel;

/// What a key may hold. Texts may be empty only where their rule says `optional`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// true or false.
    Flag,
    /// A whole number within bounds, both included.
    Number(i64, i64),
    /// Whole numbers within bounds (both included), each at most once, at most so many.
    Numbers(i64, i64, usize),
    /// Text of at most so many characters, on one line.
    Text(usize),
    /// One of these words.
    Word(&'static [&'static str]),
    /// At most so many letters, digits, dots, dashes and underscores.
    Name(usize),
    /// An http or https address without credentials, query or fragment.
    HttpUrl,
    /// A PostgreSQL connection URL.
    PostgresUrl,
    /// Comma-separated host:port pairs.
    Servers,
    /// Comma-separated origins of web pages.
    Origins,
    /// Address and port to listen on.
    Listen,
    /// A host name or address, without a port.
    Host,
    /// An e-mail address.
    Mailbox,
    /// A phone number in E.164.
    PhoneNumber,
    /// HH:MM.
    TimeOfDay,
    /// A name of the IANA time zone database.
    TimeZone,
    /// Minute, hour, day of month, month, day of week.
    CronExpression,
    /// A BCP 47 language tag.
    Locale,
    /// Channels, each at most once.
    Channels,
    /// A file that exists.
    File,
    /// A public key of P-256: DER in base64.
    SigningKey,
    /// A tracing filter.
    LogFilter,
}

/// What is wrong with a value, and what would be right.
#[derive(Debug)]
pub(super) struct Complaint {
    pub(super) wrong: String,
    pub(super) allowed: String,
}

impl Kind {
    /// Reads the text of an environment variable as a value of this kind.
    pub(super) fn parse(self, text: &str) -> Result<Value, Complaint> {
        match self {
            Self::Flag => match text {
                "true" => Ok(Value::Boolean(true)),
                "false" => Ok(Value::Boolean(false)),
                _ => Err(self.complaint(format!("{} is not a flag", quoted(text)))),
            },
            Self::Number(..) => text
                .parse()
                .map(Value::Integer)
                .map_err(|_| self.complaint(format!("{} is not a whole number", quoted(text)))),
            Self::Numbers(..) => {
                let numbers = text.split(',').map(str::trim).filter(|number| !number.is_empty());
                let numbers: Result<_, _> =
                    numbers.map(|number| number.parse().map(Value::Integer)).collect();
                numbers
                    .map(Value::Array)
                    .map_err(|_| self.complaint(format!("{} is not a list of whole numbers", quoted(text))))
            }
            Self::Channels => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                Ok(Value::Array(words.map(|word| Value::String(word.to_owned())).collect()))
            }
            _ => Ok(Value::String(text.to_owned())),
        }
    }

    /// Checks a value of any type.
    pub(super) fn check(self, value: &Value, optional: bool) -> Result<(), Complaint> {
        match (self, value) {
            (Self::Flag, Value::Boolean(_)) => Ok(()),
            (Self::Number(min, max), &Value::Integer(number)) => {
                if (min..=max).contains(&number) {
                    Ok(())
                } else {
                    Err(self.complaint(format!("{number} is out of bounds")))
                }
            }
            (Self::Channels, Value::Array(items)) => self.check_channels(items),
            (Self::Numbers(min, max, count), Value::Array(items)) => {
                self.check_numbers(items, min..=max, count)
            }
            (Self::Flag | Self::Number(..) | Self::Numbers(..) | Self::Channels, other) => {
                Err(self.wrong_type(other))
            }
            (_, Value::String(text)) if text.is_empty() => {
                if optional {
                    Ok(())
                } else {
                    Err(self.complaint("is empty".to_owned()))
                }
            }
            (_, Value::String(text)) if self.accepts(text) => Ok(()),
            // Somebody may have put a password into an address.
            (Self::HttpUrl | Self::PostgresUrl | Self::Servers, Value::String(text))
                if text.contains('@') =>
            {
                Err(self
                    .complaint("the value (not shown, it may hold credentials) cannot be used".to_owned()))
            }
            (_, Value::String(text)) => Err(self.complaint(format!("{} cannot be used", quoted(text)))),
            (_, other) => Err(self.wrong_type(other)),
        }
    }

    fn check_channels(self, items: &[Value]) -> Result<(), Complaint> {
        let mut seen = Vec::new();
        for item in items {
            let channel = item.as_str().and_then(Channel::parse);
            let channel = channel.ok_or_else(|| self.complaint(format!("{item} is not a channel")))?;
            if seen.contains(&channel) {
                return Err(self.complaint(format!("{item} stands there twice")));
            }
            seen.push(channel);
        }
        if seen.is_empty() { Err(self.complaint("is empty".to_owned())) } else { Ok(()) }
    }

    fn check_numbers(
        self,
        items: &[Value],
        bounds: std::ops::RangeInclusive<i64>,
        count: usize,
    ) -> Result<(), Complaint> {
        let mut seen = Vec::new();
        for item in items {
            let number = item.as_integer().filter(|number| bounds.contains(number));
            let number = number.ok_or_else(|| self.complaint(format!("{item} is out of bounds")))?;
            if seen.contains(&number) {
                return Err(self.complaint(format!("{item} stands there twice")));
            }
            seen.push(number);
        }
        match seen.len() {
            0 => Err(self.complaint("is empty".to_owned())),
            given if given > count => Err(self.complaint(format!("has {given} numbers"))),
            _ => Ok(()),
        }
    }

    /// Is this text, which is not empty, of this kind?
    fn accepts(self, text: &str) -> bool {
        match self {
            Self::Flag | Self::Number(..) | Self::Numbers(..) | Self::Channels => false,
            Self::Text(max_chars) => text.chars().count() <= max_chars && !text.chars().any(char::is_control),
            Self::Word(words) => words.contains(&text),
            Self::Name(max_chars) => {
                text.len() <= max_chars
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            }
            Self::HttpUrl => is_http_url(text),
            Self::PostgresUrl => {
                (text.starts_with("postgres://") || text.starts_with("postgresql://"))
                    && text.parse::<tokio_postgres::Config>().is_ok_and(|url| !url.get_hosts().is_empty())
            }
            Self::Servers => text.split(',').all(|server| is_server(server.trim())),
            Self::Origins => text.split(',').all(|origin| is_origin(origin.trim())),
            Self::Listen => text.parse::<SocketAddr>().is_ok(),
            Self::Host => is_host(text),
            Self::Mailbox => text.parse::<lettre::Address>().is_ok(),
            Self::PhoneNumber => text.strip_prefix('+').is_some_and(|digits| {
                (8..=15).contains(&digits.len())
                    && !digits.starts_with('0')
                    && digits.bytes().all(|b| b.is_ascii_digit())
            }),
            Self::TimeOfDay => text.len() == 5 && jiff::civil::Time::strptime("%H:%M", text).is_ok(),
            Self::TimeZone => jiff::tz::TimeZone::get(text).is_ok(),
            Self::CronExpression => cronexpr::parse_crontab(&format!("{text} UTC")).is_ok(),
            Self::Locale => is_locale(text),
            Self::File => std::fs::metadata(text).is_ok_and(|file| file.is_file()),
            Self::SigningKey => is_signing_key(text),
            Self::LogFilter => EnvFilter::builder().parse(text).is_ok(),
        }
    }

    /// What is right, in words.
    fn allowed(self) -> String {
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Number(min, max) => format!("a whole number from {min} to {max}"),
            Self::Numbers(min, max, count) => {
                format!("a list of 1 to {count} whole numbers from {min} to {max}, each once")
            }
            Self::Text(max_chars) => format!("text of at most {max_chars} characters on one line"),
            Self::Word(words) => words.join(", "),
            Self::Name(max_chars) => format!("at most {max_chars} characters of A-Z a-z 0-9 . _ -"),
            Self::HttpUrl => {
                "an address such as https://host:port/path, without credentials, query or fragment".to_owned()
            }
            Self::PostgresUrl => "a URL such as postgres://user:password@host:5432/database".to_owned(),
            Self::Servers => "a comma-separated list such as broker-1:9092,broker-2:9092".to_owned(),
            Self::Origins => "a comma-separated list such as https://board.example.org".to_owned(),
            Self::Listen => "an IP address and a port such as 127.0.0.1:9090".to_owned(),
            Self::Host => "a host name or IP address, without a port".to_owned(),
            Self::Mailbox => "an e-mail address such as no-reply@example.org".to_owned(),
            Self::PhoneNumber => "a phone number in E.164 such as +15550100000".to_owned(),
            Self::TimeOfDay => "a time of day such as 21:00".to_owned(),
            Self::TimeZone => {
                "a name of the IANA time zone database such as Europe/Zurich (the system needs tzdata)"
                    .to_owned()
            }
            Self::CronExpression => {
                "minute hour day-of-month month day-of-week, for example 30 3 * * * (daily at 03:30)"
                    .to_owned()
            }
            Self::Locale => "a BCP 47 language tag such as en or de-CH".to_owned(),
            Self::Channels => {
                let words: Vec<_> = Channel::ALL.iter().map(|channel| channel.as_str()).collect();
                format!("a list of at least one of {}, each once", words.join(", "))
            }
            Self::File => "the path of a file that this process may see".to_owned(),
            Self::SigningKey => "a public key of P-256 as DER (SubjectPublicKeyInfo) in base64".to_owned(),
            Self::LogFilter => "a level (error, warn, info, debug, trace) or target=level,…".to_owned(),
        }
    }

    /// A complaint about a value of this kind.
    pub(super) fn complaint(self, wrong: String) -> Complaint {
        Complaint { wrong, allowed: self.allowed() }
    }

    fn wrong_type(self, value: &Value) -> Complaint {
        let wanted = match self {
            Self::Flag => "true or false",
            Self::Number(..) => "a whole number",
            Self::Numbers(..) => "a list of whole numbers",
            Self::Channels => "a list of texts",
            _ => "a text",
        };
        self.complaint(format!("has the wrong type: {} in place of {wanted}", value.type_str()))
    }
}

/// A value as an error shows it: quoted and cut.
fn quoted(text: &str) -> String {
    const SHOWN_MAX_CHARS: usize = 80;
    let cut: String = text.chars().take(SHOWN_MAX_CHARS).collect();
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

fn is_http_url(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

/// Is this an address of this machine?
pub(crate) fn is_loopback_url(text: &str) -> bool {
    let url = reqwest::Url::parse(text).ok();
    url.as_ref().and_then(reqwest::Url::host_str).is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

/// As browsers write it: without a path, and without the scheme's own port.
fn is_origin(text: &str) -> bool {
    is_http_url(text) && reqwest::Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == text)
}

fn is_signing_key(text: &str) -> bool {
    let der = base64::engine::general_purpose::STANDARD.decode(text);
    der.is_ok_and(|der| ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, der).is_ok())
}

fn is_server(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

fn is_host(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
        || (text.len() <= 253
            && text.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            }))
}

fn is_locale(text: &str) -> bool {
    let mut parts = text.split('-');
    parts.next().is_some_and(|language| {
        (2..=3).contains(&language.len()) && language.bytes().all(|b| b.is_ascii_alphabetic())
    }) && parts.all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}
