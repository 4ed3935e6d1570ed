//! The client that `examples/` shows works against a real front.

use patient_notify::api::proto::State;

use crate::front::front_with;
use crate::harness::{World, recipient};

#[allow(dead_code, reason = "its main is for people")]
#[path = "../../examples/client/main.rs"]
mod client;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_client_asks_sees_and_says_what_is_wrong() {
    let world = World::new().await;
    world.load(&[recipient(1)]).await;
    let (_process, _) = front_with(&world, &[]).await;
    let consumer = world.role("consumer-notification", |_| {});
    let front = format!("http://{}", world.config.app.listen);
    let patient = crate::harness::patient(1);

    let shown = client::run(&front, patient.as_str(), "visit-1").await.unwrap();
    assert_eq!(shown.patient_id, patient.as_str());
    assert_ne!(shown.state(), State::Unspecified);
    let again = client::run(&front, patient.as_str(), "visit-1").await.unwrap();
    assert_eq!(again.notification_id, shown.notification_id);

    let error = client::run(&front, "Jane Doe", "visit-2").await.unwrap_err().to_string();
    assert!(error.contains("INVALID_REQUEST") && error.contains("\n  patient_id: "), "{error}");
    consumer.stop().await.unwrap();
}
