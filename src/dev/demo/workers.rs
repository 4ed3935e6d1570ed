//! What the workers do, shown as it happens: a reminder fires, a batch pauses and goes
//! on, and what a provider's outage held up is sent after it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;
use tonic::Code;
use tonic::transport::{Channel as Connection, Endpoint};

use crate::api::convert::timestamp_to;
use crate::api::proto;
use crate::api::proto::appointment_service_client::AppointmentServiceClient;
use crate::api::proto::batch_service_client::BatchServiceClient;
use crate::api::proto::notification_service_client::NotificationServiceClient;
use crate::domain::Channel;
use crate::sandbox::{ChannelFaults, Sandbox};
use crate::topic::sample::sample_patient;

/// Longest wait for one of the things that are shown.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(100);
/// The reminder is due this long before the appointment, and so soon after now.
const OFFSET_S: i64 = 24 * 60 * 60;
const AHEAD_S: i64 = 3;
/// Recipients of the batch at most, and how long it takes at its rate.
const BATCH_MAX: u64 = 600;
const BATCH_S: u64 = 8;
/// A pause is effective within this, and this long the batch is seen to stand still.
const PAUSE_EFFECT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_secs(2);
/// How long e-mail's provider is away, and messages to it meanwhile.
const OUTAGE: Duration = Duration::from_secs(4);
const HELD_UP: u64 = 20;

/// Shows all three, side by side.
///
/// # Errors
/// What did not happen.
pub(super) async fn show(front: &str, sandbox: &Sandbox, patients: u64) -> anyhow::Result<()> {
    let connection = Endpoint::from_shared(format!("http://{front}"))?.connect().await?;
    println!("\nWhat the workers do:");
    tokio::try_join!(
        reminder(connection.clone()),
        batch(connection.clone(), patients.min(BATCH_MAX)),
        outage(connection, sandbox, patients),
    )?;
    Ok(())
}

/// `cron` makes the reminder when its time has come.
async fn reminder(connection: Connection) -> anyhow::Result<()> {
    let mut client = AppointmentServiceClient::new(connection.clone());
    let due_at = Timestamp::now() + SignedDuration::from_secs(AHEAD_S);
    let appointment_id = format!("demo-{}", due_at.as_millisecond());
    let wish = proto::AppointmentServicePutRequest {
        appointment_id: appointment_id.clone(),
        patient_id: sample_patient(1).as_str().to_owned(),
        starts_at: Some(timestamp_to(due_at + SignedDuration::from_secs(OFFSET_S))),
        time_zone: "Europe/Zurich".to_owned(),
        location: "Main building, room 12".to_owned(),
        reminder_offsets: vec![prost_types::Duration { seconds: OFFSET_S, nanos: 0 }],
        ..Default::default()
    };
    client.put(wish).await.context("an appointment")?;
    let fired = until("a reminder fires", async || {
        let ask = proto::AppointmentServiceGetRequest { appointment_id: appointment_id.clone() };
        let shown = client.clone().get(ask).await?.into_inner().appointment.unwrap_or_default();
        let reminder = shown.reminders.into_iter().next().context("an appointment without a reminder")?;
        Ok((reminder.state() == proto::ReminderState::Fired).then_some(reminder))
    })
    .await?;
    let late_ms = Timestamp::now().duration_since(due_at).as_millis();
    let id = fired.notification_ids.first().context("a reminder without its notification")?;
    let state = sent(&mut NotificationServiceClient::new(connection), id).await?;
    println!(
        "  cron                 a reminder, planned {AHEAD_S} s ahead, fired {late_ms} ms after its time: {}",
        word(state)
    );
    Ok(())
}

/// `wrk-batch-publisher` publishes it; it pauses, stands still, and goes on.
async fn batch(connection: Connection, count: u64) -> anyhow::Result<()> {
    let mut client = BatchServiceClient::new(connection);
    let rate_per_second = i32::try_from((count / BATCH_S).max(1)).unwrap_or(i32::MAX);
    let wish = proto::BatchServiceCreateRequest {
        idempotency_key: format!("demo-{}", Timestamp::now().as_millisecond()),
        name: "Demonstration".to_owned(),
        purpose: proto::Purpose::General.into(),
        rate_per_second,
        expires_at: Some(timestamp_to(Timestamp::now() + SignedDuration::from_hours(1))),
        ..Default::default()
    };
    let made = client.create(wish).await.context("a batch")?.into_inner().batch.unwrap_or_default();
    let batch_id = made.batch_id;
    let row = |number| proto::BatchRow {
        patient_id: sample_patient(number).as_str().to_owned(),
        ..Default::default()
    };
    let upload = proto::BatchServiceUploadRecipientsRequest {
        batch_id: batch_id.clone(),
        chunk: Some(proto::batch_service_upload_recipients_request::Chunk::Rows(proto::BatchRows {
            first_row: 1,
            rows: (1..=count).map(row).collect(),
        })),
        last: true,
    };
    client.upload_recipients(futures::stream::iter([upload])).await.context("a batch's recipients")?;
    let recipients = i64::try_from(count).unwrap_or(i64::MAX);
    let start = proto::BatchServiceStartRequest { batch_id: batch_id.clone(), recipients };
    client.start(start).await.context("a batch's start")?;
    let published = async || {
        let ask = proto::BatchServiceGetRequest { batch_id: batch_id.clone() };
        let shown = client.clone().get(ask).await?.into_inner().batch.unwrap_or_default();
        anyhow::Ok((shown.published, shown.state() == proto::BatchState::Done))
    };
    until("a batch begins", async || Ok((published().await?.0 > 0).then_some(()))).await?;
    let paused = client.clone().pause(proto::BatchServicePauseRequest { batch_id: batch_id.clone() }).await;
    let how = match paused {
        Ok(_) => {
            sleep(PAUSE_EFFECT).await;
            let at = published().await?.0;
            sleep(PAUSE).await;
            let (after, _) = published().await?;
            ensure!(at == after, "a paused batch went on from {at} to {after}");
            let resume = proto::BatchServiceResumeRequest { batch_id: batch_id.clone() };
            client.clone().resume(resume).await.context("a batch that goes on")?;
            format!("paused at {at} for {} s, and went on", PAUSE.as_secs())
        }
        // A machine that stands still for seconds.
        Err(status) if status.code() == Code::FailedPrecondition => "done before it could pause".to_owned(),
        Err(status) => bail!("a batch cannot pause: {status}"),
    };
    let total = until("a batch is published", async || {
        let (total, done) = published().await?;
        Ok(done.then_some(total))
    })
    .await?;
    ensure!(total == recipients, "{total} of a batch's {recipients} recipients were published");
    println!("  wrk-batch-publisher  a batch of {total} at {rate_per_second}/s: {how}");
    Ok(())
}

/// `wrk-notifications` sends what an outage held up.
async fn outage(connection: Connection, sandbox: &Sandbox, patients: u64) -> anyhow::Result<()> {
    let mut client = NotificationServiceClient::new(connection);
    let away = ChannelFaults { refuse: true, ..ChannelFaults::default() };
    sandbox.faults.set(Channel::Email, away);
    let begun = Instant::now();
    let mut ids = Vec::new();
    for number in (1..=HELD_UP).map(|number| (number - 1) % patients + 1) {
        let wish = proto::NotificationServiceSendRequest {
            idempotency_key: format!("outage-{}-{}", Timestamp::now().as_millisecond(), ids.len()),
            patient_id: sample_patient(number).as_str().to_owned(),
            purpose: proto::Purpose::General.into(),
            channels: vec![proto::Channel::Email.into()],
            ..Default::default()
        };
        ids.push(client.send(wish).await.context("a message")?.into_inner().notification_id);
    }
    sleep(OUTAGE.saturating_sub(begun.elapsed())).await;
    let mut early = 0;
    for id in &ids {
        early += usize::from(state_of(&mut client, id).await?.is_some_and(is_sent));
    }
    sandbox.faults.set(Channel::Email, ChannelFaults::default());
    let back = Instant::now();
    let mut after = 0;
    for id in &ids {
        after += usize::from(is_sent(sent(&mut client, id).await?));
    }
    ensure!(early == 0, "{early} e-mails are said to be sent by a provider that is away");
    println!(
        "  wrk-notifications    e-mail's provider was away for {} s: of {HELD_UP} messages {after} were sent \
         within {:.1} s of its return",
        OUTAGE.as_secs(),
        back.elapsed().as_secs_f64(),
    );
    Ok(())
}

/// The state of a notification once it is with a provider, or has ended without.
async fn sent(
    client: &mut NotificationServiceClient<Connection>,
    notification_id: &str,
) -> anyhow::Result<proto::State> {
    until("a message ends", async || {
        let state = state_of(&mut client.clone(), notification_id).await?;
        Ok(state.filter(|&state| is_sent(state) || state == proto::State::Suppressed))
    })
    .await
}

/// `None`: it is not there yet.
async fn state_of(
    client: &mut NotificationServiceClient<Connection>,
    notification_id: &str,
) -> anyhow::Result<Option<proto::State>> {
    let ask = proto::NotificationServiceGetRequest {
        notification_id: notification_id.to_owned(),
        consistency_token: None,
    };
    match client.get(ask).await {
        Ok(shown) => Ok(shown.into_inner().notification.map(|one| one.state())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// A provider took it; what it said later does not matter here.
const fn is_sent(state: proto::State) -> bool {
    matches!(state, proto::State::Sent | proto::State::Delivered | proto::State::PermanentFailure)
}

fn word(state: proto::State) -> String {
    state.as_str_name().trim_start_matches("STATE_").to_ascii_lowercase()
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        sleep(LOOK).await;
    }
    bail!("{what}: not within {} s", PATIENCE.as_secs())
}
