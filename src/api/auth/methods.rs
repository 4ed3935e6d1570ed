//! Every method of the contract: what it asks of its caller, and how long it lasts.

use super::Scope;

/// How a call runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One request, one answer, within the deadline of a call.
    Unary,
    /// A stream in either direction, with bounds of its own.
    Stream,
}

/// A method of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// Path of its requests; also its label on metrics.
    pub path: &'static str,
    /// What its caller needs.
    pub scope: Scope,
    /// How it runs.
    pub kind: Kind,
}

const fn unary(path: &'static str, scope: Scope) -> Method {
    Method { path, scope, kind: Kind::Unary }
}

const fn stream(path: &'static str, scope: Scope) -> Method {
    Method { path, scope, kind: Kind::Stream }
}

/// All of them. A method that is not here is not served.
pub const METHODS: &[Method] = &[
    unary("/patientnotify.v1.NotificationService/Send", Scope::NotificationsSend),
    stream("/patientnotify.v1.NotificationService/SendMany", Scope::NotificationsSend),
    unary("/patientnotify.v1.NotificationService/Get", Scope::NotificationsRead),
    unary("/patientnotify.v1.NotificationService/List", Scope::NotificationsRead),
    stream("/patientnotify.v1.NotificationService/Watch", Scope::NotificationsRead),
    unary("/patientnotify.v1.NotificationService/Explain", Scope::NotificationsRead),
    unary("/patientnotify.v1.NotificationService/Cancel", Scope::NotificationsSend),
    unary("/patientnotify.v1.NotificationService/MarkRead", Scope::NotificationsEngage),
    unary("/patientnotify.v1.OperationsService/GetLag", Scope::OperationsRead),
    unary("/patientnotify.v1.OperationsService/ListDeadLetters", Scope::OperationsRead),
    unary("/patientnotify.v1.OperationsService/ReplayDeadLetters", Scope::OperationsAdmin),
    unary("/patientnotify.v1.OperationsService/StartReplay", Scope::OperationsAdmin),
    unary("/patientnotify.v1.OperationsService/ListJobs", Scope::OperationsRead),
    unary("/patientnotify.v1.OperationsService/GetJob", Scope::OperationsRead),
    unary("/patientnotify.v1.OperationsService/CancelJob", Scope::OperationsAdmin),
    unary("/patientnotify.v1.OperationsService/RetryJob", Scope::OperationsAdmin),
    unary("/patientnotify.v1.OperationsService/ListProviders", Scope::OperationsRead),
    unary("/patientnotify.v1.OperationsService/PauseChannel", Scope::OperationsAdmin),
    unary("/patientnotify.v1.OperationsService/ResumeChannel", Scope::OperationsAdmin),
    unary("/patientnotify.v1.OperationsService/GetProcessorState", Scope::OperationsRead),
    unary("/patientnotify.v1.OperationsService/ListCallbacks", Scope::OperationsRead),
    unary("/patientnotify.v1.OperationsService/ReplayCallbacks", Scope::OperationsAdmin),
    unary("/patientnotify.v1.RecipientService/Upsert", Scope::RecipientsWrite),
    unary("/patientnotify.v1.RecipientService/Get", Scope::RecipientsRead),
    unary("/patientnotify.v1.RecipientService/ListByPatient", Scope::RecipientsRead),
    unary("/patientnotify.v1.RecipientService/Erase", Scope::RecipientsWrite),
    unary("/patientnotify.v1.RecipientService/PutContactPoint", Scope::RecipientsWrite),
    unary("/patientnotify.v1.RecipientService/RemoveContactPoint", Scope::RecipientsWrite),
    unary("/patientnotify.v1.RecipientService/VerifyContactPoint", Scope::RecipientsWrite),
    unary("/patientnotify.v1.RecipientService/StartVerification", Scope::RecipientsWrite),
    unary("/patientnotify.v1.RecipientService/ConfirmVerification", Scope::RecipientsWrite),
    unary("/patientnotify.v1.RecipientService/UpdatePreferences", Scope::RecipientsWrite),
    unary("/patientnotify.v1.RecipientService/RecordConsent", Scope::RecipientsWrite),
    unary("/patientnotify.v1.RecipientService/ListConsents", Scope::RecipientsRead),
    unary("/patientnotify.v1.RecipientService/RegisterDevice", Scope::RecipientsWrite),
    unary("/patientnotify.v1.RecipientService/UnregisterDevice", Scope::RecipientsWrite),
    unary("/patientnotify.v1.RecipientService/ListDevices", Scope::RecipientsRead),
    unary("/patientnotify.v1.RecipientService/GrantProxy", Scope::RecipientsWrite),
    unary("/patientnotify.v1.RecipientService/RevokeProxy", Scope::RecipientsWrite),
    unary("/patientnotify.v1.RecipientService/SetComingOfAge", Scope::RecipientsWrite),
    unary("/patientnotify.v1.RecipientService/Export", Scope::RecipientsExport),
    stream("/patientnotify.v1.RecipientService/DownloadExport", Scope::RecipientsExport),
    unary("/patientnotify.v1.TemplateService/List", Scope::TemplatesRead),
    unary("/patientnotify.v1.TemplateService/Get", Scope::TemplatesRead),
    unary("/patientnotify.v1.TemplateService/Preview", Scope::TemplatesRead),
    unary("/patientnotify.v1.AppointmentService/Put", Scope::AppointmentsWrite),
    unary("/patientnotify.v1.AppointmentService/Get", Scope::AppointmentsRead),
    unary("/patientnotify.v1.AppointmentService/List", Scope::AppointmentsRead),
    unary("/patientnotify.v1.AppointmentService/Cancel", Scope::AppointmentsWrite),
    unary("/patientnotify.v1.AppointmentService/Confirm", Scope::AppointmentsWrite),
    unary("/patientnotify.v1.BatchService/Create", Scope::BatchesWrite),
    stream("/patientnotify.v1.BatchService/UploadRecipients", Scope::BatchesWrite),
    unary("/patientnotify.v1.BatchService/Start", Scope::BatchesWrite),
    unary("/patientnotify.v1.BatchService/Pause", Scope::BatchesWrite),
    unary("/patientnotify.v1.BatchService/Resume", Scope::BatchesWrite),
    unary("/patientnotify.v1.BatchService/Cancel", Scope::BatchesWrite),
    unary("/patientnotify.v1.BatchService/Check", Scope::BatchesWrite),
    unary("/patientnotify.v1.BatchService/Get", Scope::BatchesRead),
    unary("/patientnotify.v1.BatchService/List", Scope::BatchesRead),
];

/// The method of a path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::proto;

    #[test]
    fn every_method_of_the_contract_is_here_and_no_other() {
        let set = <prost_types::FileDescriptorSet as prost::Message>::decode(proto::DESCRIPTORS).unwrap();
        let mut contract = Vec::new();
        for file in set.file.iter().filter(|file| file.package() == "patientnotify.v1") {
            for service in &file.service {
                for rpc in &service.method {
                    let path = format!("/patientnotify.v1.{}/{}", service.name(), rpc.name());
                    let streams = rpc.client_streaming() || rpc.server_streaming();
                    contract.push((path, if streams { Kind::Stream } else { Kind::Unary }));
                }
            }
        }
        let here: Vec<_> = METHODS.iter().map(|method| (method.path.to_owned(), method.kind)).collect();
        contract.sort_by(|a, b| a.0.cmp(&b.0));
        let mut sorted = here;
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(sorted, contract);
    }
}
