//! What a provider or a recipient says has consequences: the next channel, or none
//! any more; an address that is retired; a consent that is withdrawn.

use std::time::Duration;

use jiff::SignedDuration;
use patient_notify::domain::{Channel, DeliveryRef, Engagement, ReceiptStatus, Redacted};
use patient_notify::topic::names;

use crate::harness::{
    RunningRole, World, consent, contact, delivery_of, engaged, eventually, receipt, receipt_for, recipient,
    request, stays,
};

const SOON: Duration = Duration::from_secs(30);
/// Of the consent ledger, what is in force and says yes.
const GRANTED: &str = "consent k WHERE granted AND NOT EXISTS (SELECT FROM consent n \
    WHERE (n.recipient_id, n.channel, n.purpose) = (k.recipient_id, k.channel, k.purpose) \
      AND n.consent_id > k.consent_id)";

struct Roles {
    consumer: RunningRole,
    updates: RunningRole,
    worker: Option<RunningRole>,
}

impl Roles {
    async fn start(world: &World) -> Self {
        let mut roles = Self::without_worker(world).await;
        roles.worker = Some(world.role("wrk-notifications", |_| {}));
        roles
    }

    async fn without_worker(world: &World) -> Self {
        let consumer = world.role("consumer-notification", |_| {});
        let updates = world.role("consumer-notification-update", |_| {});
        consumer.ready().await;
        updates.ready().await;
        Self { consumer, updates, worker: None }
    }

    async fn stop(self) {
        self.consumer.stop().await.unwrap();
        self.updates.stop().await.unwrap();
        if let Some(worker) = self.worker {
            worker.stop().await.unwrap();
        }
    }
}

async fn send(world: &World, number: u64, key: &str) {
    let before = world.sandbox.log.stats().total;
    world.publish_requests(&[request(number, key)], &names::NOTIFICATIONS).await;
    eventually(&format!("{key} is sent"), SOON, async || world.sandbox.log.stats().total > before).await;
    world.until_no_lag(SOON).await;
}

async fn until(world: &World, rows: &str) {
    eventually(rows, SOON, async || world.count(rows).await == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_did_not_arrive_goes_out_by_the_next_channel() {
    let world = World::new().await;
    world.load(&[recipient(1)]).await;
    let roles = Roles::start(&world).await;
    send(&world, 1, "lost").await;
    world.publish_updates(&[receipt(delivery_of("lost", Channel::Sms), ReceiptStatus::Undelivered)]).await;
    until(&world, "delivery WHERE channel = 'email' AND state = 'sent'").await;
    world.publish_updates(&[receipt(delivery_of("lost", Channel::Email), ReceiptStatus::Delivered)]).await;
    until(&world, "notification WHERE state = 'delivered'").await;
    // An e-mail may bounce after it was delivered.
    world.publish_updates(&[receipt(delivery_of("lost", Channel::Email), ReceiptStatus::Bounced)]).await;
    until(&world, "delivery WHERE channel = 'push' AND state = 'sent'").await;
    assert_eq!(world.sandbox.log.stats().total, 3, "one a channel");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_calls_off_what_was_still_planned() {
    let world = World::new().await;
    world.load(&[recipient(1), recipient(2)]).await;
    // Without a worker, the next channel waits.
    let roles = Roles::without_worker(&world).await;
    for (number, key) in [(1, "late"), (2, "read")] {
        send(&world, number, key).await;
        world.publish_updates(&[receipt(delivery_of(key, Channel::Sms), ReceiptStatus::Undelivered)]).await;
    }
    eventually("both wait for their next channel", SOON, async || {
        world.count("delivery WHERE channel = 'email' AND state = 'queued'").await == 2
    })
    .await;
    let late = receipt(delivery_of("late", Channel::Sms), ReceiptStatus::Delivered);
    world.publish_updates(&[late, engaged("read", Engagement::Read)]).await;
    eventually("neither does any more", SOON, async || {
        world.count("delivery WHERE channel = 'email' AND state = 'cancelled' AND reason = 'reached'").await
            == 2
    })
    .await;
    assert_eq!(world.count("delivery WHERE due_at IS NOT NULL").await, 0);
    until(&world, "notification WHERE state = 'delivered' AND reason = 'receipt_delivered'").await;
    until(&world, "notification WHERE engagement = 'read' AND state = 'cancelled'").await;
    let worker = world.role("wrk-notifications", |_| {});
    stays("nothing more is sent", Duration::from_secs(1), async || world.sandbox.log.stats().total == 2)
        .await;
    worker.stop().await.unwrap();
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_are_gone_are_retired_and_not_tried_again() {
    let world = World::new().await;
    let mut gone_device = recipient(1);
    gone_device.channel_order = vec![Channel::Push, Channel::Email];
    let mut gone_mailbox = recipient(2);
    gone_mailbox.channel_order = vec![Channel::Email, Channel::Sms];
    let mut dead_phone = recipient(3);
    // Twilio's own number for "invalid".
    dead_phone.contact_points[0] = contact(Channel::Sms, "+15005550001".to_owned());
    world.load(&[gone_device.clone(), gone_mailbox, dead_phone]).await;
    let roles = Roles::start(&world).await;
    for (number, key) in [(1, "device"), (2, "mailbox"), (3, "phone")] {
        send(&world, number, key).await;
    }
    let bounced = DeliveryRef::Id(delivery_of("mailbox", Channel::Email));
    world
        .publish_updates(&[
            receipt(delivery_of("device", Channel::Push), ReceiptStatus::TokenInvalid),
            receipt_for(bounced, ReceiptStatus::Bounced, Some("5.1.1")),
        ])
        .await;
    until(&world, "contact_point WHERE channel = 'push' AND retired_why = 'token_invalid'").await;
    until(&world, "contact_point WHERE channel = 'email' AND retired_why = 'invalid_address'").await;
    // Said by the provider's answer, not by a receipt.
    until(&world, "contact_point WHERE channel = 'sms' AND retired_why = 'invalid_address'").await;
    eventually("all went out by the next channel", SOON, async || {
        world.count("delivery WHERE position = 1 AND state = 'sent'").await == 3
    })
    .await;
    for (number, key) in [(1, "device-2"), (2, "mailbox-2"), (3, "phone-2")] {
        send(&world, number, key).await;
    }
    assert_eq!(world.count("delivery WHERE position = 0 AND state = 'sent'").await, 3, "the first is good");
    // The app has registered a new token meanwhile: the old news does not retire it.
    gone_device.contact_points[2] = contact(Channel::Push, "device-000001-new".to_owned());
    world.load(&[gone_device]).await;
    send(&world, 1, "device-3").await;
    until(&world, "delivery WHERE channel = 'push' AND state = 'sent' AND address = 'device-000001-new'")
        .await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_counts_from_the_next_message_and_an_older_word_does_not_undo_it() {
    let world = World::new().await;
    world.load(&[recipient(1), recipient(2)]).await;
    let roles = Roles::start(&world).await;
    send(&world, 1, "first").await;
    let stop = consent(1, Channel::Sms, false);
    let mut older_start = consent(1, Channel::Sms, true);
    older_start.occurred_at = stop.occurred_at - SignedDuration::from_secs(60);
    world.publish_updates(&[stop.clone(), older_start, stop.clone()]).await;
    eventually("the ledger has it", SOON, async || {
        world.count("consent WHERE NOT granted AND how = 'opt_out_of_all'").await == 5
    })
    .await;
    world.until_no_lag(SOON).await;
    assert_eq!(world.count(GRANTED).await, 0, "the older word is not in force");
    assert_eq!(world.count("consent WHERE NOT granted").await, 5, "one a purpose, once");
    send(&world, 1, "second").await;
    until(&world, "delivery WHERE channel = 'email' AND position = 0 AND state = 'sent'").await;
    // A complaint withdraws the consent to e-mail.
    let complaint = receipt(delivery_of("second", Channel::Email), ReceiptStatus::Complained);
    world.publish_updates(&[complaint]).await;
    until(&world, "notification WHERE state = 'delivered' AND reason = 'complained'").await;
    send(&world, 1, "third").await;
    until(&world, "delivery WHERE channel = 'push' AND position = 0 AND state = 'sent'").await;
    // And a later word is heeded again.
    world.publish_updates(&[consent(1, Channel::Sms, true)]).await;
    eventually("the ledger has that too", SOON, async || world.count(GRANTED).await == 4).await;
    send(&world, 1, "fourth").await;
    assert_eq!(world.count("delivery WHERE channel = 'sms' AND state = 'sent'").await, 2);
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_the_provider_knows_of_is_entered_and_an_unknown_recipient_is_waited_for() {
    let world = World::new().await;
    let mut stopped = recipient(1);
    // Twilio's own number for "has sent STOP".
    stopped.contact_points[0].address = Redacted::new("+15005550004".to_owned());
    world.load(&[stopped]).await;
    let roles = Roles::start(&world).await;
    world.publish_updates(&[consent(7, Channel::Sms, false)]).await;
    eventually("it waits for its recipient", SOON, async || world.count("unmatched_update").await == 1).await;
    send(&world, 1, "stopped").await;
    eventually("the ledger has the provider's word", SOON, async || {
        world.count("consent WHERE NOT granted AND channel = 'sms' AND how = 'refused_by_provider'").await
            == 5
    })
    .await;
    until(&world, "delivery WHERE channel = 'email' AND state = 'sent'").await;
    world.load(&[recipient(7)]).await;
    eventually("the opt-out has found its recipient", SOON, async || {
        world.count("unmatched_update").await == 0
            && world.count("consent WHERE how = 'opt_out_of_all'").await == 5
    })
    .await;
    send(&world, 7, "to-seven").await;
    assert_eq!(world.count("delivery WHERE channel = 'sms' AND state = 'sent'").await, 0);
    roles.stop().await;
}
