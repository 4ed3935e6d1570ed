//! The Avro schemas of the topics, as they stand in `avro/`: the contract with
//! everybody who writes or reads them. Text only; parsing belongs to the rooms
//! that read and write bytes.

/// `TestResultPublished`.
pub const TEST_RESULTS: &str = include_str!("../../avro/pat.test-results.v1.avsc");
/// `NotificationRequested`, also on the bulk topic.
pub const NOTIFICATIONS: &str = include_str!("../../avro/pat.notifications.v1.avsc");
/// `NotificationUpdate`.
pub const NOTIFICATION_UPDATES: &str = include_str!("../../avro/pat.notification-updates.v1.avsc");
/// `NotificationStatusChanged`.
pub const NOTIFICATION_STATUS: &str = include_str!("../../avro/pat.notification-status.v1.avsc");

/// Every schema: its file name in `avro/`, and its text.
pub const ALL: [(&str, &str); 4] = [
    ("pat.test-results.v1.avsc", TEST_RESULTS),
    ("pat.notifications.v1.avsc", NOTIFICATIONS),
    ("pat.notification-updates.v1.avsc", NOTIFICATION_UPDATES),
    ("pat.notification-status.v1.avsc", NOTIFICATION_STATUS),
];

/// The text of a schema file; `None` for a name that is not in `avro/`.
#[must_use]
pub fn text_of(file: &str) -> Option<&'static str> {
    ALL.iter().find(|(name, _)| *name == file).map(|(_, text)| *text)
}
