//! Compiles `proto/` without protoc, and watches what is embedded at build time.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

/// Messages that carry health information: no derived `Debug`, so that they cannot
/// slip into a log line.
const SENSITIVE: &[&str] = &[
    ".patientnotify.v1.NotificationServiceSendRequest",
    ".patientnotify.v1.NotificationServiceSendManyRequest",
    ".patientnotify.v1.RecipientServiceUpsertRequest",
    ".patientnotify.v1.ContactPoint",
    ".patientnotify.v1.TemplateServicePreviewRequest",
    ".patientnotify.v1.SmsPreview",
    ".patientnotify.v1.EmailPreview",
    ".patientnotify.v1.PushPreview",
    ".patientnotify.v1.AppointmentServicePutRequest",
    ".patientnotify.v1.Appointment",
    ".patientnotify.v1.BatchServiceCreateRequest",
    ".patientnotify.v1.BatchRow",
    ".patientnotify.v1.BatchCsv",
    ".patientnotify.v1.DeadLetter",
    ".patientnotify.v1.OperationsServiceListDeadLettersResponse",
    ".patientnotify.v1.RecipientServicePutContactPointRequest",
    ".patientnotify.v1.RecipientServiceRemoveContactPointRequest",
    ".patientnotify.v1.RecipientServiceVerifyContactPointRequest",
    ".patientnotify.v1.RecipientServiceStartVerificationRequest",
    ".patientnotify.v1.RecipientServiceConfirmVerificationRequest",
    ".patientnotify.v1.RecipientServiceRegisterDeviceRequest",
    ".patientnotify.v1.RecipientServiceUnregisterDeviceRequest",
    ".patientnotify.v1.RecipientServiceDownloadExportResponse",
];

const FILES: &[&str] = &[
    "patientnotify/v1/appointment_service.proto",
    "patientnotify/v1/batch_service.proto",
    "patientnotify/v1/notification_service.proto",
    "patientnotify/v1/operations_service.proto",
    "patientnotify/v1/recipient_service.proto",
    "patientnotify/v1/template_service.proto",
];

/// What `scaler` serves; a port and a contract of its own.
const SCALER_FILES: &[&str] = &["keda/externalscaler.proto", "patientnotify/scaling/v1/scaler_service.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    // The migrations are embedded by a macro that cargo cannot see through.
    println!("cargo::rerun-if-changed=migrations");

    compile(FILES, "descriptors.bin")?;
    compile(SCALER_FILES, "scaler_descriptors.bin")
}

/// Generates code, and keeps the descriptors for reflection.
fn compile(files: &[&str], descriptors_file: &str) -> Result<(), Box<dyn Error>> {
    let descriptors = protox::Compiler::new(["proto"])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(files)?
        .file_descriptor_set();
    #[allow(clippy::disallowed_methods, reason = "cargo tells a build script its folder in no other way")]
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join(descriptors_file), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".")
        .skip_debug(SENSITIVE.iter().copied())
        .compile_fds(descriptors)?;
    Ok(())
}
