//! Speaks for the providers, the portal and the patients: what the sandbox's messages
//! lead to is published to `pat.notification-updates.v1`, as the front's webhooks and
//! the portal do in production.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::domain::{
    Channel, DeliveryId, DeliveryRef, Engagement, Fact, Keyword, NotificationId, NotificationUpdate,
    PatientId, ReceiptStatus,
};
use crate::record::Store;
use crate::record::report::Addressee;
use crate::sandbox::{MessageLog, ReceiptPlan, Receipts, Received, Report, Word};
use crate::topic::encoder::Encoder;
use crate::topic::names::NOTIFICATION_UPDATES;
use crate::topic::producer::Producer;

/// Pause between two looks at what is due.
const LOOK: Duration = Duration::from_millis(50);
/// Records on their way to the broker at once.
const IN_FLIGHT_MAX: usize = 256;
/// As long as this the database may not know yet whose a message is.
const UNKNOWN_MAX: SignedDuration = SignedDuration::from_secs(60);
/// Attempts to publish one record; each waits `kafka.produce_timeout_ms` at most.
const ATTEMPTS_MAX: u32 = 5;

/// Who asked for no more text messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// About whom the message was that was answered.
    pub patient_id: PatientId,
    /// Who answered, by the portal's identifier.
    pub recipient: String,
}

/// What was told so far.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Records that the brokers acknowledged.
    pub records: u64,
    /// Of these, records that say again what was said before.
    pub repeats: u64,
    /// How messages ended by their provider's last word, by the delivery's short code.
    pub ends: HashMap<String, ReceiptStatus>,
    /// The most that was done with a notification.
    pub engaged: HashMap<NotificationId, Engagement>,
    /// Who opted out of text messages, each once.
    pub stopped: Vec<Stopped>,
    /// Words of the portal and of patients about messages that the database never knew.
    pub unresolved: u64,
}

/// Tells in the background. A drop ends it.
#[derive(Debug)]
pub struct Reporting {
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

struct Shared {
    receipts: Mutex<Receipts>,
    told: Mutex<Told>,
    /// Words that are due and not told yet.
    in_hand: AtomicUsize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("in_hand", &self.in_hand).finish_non_exhaustive()
    }
}

impl Reporting {
    /// Begins with the messages that the log keeps, and goes on with all that follow.
    ///
    /// # Errors
    /// When no client of the registry or the brokers can be made.
    pub fn start(
        config: &Config,
        store: Store,
        log: Arc<MessageLog>,
        plan: ReceiptPlan,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            receipts: Mutex::new(Receipts::new(log, plan)),
            told: Mutex::default(),
            in_hand: AtomicUsize::new(0),
        });
        let teller = Teller {
            encoder: Encoder::new(&config.registry, &config.kafka.topic_prefix)?,
            producer: Producer::new(&config.kafka)?,
            topic: NOTIFICATION_UPDATES.full_name(&config.kafka.topic_prefix),
            store,
            shared: Arc::clone(&shared),
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => Ok(()),
                ended = teller.run() => ended,
            }
        });
        Ok(Self { shared, stop, task })
    }

    /// What was told so far.
    #[must_use]
    pub fn told(&self) -> Told {
        self.shared.told.lock().clone()
    }

    /// True when all that can be said of the log's messages was told.
    ///
    /// # Errors
    /// When telling has ended by an error; [`Reporting::stop`] says which.
    pub fn is_idle(&self) -> anyhow::Result<bool> {
        anyhow::ensure!(!self.task.is_finished(), "nobody publishes the providers' receipts any more");
        let receipts = self.shared.receipts.lock();
        Ok(receipts.is_idle() && self.shared.in_hand.load(Ordering::Acquire) == 0)
    }

    /// Ends it and says what was told.
    ///
    /// # Errors
    /// The one that telling ended by.
    pub async fn stop(mut self) -> anyhow::Result<Told> {
        self.stop.cancel();
        (&mut self.task).await.context("publishing receipts")??;
        Ok(self.told())
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What is published of a report, with the record's key.
struct Update {
    key: String,
    update: NotificationUpdate,
    report: Report,
}

struct Teller {
    encoder: Encoder,
    producer: Producer,
    topic: String,
    store: Store,
    shared: Arc<Shared>,
}

impl Teller {
    async fn run(self) -> anyhow::Result<()> {
        // Its owner is not known yet: the message was sent a moment ago.
        let mut later: Vec<Report> = Vec::new();
        loop {
            let due = {
                let mut receipts = self.shared.receipts.lock();
                let due = receipts.due(Timestamp::now());
                self.shared.in_hand.store(due.len() + later.len(), Ordering::Release);
                due
            };
            later.extend(due);
            if !later.is_empty() {
                later = self.tell(later).await?;
                self.shared.in_hand.store(later.len(), Ordering::Release);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Publishes what can be said now; the rest comes back.
    async fn tell(&self, reports: Vec<Report>) -> anyhow::Result<Vec<Report>> {
        let known = self.addressees(&reports).await;
        let mut later = Vec::new();
        let mut updates = Vec::with_capacity(reports.len());
        for report in reports {
            let whose = known.addressee(&report.message);
            if matches!(report.word, Word::Receipt { .. }) {
                updates.extend(receipt(report));
            } else if let Some(whose) = whose {
                updates.extend(word_of_patient(report, whose));
            } else if Timestamp::now().duration_since(report.told_at) < UNKNOWN_MAX {
                later.push(report);
            } else {
                self.shared.told.lock().unresolved += 1;
            }
        }
        stream::iter(updates)
            .map(|update| self.publish(update))
            .buffered(IN_FLIGHT_MAX)
            .try_for_each(|update| {
                self.shared.told.lock().note(&update);
                futures::future::ready(Ok(()))
            })
            .await?;
        Ok(later)
    }

    /// Whose the messages are that patients or the portal speak of; empty while the
    /// database does not answer.
    async fn addressees(&self, reports: &[Report]) -> Known {
        let spoken_of = || {
            reports
                .iter()
                .filter(|report| !matches!(report.word, Word::Receipt { .. }))
                .map(|report| &report.message)
        };
        if spoken_of().next().is_none() {
            return Known::default();
        }
        let ours: Vec<DeliveryId> =
            spoken_of().filter_map(|message| message.delivery_id.map(DeliveryId)).collect();
        let theirs: Vec<String> = spoken_of().map(|message| message.provider_message_id.clone()).collect();
        Known::of(self.store.addressees(&ours, &theirs).await.unwrap_or_default())
    }

    /// As a webhook's caller does: what was not taken is told again.
    async fn publish(&self, update: Update) -> anyhow::Result<Update> {
        let mut attempt = 1;
        loop {
            let sent = async {
                let payload = self.encoder.update(&update.update).await?;
                let key = Some(update.key.as_bytes());
                anyhow::Ok(self.producer.send(&self.topic, key, Some(&payload), &[]).await?)
            };
            match sent.await {
                Ok(_) => return Ok(update),
                Err(_) if attempt < ATTEMPTS_MAX => attempt += 1,
                Err(error) => return Err(error.context("publishing a receipt")),
            }
        }
    }
}

/// Addressees, by our id of the delivery and by the provider's.
#[derive(Default)]
struct Known {
    by_delivery: HashMap<DeliveryId, Addressee>,
    by_provider: HashMap<String, DeliveryId>,
}

impl Known {
    fn of(addressees: Vec<Addressee>) -> Self {
        let mut known = Self::default();
        for one in addressees {
            known.by_provider.extend(one.provider_message_id.clone().map(|theirs| (theirs, one.delivery_id)));
            known.by_delivery.insert(one.delivery_id, one);
        }
        known
    }

    fn addressee(&self, message: &Received) -> Option<&Addressee> {
        let theirs = || self.by_provider.get(&message.provider_message_id).copied();
        self.by_delivery.get(&message.delivery_id.map(DeliveryId).or_else(theirs)?)
    }
}

/// A provider knows its own id of the message, and ours where it was given to it.
fn receipt(report: Report) -> Option<Update> {
    let Word::Receipt { status, code } = report.word else { return None };
    let message = &report.message;
    let ours = message.delivery_id.filter(|_| report.names_delivery).map(DeliveryId);
    let key = ours.map_or_else(|| message.provider_message_id.clone(), |id| id.to_string());
    let delivery = ours
        .map_or_else(|| DeliveryRef::ProviderMessage(message.provider_message_id.clone()), DeliveryRef::Id);
    let source = match message.channel {
        Channel::Sms => "twilio",
        Channel::Email => "smtp",
        Channel::Push => "fcm",
    };
    let fact = Fact::Receipt { delivery, status, code: code.map(str::to_owned) };
    Some(Update { key, update: update(&report, source, None, fact), report })
}

/// The portal knows whose link was followed, and whose number it is that answers. An
/// answer without a meaning of its own is for a person to read.
fn word_of_patient(report: Report, whose: &Addressee) -> Option<Update> {
    let (source, fact) = match report.word {
        Word::Receipt { .. } => return None,
        Word::Engaged(engagement) => {
            ("portal", Fact::Engaged { notification_id: whose.notification_id, engagement })
        }
        Word::Answer(answer) => {
            let granted = match Keyword::of(answer)? {
                Keyword::OptOut => false,
                Keyword::OptIn => true,
                Keyword::Help => return None,
            };
            let channel = Some(report.message.channel);
            ("twilio", Fact::Consent { recipient: whose.recipient.clone(), channel, purpose: None, granted })
        }
    };
    let patient = whose.patient_id.clone();
    Some(Update {
        key: patient.as_str().to_owned(),
        update: update(&report, source, Some(patient), fact),
        report,
    })
}

fn update(report: &Report, source: &str, patient_id: Option<PatientId>, fact: Fact) -> NotificationUpdate {
    NotificationUpdate {
        update_id: format!("sandbox:{}:{}", mark(&report.message), report.word.name()),
        occurred_at: report.occurred_at,
        source: source.to_owned(),
        patient_id,
        fact,
    }
}

/// What a message is told apart by, in the form of an identifier.
fn mark(message: &Received) -> String {
    let own = || uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, message.provider_message_id.as_bytes());
    message.short_code.clone().unwrap_or_else(|| own().simple().to_string())
}

impl Told {
    fn note(&mut self, Update { update, report, .. }: &Update) {
        self.records += 1;
        self.repeats += u64::from(report.is_repeat);
        match &update.fact {
            Fact::Receipt { .. } => {
                self.ends.extend(report.message.short_code.clone().zip(report.end));
            }
            Fact::Engaged { notification_id, engagement } => {
                let most = self.engaged.entry(*notification_id).or_insert(*engagement);
                *most = (*most).max(*engagement);
            }
            Fact::Consent { recipient, granted: false, .. } => {
                if let Some(patient_id) = update.patient_id.clone()
                    && !self.stopped.iter().any(|one| one.recipient == *recipient)
                {
                    self.stopped.push(Stopped { patient_id, recipient: recipient.clone() });
                }
            }
            Fact::Consent { .. } | Fact::Cancelled { .. } | Fact::Unknown => {}
        }
    }
}
