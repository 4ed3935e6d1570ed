//! Texts from patients: STOP counts for everybody with that number, START takes it back and
//! no more than that, and nothing that Twilio has not signed is heard.

use patient_notify::deliver::UnsubscribeLinks;
use patient_notify::deliver::unsubscribe::Subscription;
use patient_notify::domain::{Channel, Purpose, RecipientId};
use patient_notify::record::recipients::ConsentUpsert;

use crate::harness::{BrokerProxy, Proxy, World, contact, eventually, sms_only};
use crate::webhooks::{Bench, CALLBACK_URL, NUMBER, SOON};

const PATH: &str = "/webhooks/twilio/inbound";
const FAMILY: &str = "+19997731945";
/// Whose newest word on text messages is a no, by purpose.
const REFUSED: &str = "(SELECT DISTINCT ON (recipient_id, purpose) recipient_id, purpose, granted FROM consent \
     WHERE channel = 'sms' ORDER BY recipient_id, purpose, consent_id DESC) newest WHERE NOT granted";

fn text<'a>(sid: &'a str, from: &'a str, body: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("MessageSid", sid),
        ("AccountSid", "ACsandbox0000000000000000000000000"),
        ("From", from),
        ("To", "+19997731000"),
        ("Body", body),
        ("NumMedia", "0"),
    ]
}

/// Status and content of the answer to a text, as Twilio calls it.
async fn texted(bench: &Bench, form: &[(&str, &str)]) -> (u16, String) {
    let url = format!("http://{}{PATH}", bench.world.config.app.listen);
    let signature = bench.signature(PATH, form);
    let sent =
        bench.client.post(url).form(form).header("X-Twilio-Signature", signature).send().await.unwrap();
    (sent.status().as_u16(), sent.text().await.unwrap())
}

fn consent(purpose: patient_notify::domain::Purpose, granted: bool) -> ConsentUpsert {
    ConsentUpsert {
        channel: Channel::Sms,
        purpose,
        granted,
        given_at: jiff::Timestamp::now() - jiff::SignedDuration::from_secs(60),
        recorded_by: "portal".to_owned(),
        how: "form".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_counts_for_each_who_has_the_number_and_a_start_takes_back_no_more_than_that() {
    use patient_notify::domain::Purpose::{AppointmentReminder, Campaign};
    let mut bench = Bench::start(&[CALLBACK_URL]).await;
    let world = &bench.world;
    let mut family = [sms_only(1), sms_only(2), sms_only(4), sms_only(5)];
    for one in &mut family {
        one.contact_points = vec![contact(Channel::Sms, FAMILY.to_owned())];
    }
    // One of them has agreed to campaigns, the other wants no reminders.
    family[0].consents = vec![consent(Campaign, true)];
    family[1].consents = vec![consent(AppointmentReminder, false)];
    // Of the last two, one has not verified the number, and the other had it once.
    family[2].contact_points[0].verified_at = None;
    world.load(&family).await;
    let database = world.pool.get().await.unwrap();
    let retire = "UPDATE contact_point SET retired_at = now(), retired_why = 'invalid_address' \
        WHERE recipient_id = $1";
    let had_it = RecipientId::from_external(&family[3].external_id).0;
    assert_eq!(database.execute(retire, &[&had_it]).await.unwrap(), 1);
    world.load(&[sms_only(3)]).await;
    let updates = world.role("consumer-notification-update", |_| {});

    let empty = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response></Response>";
    let stop = text("SM01", FAMILY, " Stop. ");
    for _ in 0..2 {
        assert_eq!(texted(&bench, &stop).await, (200, empty.to_owned()));
    }
    eventually("all have refused all", SOON, async || world.count(REFUSED).await == 20).await;
    world.until_no_lag(SOON).await;
    assert_eq!(world.count("consent WHERE how = 'opt_out_of_all'").await, 20, "the repeat adds nothing");

    assert_eq!(texted(&bench, &text("SM02", FAMILY, "START")).await.0, 200);
    // The second one has neither agreed to campaigns nor to reminders, and whoever writes now
    // may not be one of the last two.
    eventually("the refusal is taken back", SOON, async || world.count(REFUSED).await == 2 + 10).await;
    world.until_no_lag(SOON).await;
    assert_eq!(world.count(&format!("{REFUSED} AND purpose = 'appointment_reminder'")).await, 1 + 2);
    assert_eq!(world.count(&format!("{REFUSED} AND purpose = 'campaign'")).await, 1 + 2);
    updates.stop().await.unwrap();

    let before = bench.published().await.len();
    for (body, expected) in [("thank you <3", empty), ("please stop the pain", empty)] {
        assert_eq!(texted(&bench, &text("SM03", FAMILY, body)).await, (200, expected.to_owned()), "{body}");
    }
    let (status, help) = texted(&bench, &text("SM04", FAMILY, "Help!")).await;
    assert!(
        status == 200 && help.contains("<Message>Example Health: ") && help.contains("Reply STOP"),
        "{help}"
    );
    assert_eq!(texted(&bench, &text("SM05", "+19997731999", "STOP")).await, (200, empty.to_owned()));
    let signature = bench.signature(PATH, &stop);
    let tampered = text("SM01", "+15550000003", " Stop. ");
    for (form, signature) in [(&stop, None), (&tampered, Some(signature)), (&stop, Some("forged".to_owned()))]
    {
        assert_eq!(bench.post(PATH, form, signature).await.0, 403);
    }
    let long = text("SM06", FAMILY, "x");
    let padding = "x".repeat(64 * 1024);
    let long: Vec<_> = long.into_iter().chain([("Padding", padding.as_str())]).collect();
    assert_eq!(texted(&bench, &long).await.0, 413);
    assert_eq!(bench.published().await.len(), before, "nothing of these is on the topic");
    let keys = bench.published().await.join(" ");
    assert!(!keys.contains(NUMBER), "{keys}");
    for (result, count) in
        [("published", 3.0), ("ignored", 2.0), ("help", 1.0), ("nobody", 1.0), ("bad_signature", 3.0)]
    {
        assert_eq!(bench.counted_of("twilio_inbound", result).await, count, "{result}");
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_and_clicks_come_again_when_the_broker_or_the_database_is_away() {
    let mut world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let database = Proxy::start(world.addresses.postgres_address()).await;
    let broker = BrokerProxy::start().await;
    let direct = world.config.postgres.url.expose().clone();
    let url = direct.replace(world.addresses.postgres_address(), &database.address);
    let brokers = world.addresses.proxied_brokers.clone();
    world.config.email.unsubscribe_key = "a key of at least thirty-two characters".to_owned().into();
    world.config.email.unsubscribe_base_url = format!("http://{}", world.config.app.listen);
    let key = world.config.email.unsubscribe_key.expose().clone();
    let what = Subscription {
        recipient_id: RecipientId::from_external(&sms_only(1).external_id),
        channel: Channel::Email,
        purpose: Purpose::Campaign,
    };
    let links = UnsubscribeLinks::from_config(&world.config.email).unwrap();
    let link = links.url(what, jiff::Timestamp::now()).unwrap();
    world.config.email.unsubscribe_base_url.clear();
    world.config.email.unsubscribe_key = Default::default();
    let variables = [
        CALLBACK_URL,
        ("PATIENT_NOTIFY_POSTGRES__URL", url.as_str()),
        ("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", brokers.as_str()),
        ("PATIENT_NOTIFY_EMAIL__UNSUBSCRIBE_KEY", key.as_str()),
    ];
    let bench = Bench::start_on(world, &variables).await;
    let number = sms_only(1).contact_points[0].address.expose().clone();
    let stop = text("SM01", &number, "STOP");
    let click = async || {
        let form = bench.client.post(&link).form(&[("List-Unsubscribe", "One-Click")]);
        let answer = form.send().await.unwrap();
        (answer.status().as_u16(), answer.headers().contains_key("retry-after"))
    };
    let signature = || Some(bench.signature(PATH, &stop));

    for away in ["broker", "database"] {
        if away == "broker" {
            broker.proxy.cut().await
        } else {
            database.cut().await
        }
        assert_eq!(bench.post(PATH, &stop, signature()).await, (503, true), "a text, {away} away");
        assert_eq!(click().await, (503, true), "a click, {away} away");
        broker.proxy.restore().await;
        database.restore().await;
    }
    eventually("the text is taken", SOON, async || bench.post(PATH, &stop, signature()).await.0 == 200).await;
    eventually("the click is taken", SOON, async || click().await.0 == 200).await;
    assert!(bench.published().await.len() >= 2, "each is on the topic once it is answered");
    bench.stop().await;
    broker.stop().await;
}
