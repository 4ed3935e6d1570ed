//! One click ends e-mails of one purpose, and of no other; looking at the link does not.

use patient_notify::domain::{Channel, Purpose};
use patient_notify::topic::names;

use crate::harness::{eventually, only, request};
use crate::webhooks::{Bench, SOON};

const KEY: &str = "a key of at least thirty-two characters";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_click_ends_this_kind_of_e_mail_and_a_look_ends_nothing() {
    let mut bench = Bench::start(&[("PATIENT_NOTIFY_EMAIL__UNSUBSCRIBE_KEY", KEY)]).await;
    let world = &bench.world;
    world.load(&[only(Channel::Email, 1)]).await;
    let front = format!("http://{}", world.config.app.listen);
    let consumer = world.role("consumer-notification", |config| {
        config.email.unsubscribe_base_url.clone_from(&front);
        config.email.unsubscribe_key = KEY.to_owned().into();
    });
    let updates = world.role("consumer-notification-update", |_| {});
    world.publish_requests(&[request(1, "first")], &names::NOTIFICATIONS).await;
    world.until_sent(1, SOON).await;
    let link = world.sandbox.log.all()[0].unsubscribe.as_ref().expect("a link").expose().clone();
    assert!(link.starts_with(&front) && !link.contains("pat-"), "{link}");

    let page = bench.client.get(&link).send().await.unwrap();
    assert_eq!(page.status().as_u16(), 200);
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    let page = page.text().await.unwrap();
    assert!(page.contains("<form method=\"post\">") && page.contains("One-Click"), "{page}");
    let click = async |link: &str, body: &'static str| {
        let kind = "application/x-www-form-urlencoded";
        let sent = bench.client.post(link).header("content-type", kind).body(body).send().await.unwrap();
        sent.status().as_u16()
    };
    let one_click = "List-Unsubscribe=One-Click";
    assert_eq!(click(&link, "").await, 400, "a POST of something else");
    assert_eq!(click(&format!("{link}A"), one_click).await, 404);
    let other = if link.ends_with('A') { "B" } else { "A" };
    assert_eq!(click(&format!("{}{other}", &link[..link.len() - 1]), one_click).await, 404);
    assert!(bench.published().await.is_empty(), "none of these said anything");

    assert_eq!(click(&link, one_click).await, 200);
    assert_eq!(bench.published().await, ["pat-000001"], "on the topic once it is answered");
    let refused = "consent WHERE channel = 'email' AND purpose = 'general' AND NOT granted";
    eventually("the ledger has it", SOON, async || world.count(refused).await == 1).await;
    assert_eq!(click(&link, one_click).await, 200);
    assert_eq!(bench.published().await.len(), 1, "what is in force is not said again");
    assert_eq!(world.count("consent").await, 1, "of no other purpose");

    let mut reminder = request(1, "reminder");
    reminder.purpose = Purpose::TestResult;
    world.publish_requests(&[request(1, "second"), reminder], &names::NOTIFICATIONS).await;
    let suppressed = "notification WHERE purpose = 'general' AND state = 'suppressed'";
    eventually("the second one is not sent", SOON, async || world.count(suppressed).await == 1).await;
    world.until_sent(2, SOON).await;
    consumer.stop().await.unwrap();
    updates.stop().await.unwrap();
    for (result, count) in [("published", 1.0), ("known", 1.0), ("unusable", 1.0), ("bad_signature", 2.0)] {
        assert_eq!(bench.counted_of("unsubscribe", result).await, count, "{result}");
    }
    let token = link.rsplit('/').next().unwrap();
    assert!(!bench.front.log().contains(token), "a token is in the log");
    bench.stop().await;
}
