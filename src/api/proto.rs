//! What `build.rs` makes of `proto/patientnotify/v1`.

use std::fmt;

pub use generated::*;

#[allow(
    clippy::all,
    clippy::too_many_lines,
    clippy::allow_attributes_without_reason,
    missing_docs,
    reason = "lints are for code that people write"
)]
mod generated {
    tonic::include_proto!("patientnotify.v1");
}

/// The compiled contract, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// `Debug` of a message with health information says only what it is.
macro_rules! opaque_debug {
    ($($message:ident),+) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message)).finish_non_exhaustive()
            }
        }
    )+};
}
opaque_debug!(NotificationServiceSendRequest, NotificationServiceSendManyRequest);
opaque_debug!(RecipientServiceUpsertRequest, ContactPoint);
opaque_debug!(TemplateServicePreviewRequest, SmsPreview, EmailPreview, PushPreview);
opaque_debug!(AppointmentServicePutRequest, Appointment);
opaque_debug!(BatchServiceCreateRequest, BatchRow, BatchCsv);
opaque_debug!(DeadLetter, OperationsServiceListDeadLettersResponse);
opaque_debug!(
    RecipientServicePutContactPointRequest,
    RecipientServiceRemoveContactPointRequest,
    RecipientServiceVerifyContactPointRequest,
    RecipientServiceStartVerificationRequest,
    RecipientServiceConfirmVerificationRequest,
    RecipientServiceRegisterDeviceRequest,
    RecipientServiceUnregisterDeviceRequest
);
