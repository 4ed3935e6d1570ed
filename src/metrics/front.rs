//! What comes by HTTP, and codes that go out.

use super::{INSTRUMENTS, word};
use crate::domain::Channel;

/// One code that proves an address, by channel and by what came of its start or of a
/// try: as [`crate::deliver::SendOutcome::as_str`], `too_many`, `confirmed`, `wrong_code`.
pub fn verification(channel: Channel, result: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sides.verifications.add(1, &[word("channel", channel.as_str()), word("result", result)]);
    }
}

/// One callback of a provider, by what came of it.
pub fn webhook(provider: &'static str, result: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sides.webhooks.add(1, &[word("provider", provider), word("result", result)]);
    }
}
