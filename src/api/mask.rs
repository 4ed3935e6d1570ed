//! Addresses as they may be shown.

use crate::domain::{Channel, Redacted};

/// Enough of an address to tell one's own apart, and too little to write to it.
#[must_use]
pub fn masked(channel: Channel, address: &Redacted<String>) -> String {
    let address = address.expose();
    match channel {
        Channel::Sms => hide(address, 2, 2),
        Channel::Email => match address.rsplit_once('@') {
            Some((local, domain)) => format!("{}***@{domain}", local.chars().next().unwrap_or('*')),
            None => "***".to_owned(),
        },
        // The end of a token is as good as random; its length says which kind it is.
        Channel::Push => format!("{} characters, ends in {}", address.len(), tail(address, 4)),
    }
}

/// Stars for everything but the first and last characters.
fn hide(text: &str, first: usize, last: usize) -> String {
    let length = text.chars().count();
    text.chars()
        .enumerate()
        .map(|(index, c)| {
            if index < first || index + last >= length {
                c
            } else {
                '*'
            }
        })
        .collect()
}

/// The last characters, unless they would be a good part of the text.
fn tail(text: &str, last: usize) -> String {
    let length = text.chars().count();
    if length < 4 * last {
        "*".repeat(last)
    } else {
        text.chars().skip(length - last).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_could_be_written_to_is_left() {
        let mask = |channel, address: &str| masked(channel, &address.to_owned().into());
        assert_eq!(mask(Channel::Sms, "+15550100042"), "+1********42");
        assert_eq!(mask(Channel::Email, "jane.doe@example.org"), "j***@example.org");
        assert_eq!(
            mask(Channel::Push, "0123456789abcdefghij"),
            "20 characters, ends in ghij"
        );
        assert_eq!(mask(Channel::Push, "short"), "5 characters, ends in ****");
    }
}
