//! A backend that asks for a notification, and sees what becomes of it.
//!
//! ```sh
//! cargo run --example client -- http://127.0.0.1:19080 pat-000001
//! ```
//!
//! What matters for any caller is in [`send`]: one idempotency key for one thing that
//! is to be told, a deadline on every call, and the same call again, unchanged, after
//! an answer that says "not now".

#![allow(clippy::print_stdout, reason = "an example talks to a person")]

use std::time::Duration;

use anyhow::{Context as _, bail};
use patient_notify::api::proto;
use patient_notify::api::proto::notification_service_client::NotificationServiceClient;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

/// One call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// All calls for one notification together; then somebody has to look.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Between repeats, where the answer does not say how long.
const PAUSE: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [front, patient] = arguments.as_slice() else {
        bail!("usage: client FRONT PATIENT, for example: client http://127.0.0.1:19080 pat-000001");
    };
    // A real backend has a key already: the visit, the letter, the invoice.
    let key = format!("visit-{}", uuid::Uuid::new_v4());
    let notification = run(front, patient, &key).await?;
    println!("{} is {:?}: {}", notification.notification_id, notification.state(), notification.reason);
    Ok(())
}

/// Asks for a reminder, then looks at it.
///
/// # Errors
/// What the front said, when the same call again does not help.
pub async fn run(front: &str, patient: &str, key: &str) -> anyhow::Result<proto::Notification> {
    let channel = Endpoint::from_shared(front.to_owned())?.connect_timeout(CALL_TIMEOUT).connect_lazy();
    let mut client = NotificationServiceClient::new(channel);
    let wish = proto::NotificationServiceSendRequest {
        idempotency_key: key.to_owned(),
        patient_id: patient.to_owned(),
        purpose: proto::Purpose::AppointmentReminder.into(),
        ..Default::default()
    };
    let sent = send(&mut client, &wish).await?;
    // With the token any replica of the front answers for this very request.
    let mut get = Request::new(proto::NotificationServiceGetRequest {
        notification_id: sent.notification_id,
        consistency_token: Some(sent.consistency_token),
    });
    name_and_deadline(&mut get);
    let shown = client.get(get).await?.into_inner();
    shown.notification.context("the front answered without a notification")
}

/// Asks until it is taken over. The key makes that safe: however often the call is
/// repeated, whatever was lost on the way, it is one notification.
async fn send(
    client: &mut NotificationServiceClient<Channel>,
    wish: &proto::NotificationServiceSendRequest,
) -> anyhow::Result<proto::NotificationServiceSendResponse> {
    let give_up = Instant::now() + SEND_TIMEOUT;
    loop {
        let mut request = Request::new(wish.clone());
        name_and_deadline(&mut request);
        let status = match client.send(request).await {
            Ok(sent) => return Ok(sent.into_inner()),
            Err(status) => status,
        };
        let Some(pause) = repeat_after(&status) else { return Err(explained(&status)) };
        if Instant::now() + pause >= give_up {
            return Err(explained(&status).context("gave up; the same key may be tried again later"));
        }
        sleep(pause).await;
    }
}

fn name_and_deadline<T>(request: &mut Request<T>) {
    request.set_timeout(CALL_TIMEOUT);
    // Where callers are authenticated, `authorization: Bearer …` takes its place.
    request.metadata_mut().insert("x-caller", tonic::metadata::MetadataValue::from_static("scheduling"));
}

/// When the same call may be made again; `None`: it would get the same answer.
fn repeat_after(status: &Status) -> Option<Duration> {
    let told = status.get_details_retry_info().and_then(|info| info.retry_delay);
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted => Some(told.unwrap_or(PAUSE)),
        // Whether it was taken over is not known: the key sees to that.
        Code::DeadlineExceeded | Code::Cancelled => Some(PAUSE),
        _ => None,
    }
}

/// The reason for programs, the message for people, and each faulty field.
fn explained(status: &Status) -> anyhow::Error {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    let fields = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    let fields: Vec<String> =
        fields.iter().map(|fault| format!("\n  {}: {}", fault.field, fault.description)).collect();
    anyhow::anyhow!("{:?} {reason}: {}{}", status.code(), status.message(), fields.concat())
}
