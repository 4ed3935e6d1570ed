//! What providers, the portal and patients say of a message afterwards: on paper
//! first ([`ReceiptPlan`]), then in its time ([`Receipts`]).
//!
//! Each message's story follows from its delivery and the plan's seed alone, so that
//! a run can be repeated. As in life, words come twice and in the wrong order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::log::{MessageLog, Received};
use crate::domain::{Channel, Engagement, ReceiptStatus};

/// How stories go. Shares are percent of the messages of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptPlan {
    /// Another seed, other stories.
    pub seed: u64,
    /// From a message to the word that decides; what follows takes up to three times as long.
    pub delay_ms: u64,
    /// Text messages that do not arrive: Twilio's 30003 or 30005.
    pub sms_undelivered: u8,
    /// Text messages that arrive and are answered: some with a word to opt out, some without.
    pub sms_answered: u8,
    /// E-mails that the mailbox sends back (5.1.1), every third one after it had taken them.
    pub email_bounced: u8,
    /// E-mails that arrive and are called spam.
    pub email_complained: u8,
    /// Push messages that are seen; every second one is read as well. FCM itself says nothing.
    pub push_seen: u8,
    /// Messages of which one word comes twice.
    pub repeated: u8,
    /// Messages whose words come in the wrong order.
    pub shuffled: u8,
    /// Receipts that name our delivery where the provider knows it; the others name
    /// the provider's own id. A sender that died before it recorded that id can be
    /// helped by the former only.
    pub named_by_delivery: u8,
}

impl Default for ReceiptPlan {
    fn default() -> Self {
        Self {
            seed: 0,
            delay_ms: 400,
            sms_undelivered: 3,
            sms_answered: 2,
            email_bounced: 4,
            email_complained: 1,
            push_seen: 50,
            repeated: 10,
            shuffled: 20,
            named_by_delivery: 50,
        }
    }
}

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// By the provider.
    Receipt {
        /// Its word.
        status: ReceiptStatus,
        /// Its code.
        code: Option<&'static str>,
    },
    /// By the portal.
    Engaged(Engagement),
    /// By the patient, as a text message.
    Answer(&'static str),
}

impl Word {
    /// The status, when it says how a message ended.
    const fn end(self) -> Option<ReceiptStatus> {
        match self {
            Self::Receipt { status: ReceiptStatus::Accepted | ReceiptStatus::Sent, .. }
            | Self::Engaged(_)
            | Self::Answer(_) => None,
            Self::Receipt { status, .. } => Some(status),
        }
    }

    /// One word for it, for an update's identifier.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receipt { status, .. } => status.as_str(),
            Self::Engaged(engagement) => engagement.as_str(),
            Self::Answer(_) => "answer",
        }
    }
}

/// One thing that somebody says of a message.
#[derive(Debug, Clone)]
pub struct Report {
    /// Of which message.
    pub message: Arc<Received>,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// When it is told.
    pub told_at: Timestamp,
    /// What.
    pub word: Word,
    /// It was told before.
    pub is_repeat: bool,
    /// How the message ends, by its provider's last word; `None`: the provider says
    /// nothing of that.
    pub end: Option<ReceiptStatus>,
    /// A receipt names our delivery, not the provider's own id.
    pub names_delivery: bool,
}

/// What patients answer; how much of it asks for an end is not up to the sandbox.
const ANSWERS: [&str; 6] = ["STOP", "Stop.", "Thank you!", "alto", "opt out", "Is this real?"];

impl ReceiptPlan {
    /// Everything that will be said of a message, in the order in which it is told.
    #[must_use]
    pub fn story(&self, message: &Arc<Received>) -> Vec<Report> {
        let mut random = self.random(message);
        let words = self.words(message.channel, &mut random);
        let names_delivery = hits(self.named_by_delivery, &mut random) && message.delivery_id.is_some();
        let end = words.iter().rev().find_map(|(_, word)| word.end());
        let at = |steps: u32| message.received_at + SignedDuration::from_millis(self.step_ms(steps));
        let mut story: Vec<Report> = words
            .into_iter()
            .map(|(steps, word)| Report {
                message: Arc::clone(message),
                occurred_at: at(steps),
                told_at: at(steps),
                word,
                is_repeat: false,
                end,
                names_delivery,
            })
            .collect();
        if hits(self.shuffled, &mut random) {
            let told: Vec<Timestamp> = story.iter().rev().map(|report| report.told_at).collect();
            story.iter_mut().zip(told).for_each(|(report, at)| report.told_at = at);
            story.reverse();
        }
        if !story.is_empty() && hits(self.repeated, &mut random) {
            let mut again = story[random.random_range(0..story.len())].clone();
            again.told_at = again.told_at.max(at(3));
            again.is_repeat = true;
            story.push(again);
        }
        story
    }

    fn random(&self, message: &Received) -> StdRng {
        let mark = message.short_code.as_deref().unwrap_or(&message.provider_message_id);
        let (high, low) = Uuid::new_v5(&Uuid::NAMESPACE_OID, mark.as_bytes()).as_u64_pair();
        StdRng::seed_from_u64(high ^ low.rotate_left(1) ^ self.seed)
    }

    /// A step is half of the delay.
    fn step_ms(&self, steps: u32) -> i64 {
        i64::try_from(self.delay_ms.saturating_mul(u64::from(steps)) / 2).unwrap_or(i64::MAX)
    }

    /// Each word with the step at which it happens.
    fn words(&self, channel: Channel, random: &mut StdRng) -> Vec<(u32, Word)> {
        let receipt = |status, code| Word::Receipt { status, code };
        let delivered = receipt(ReceiptStatus::Delivered, None);
        match channel {
            Channel::Sms => {
                let mut words = vec![(1, receipt(ReceiptStatus::Sent, None))];
                if hits(self.sms_undelivered, random) {
                    let code = if random.random_bool(0.5) { "30003" } else { "30005" };
                    words.push((2, receipt(ReceiptStatus::Undelivered, Some(code))));
                } else {
                    words.push((2, delivered));
                    if hits(self.sms_answered, random) {
                        words.push((4, Word::Answer(ANSWERS[random.random_range(0..ANSWERS.len())])));
                    }
                }
                words
            }
            Channel::Email if hits(self.email_bounced, random) => {
                let bounced = (3, receipt(ReceiptStatus::Bounced, Some("5.1.1")));
                if random.random_ratio(1, 3) { vec![(1, delivered), bounced] } else { vec![bounced] }
            }
            Channel::Email if hits(self.email_complained, random) => {
                vec![(1, delivered), (4, receipt(ReceiptStatus::Complained, None))]
            }
            Channel::Email => vec![(1, delivered)],
            Channel::Push if hits(self.push_seen, random) => {
                let mut words = vec![(2, Word::Engaged(Engagement::Seen))];
                if random.random_bool(0.5) {
                    words.push((3, Word::Engaged(Engagement::Read)));
                }
                words
            }
            Channel::Push => Vec::new(),
        }
    }
}

fn hits(percent: u8, random: &mut StdRng) -> bool {
    random.random_range(0..100) < percent
}

/// By when it is told, then by when it was planned.
struct Waiting(Timestamp, u64, Report);

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// Follows a log and tells each message's story in its time. What waits is bounded by
/// the log: at most four words for each message that it keeps.
pub struct Receipts {
    log: Arc<MessageLog>,
    plan: ReceiptPlan,
    place: u64,
    planned: u64,
    waiting: BinaryHeap<Reverse<Waiting>>,
}

impl Receipts {
    /// Of the messages that the log keeps, and of all that follow.
    #[must_use]
    pub const fn new(log: Arc<MessageLog>, plan: ReceiptPlan) -> Self {
        Self { log, plan, place: 0, planned: 0, waiting: BinaryHeap::new() }
    }

    /// What is told until `now`.
    pub fn due(&mut self, now: Timestamp) -> Vec<Report> {
        let (place, new) = self.log.since(self.place);
        self.place = place;
        for report in new.iter().flat_map(|message| self.plan.story(message)) {
            self.planned += 1;
            self.waiting.push(Reverse(Waiting(report.told_at, self.planned, report)));
        }
        let mut due = Vec::new();
        while self.waiting.peek().is_some_and(|Reverse(next)| next.0 <= now) {
            due.extend(self.waiting.pop().map(|Reverse(Waiting(_, _, report))| report));
        }
        due
    }

    /// True when nothing waits to be told and the log has nothing new.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.log.since(self.place).1.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(channel: Channel, number: u128) -> Arc<Received> {
        let id = Uuid::from_u128(number << 64);
        let message = Received::new(channel, format!("SM{number}"), "+15550100001".into(), String::new(), "");
        Arc::new(message.of_delivery(Some(id)))
    }

    fn stories(channel: Channel, plan: &ReceiptPlan) -> Vec<Vec<Report>> {
        (1..=4_000).map(|number| plan.story(&message(channel, number))).collect()
    }

    fn share(stories: &[Vec<Report>], is_it: impl Fn(&Report) -> bool) -> usize {
        let hits = stories.iter().filter(|story| story.iter().any(&is_it)).count();
        hits * 100 / stories.len()
    }

    #[test]
    fn a_story_follows_from_the_delivery_and_the_seed() {
        let plan = ReceiptPlan { push_seen: 50, ..ReceiptPlan::default() };
        let words = |plan: &ReceiptPlan| -> Vec<Vec<Word>> {
            let stories = stories(Channel::Push, plan);
            stories.iter().map(|story| story.iter().map(|report| report.word).collect()).collect()
        };
        assert_eq!(words(&plan), words(&plan));
        assert_ne!(words(&plan), words(&ReceiptPlan { seed: 1, ..plan }));
    }

    #[test]
    fn shares_are_those_of_the_plan() {
        let plan = ReceiptPlan {
            sms_undelivered: 20,
            email_bounced: 30,
            push_seen: 40,
            repeated: 25,
            named_by_delivery: 60,
            ..ReceiptPlan::default()
        };
        let is = |wanted| move |report: &Report| matches!(report.word, Word::Receipt { status, .. } if status == wanted);
        let sms = stories(Channel::Sms, &plan);
        assert!((17..=23).contains(&share(&sms, is(ReceiptStatus::Undelivered))));
        assert!((22..=28).contains(&share(&sms, |report| report.is_repeat)));
        assert!((57..=63).contains(&share(&sms, |report| report.names_delivery)));
        assert!((27..=33).contains(&share(&stories(Channel::Email, &plan), is(ReceiptStatus::Bounced))));
        let push = stories(Channel::Push, &plan);
        assert!((37..=43).contains(&share(&push, |report| report.word == Word::Engaged(Engagement::Seen))));
        assert!(push.iter().flatten().all(|report| matches!(report.word, Word::Engaged(_))));
    }

    #[test]
    fn words_come_twice_and_in_the_wrong_order_and_say_when_they_happened() {
        let plan = ReceiptPlan { shuffled: 100, repeated: 100, ..ReceiptPlan::default() };
        for story in stories(Channel::Sms, &plan) {
            let (first, last) = (&story[0], &story[story.len() - 1]);
            assert!(last.is_repeat && story.is_sorted_by_key(|report| report.told_at));
            assert!(first.occurred_at > first.message.received_at);
            let told = &story[..story.len() - 1];
            assert!(told.is_sorted_by_key(|report| Reverse(report.occurred_at)));
        }
    }

    #[test]
    fn each_word_is_told_once_and_in_its_time() {
        let log = Arc::new(MessageLog::default());
        let plan = ReceiptPlan { sms_answered: 0, repeated: 0, shuffled: 0, ..ReceiptPlan::default() };
        let mut receipts = Receipts::new(Arc::clone(&log), plan);
        let begun = Timestamp::now();
        for number in 1..=10 {
            log.push(message(Channel::Sms, number).as_ref().clone());
        }
        let late = begun + SignedDuration::from_secs(60);
        assert!(!receipts.is_idle());
        assert!(receipts.due(begun).is_empty());
        assert_eq!(receipts.due(late).len(), 20);
        assert!(receipts.due(late).is_empty() && receipts.is_idle());
    }
}
