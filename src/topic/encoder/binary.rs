//! Avro's binary form of the few types that our busiest records are made of.
//! Source: Apache Avro 1.12.0 specification, "Binary encoding".

/// Zigzag, seven bits a byte.
pub(super) fn long(bytes: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

pub(super) fn length(bytes: &mut Vec<u8>, length: usize) {
    long(bytes, i64::try_from(length).unwrap_or(i64::MAX));
}

pub(super) fn text(bytes: &mut Vec<u8>, text: &str) {
    length(bytes, text.len());
    bytes.extend_from_slice(text.as_bytes());
}

pub(super) fn optional(bytes: &mut Vec<u8>, value: Option<&str>) {
    long(bytes, i64::from(value.is_some()));
    if let Some(value) = value {
        text(bytes, value);
    }
}
