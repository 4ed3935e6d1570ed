//! The schema registry's wire format: a zero byte, the schema's id as four bytes
//! (big-endian), the Avro datum.

use crate::domain::Reason;

use super::Rejected;

const MAGIC: u8 = 0;
const HEAD_BYTES: usize = 5;

/// Takes a value apart: the id of the writer's schema, and the datum.
pub(super) fn split(payload: &[u8]) -> Result<(u32, &[u8]), Rejected> {
    let Some((&[magic, a, b, c, d], body)) = payload.split_first_chunk::<HEAD_BYTES>() else {
        let detail = format!("{} bytes, at least {HEAD_BYTES} are needed", payload.len());
        return Err(Rejected::new(Reason::NotWireFormat, detail));
    };
    if magic != MAGIC {
        let detail = "the first byte is not 0: not written through a schema registry";
        return Err(Rejected::new(Reason::NotWireFormat, detail));
    }
    Ok((u32::from_be_bytes([a, b, c, d]), body))
}
