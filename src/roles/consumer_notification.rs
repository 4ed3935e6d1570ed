//! `consumer-notification`: `pat.notifications.v1` and the bulk topic → patients.

use super::{Context, consumer};
use crate::decode::RecordKind;
use crate::topic::names;

/// Runs until the context's shutdown.
///
/// # Errors
/// When the configuration cannot be used, or the processor breaks.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    consumer::run(ctx, &[names::NOTIFICATIONS, names::NOTIFICATIONS_BULK], RecordKind::Notification).await
}
