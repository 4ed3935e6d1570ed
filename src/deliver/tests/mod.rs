//! Real clients against the sandbox's real servers, over loopback.

mod email;
mod guard;
mod inbox;
mod push;
mod sms;
mod words;

use std::time::Duration;

use jiff::Timestamp;
use tempfile::TempDir;
use uuid::Uuid;

use super::{Content, DeliverError, LookUp, Message, Providers, SendOutcome};
use crate::config::{Email, Plan, Push, Sms};
use crate::domain::{Channel, DeliveryId, Purpose, Reason, RecipientId, Redacted, Urgency};
use crate::sandbox::{ChannelFaults, Sandbox, SandboxOptions};

/// A sandbox and providers that point at it.
struct Bench {
    sandbox: Sandbox,
    providers: Providers,
    _dir: TempDir,
}

/// The sections that providers are built from.
struct Sections {
    sms: Sms,
    email: Email,
    push: Push,
}

impl Sections {
    fn providers(&self) -> Result<Providers, DeliverError> {
        Providers::from_sections(&self.sms, &self.email, &self.push, &plan())
    }
}

fn plan() -> Plan {
    Plan {
        portal_url: "https://portal.example.org".to_owned(),
        contact_phone: "+1 555 010 0100".to_owned(),
        sender_name: "Example Health".to_owned(),
        default_locale: "en".to_owned(),
        default_time_zone: "America/New_York".to_owned(),
        quiet_hours_start: "21:00".to_owned(),
        quiet_hours_end: "08:00".to_owned(),
        default_channels: Vec::new(),
        test_result_expiry_ms: 1,
        appointment_expiry_ms: 1,
        general_expiry_ms: 1,
        campaign_expiry_ms: 1,
        schedule_max_ms: 31_622_400_000,
    }
}

fn sections() -> Sections {
    Sections {
        sms: Sms {
            enabled: true,
            base_url: "http://127.0.0.1:9".to_owned(),
            account_sid: "AC1".to_owned(),
            auth_token: Redacted::new("token".to_owned()),
            from_number: "+15550100000".to_owned(),
            status_callback_base_url: "https://callback.example.org".to_owned(),
            timeout_ms: 5000,
            concurrency: 64,
            help_reply: String::new(),
        },
        email: Email {
            enabled: true,
            smtp_host: "127.0.0.1".to_owned(),
            smtp_port: 9,
            smtp_tls: "none".to_owned(),
            username: String::new(),
            password: Redacted::new(String::new()),
            from_address: "no-reply@portal.example.org".to_owned(),
            message_id_domain: "portal.example.org".to_owned(),
            timeout_ms: 5000,
            concurrency: 8,
            event_webhook_public_key: String::new(),
            event_webhook_max_age_ms: 600_000,
            unsubscribe_base_url: String::new(),
            unsubscribe_key: Redacted::default(),
            unsubscribe_previous_key: Redacted::default(),
        },
        push: Push {
            enabled: true,
            base_url: "http://127.0.0.1:9".to_owned(),
            project_id: "sandbox".to_owned(),
            service_account_file: String::new(),
            timeout_ms: 5000,
            concurrency: 64,
        },
    }
}

/// Starts a sandbox and providers; `change` may spoil the configuration first.
async fn bench_with(change: impl FnOnce(&mut Sections)) -> Bench {
    let dir = TempDir::new().unwrap();
    let sandbox = Sandbox::start(SandboxOptions::in_dir(dir.path())).await.unwrap();
    let mut sections = sections();
    sandbox.apply_to_sections(&mut sections.sms, &mut sections.email, &mut sections.push);
    change(&mut sections);
    let providers = sections.providers().unwrap();
    Bench { sandbox, providers, _dir: dir }
}

async fn bench() -> Bench {
    bench_with(|_| {}).await
}

impl Bench {
    async fn send(&self, message: &Message) -> SendOutcome {
        self.providers.send(message).await
    }

    async fn look_up(&self, message: &Message, since: Timestamp) -> LookUp {
        let channel = message.content.channel();
        self.providers.look_up(channel, message.delivery_id, &message.address, since).await
    }

    fn fault(&self, channel: Channel, faults: ChannelFaults) {
        self.sandbox.faults.set(channel, faults);
    }

    /// How often the sandbox received a message's delivery.
    fn received(&self, message: &Message) -> u32 {
        let code = message.delivery_id.short_code();
        self.sandbox.log.by_delivery().get(&code).copied().unwrap_or_default()
    }
}

fn failing(status: u16) -> ChannelFaults {
    ChannelFaults { fail_percent: 100, fail_status: status, ..ChannelFaults::default() }
}

fn dropping() -> ChannelFaults {
    ChannelFaults { drop_after_receive_percent: 100, ..ChannelFaults::default() }
}

fn hanging() -> ChannelFaults {
    ChannelFaults { hang_percent: 100, ..ChannelFaults::default() }
}

fn refusing() -> ChannelFaults {
    ChannelFaults { refuse: true, ..ChannelFaults::default() }
}

fn message(address: &str, content: Content) -> Message {
    Message {
        delivery_id: DeliveryId(Uuid::new_v4()),
        recipient_id: RecipientId::from_external("pat-1"),
        purpose: Purpose::General,
        attempt_group: 1,
        urgency: Urgency::Normal,
        address: Redacted::new(address.to_owned()),
        content,
    }
}

fn sms(address: &str) -> Message {
    let mut message = message(address, Content::Sms { body: Redacted::default() });
    let code = message.delivery_id.short_code();
    let body = format!("Example Health: sign in: https://portal.example.org/n/{code} Call +1 555");
    message.content = Content::Sms { body: body.into() };
    message
}

fn bulk(mut message: Message) -> Message {
    message.urgency = Urgency::Bulk;
    message
}

fn email(address: &str, text: &str) -> Message {
    let content = Content::Email {
        subject: "Tiene una cita el mié 2 dic".to_owned().into(),
        text: text.to_owned().into(),
        html: "<p>Hello</p>".to_owned().into(),
    };
    message(address, content)
}

fn push(address: &str) -> Message {
    let content = Content::Push {
        title: "Example Health".to_owned().into(),
        body: "You have a new message. Sign in to see it.".to_owned().into(),
        link: "https://portal.example.org/n/1".to_owned(),
    };
    message(address, content)
}

const fn transient(reason: Reason) -> SendOutcome {
    SendOutcome::Transient { reason, after: None }
}

const AMBIGUOUS: SendOutcome = SendOutcome::Ambiguous(Reason::ProviderTimeout);
const UNREACHABLE: SendOutcome = transient(Reason::ProviderUnreachable);

/// Polls until a condition holds; ten seconds at most.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
