//! Resume tokens: the next offset of each partition, bound to what is watched.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use super::Target;
use crate::api::auth::Caller;

/// Longest token that is looked at, in characters.
const MAX_CHARS: usize = 4096;
/// Leads a token, so that its form can change.
const VERSION: u8 = 1;
/// Version and binding.
const HEAD_BYTES: usize = 9;

/// The same for the same target.
pub(super) fn binding(target: &Target, caller: &Caller) -> u64 {
    let text = match target {
        Target::Notification(id) => format!("notification:{id}"),
        Target::Patient(id) => format!("patient:{}", id.as_str()),
        Target::Own => format!("own:{}", caller.name),
    };
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).as_u64_pair().0
}

pub(super) fn write(next: &[i64], binding: u64) -> String {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + next.len() * 5);
    bytes.push(VERSION);
    bytes.extend_from_slice(&binding.to_be_bytes());
    for &offset in next {
        prost::encoding::encode_varint(u64::try_from(offset).unwrap_or(0), &mut bytes);
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

/// `None`: not a token of ours, or one for another target.
pub(super) fn read(text: &str, binding: u64) -> Option<Vec<i64>> {
    if text.len() > MAX_CHARS {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (head, mut rest) = bytes.split_at_checked(HEAD_BYTES)?;
    if head[0] != VERSION || head[1..] != binding.to_be_bytes() || rest.is_empty() {
        return None;
    }
    let mut next = Vec::new();
    while !rest.is_empty() {
        let offset = prost::encoding::decode_varint(&mut rest).ok()?;
        next.push(i64::try_from(offset).ok()?);
    }
    Some(next)
}
