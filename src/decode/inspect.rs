//! A value as people read it: by the schema that it was written with, whether or
//! not we could use it.

use apache_avro::reader::datum::GenericDatumReader;
use thiserror::Error;

use super::writers::Verdict;
use super::{Body, Decoder, Rejected, Unavailable, undecodable, wire};

/// Why a value cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotReadable {
    /// It can never be.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// Not now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Decoder {
    /// The fields of a value in the registry's wire format, by its writer's schema.
    /// The result is PHI. For the eyes of an operator, not for processing: asks the
    /// registry where it has to.
    ///
    /// # Errors
    /// [`NotReadable`], which holds nothing of the value.
    pub async fn as_written(&self, payload: &[u8]) -> Result<serde_json::Value, NotReadable> {
        let (schema_id, rest) = wire::split(payload)?;
        self.prepare(std::iter::once(payload)).await?;
        let writer = match self.writers.get(schema_id) {
            Some(Verdict::Writer(writer)) => writer,
            Some(Verdict::Refused(rejected)) => return Err(rejected.into()),
            None => return Err(undecodable(schema_id, "it was not fetched").into()),
        };
        let unusable = |_| undecodable(schema_id, "it cannot be used to read");
        let reader = GenericDatumReader::builder(writer.schema()).build().map_err(unusable)?;
        let mut body = Body { rest, ended_early: false };
        let value = reader.read_value(&mut body);
        if body.ended_early {
            return Err(undecodable(schema_id, "the value ends too early").into());
        }
        // The library's own errors may quote the value.
        let value = value.map_err(|_| undecodable(schema_id, "the bytes do not fit it"))?;
        if !body.rest.is_empty() {
            return Err(undecodable(schema_id, &format!("{} bytes are left over", body.rest.len())).into());
        }
        let no_json = |_| undecodable(schema_id, "the value cannot be written as JSON");
        Ok(serde_json::Value::try_from(value).map_err(no_json)?)
    }
}
