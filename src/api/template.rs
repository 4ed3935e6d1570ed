//! `TemplateService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::{channel_from, channel_to, purpose_from, purpose_to};
use super::error::ApiError;
use super::proto;
use super::proto::template_service_preview_response::Content as Shown;
use super::validate::Violations;
use crate::deliver::catalog::{SmsLength, TemplateInfo, VariableFault, VariableInfo, VariableKind};
use crate::deliver::{Content, Renderer};
use crate::domain::{Channel, Purpose, Redacted};

/// Longest tag that BCP 47 asks programs to take.
const LOCALE_MAX_CHARS: usize = 35;

/// Shows the embedded templates.
#[derive(Debug)]
pub struct Templates {
    /// Makes the words of real messages, too.
    pub renderer: Arc<Renderer>,
}

#[tonic::async_trait]
impl proto::template_service_server::TemplateService for Templates {
    async fn list(
        &self,
        request: Request<proto::TemplateServiceListRequest>,
    ) -> Result<Response<proto::TemplateServiceListResponse>, Status> {
        let message = request.into_inner();
        let mut faults = Violations::default();
        let purpose = faults.word("purpose", message.purpose, purpose_from);
        let channel = faults.word("channel", message.channel, channel_from);
        check_locale(&message.locale, &mut faults);
        faults.finish()?;
        let fits = |info: &TemplateInfo| {
            purpose.is_none_or(|purpose| purpose == info.purpose)
                && channel.is_none_or(|channel| channel == info.channel)
                && (message.locale.is_empty() || message.locale.eq_ignore_ascii_case(info.locale))
        };
        let templates = self.renderer.templates().into_iter().filter(fits).map(template_to).collect();
        Ok(Response::new(proto::TemplateServiceListResponse { templates }))
    }

    async fn get(
        &self,
        request: Request<proto::TemplateServiceGetRequest>,
    ) -> Result<Response<proto::TemplateServiceGetResponse>, Status> {
        let message = request.into_inner();
        let (purpose, channel) = which(message.purpose, message.channel, &message.locale)?;
        let (info, sections) = self.renderer.source(purpose, channel, &message.locale);
        let section =
            |(name, source): (&str, String)| proto::TemplateSection { name: name.to_owned(), source };
        Ok(Response::new(proto::TemplateServiceGetResponse {
            template: Some(template_to(info)),
            sections: sections.into_iter().map(section).collect(),
        }))
    }

    async fn preview(
        &self,
        request: Request<proto::TemplateServicePreviewRequest>,
    ) -> Result<Response<proto::TemplateServicePreviewResponse>, Status> {
        Ok(Response::new(preview(&self.renderer, request.into_inner())?))
    }
}

/// Which template a request names.
fn which(purpose: i32, channel: i32, locale: &str) -> Result<(Purpose, Channel), ApiError> {
    let mut faults = Violations::default();
    let purpose = faults.required_word("purpose", purpose, purpose_from);
    let channel = faults.required_word("channel", channel, channel_from);
    check_locale(locale, &mut faults);
    faults.finish()?;
    purpose.zip(channel).ok_or_else(|| ApiError::invalid("purpose", "is required with channel"))
}

fn check_locale(locale: &str, faults: &mut Violations) {
    faults.require(locale.len() <= LOCALE_MAX_CHARS, "locale", "has more than 35 characters");
}

fn preview(
    renderer: &Renderer,
    message: proto::TemplateServicePreviewRequest,
) -> Result<proto::TemplateServicePreviewResponse, ApiError> {
    let (purpose, channel) = which(message.purpose, message.channel, &message.locale)?;
    let variables: Vec<(String, String)> = message.variables.into_iter().collect();
    let mut faults = Violations::default();
    add_faults("variables", renderer.faults(purpose, channel, &message.locale, &variables), &mut faults);
    faults.finish()?;
    let content = renderer
        .preview(purpose, channel, &message.locale, &variables)
        .map_err(|error| ApiError::invalid("variables", &error.to_string()))?;
    let (info, _) = renderer.source(purpose, channel, &message.locale);
    Ok(proto::TemplateServicePreviewResponse {
        locale: info.locale.to_owned(),
        content: Some(shown(content)),
    })
}

/// Notes what templates cannot use. A declared name stands in the field's path; any
/// other is not repeated: a caller may have mixed up names and values.
pub(super) fn add_faults(field: &str, found: Vec<VariableFault>, faults: &mut Violations) {
    for fault in found {
        match fault.name {
            Some(name) => faults.add(format!("{field}[{name}]"), fault.problem),
            None => faults.add(field, fault.problem),
        }
    }
}

fn shown(content: Content) -> Shown {
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    match content {
        Content::Sms { body } => {
            let length = SmsLength::of(&body).unwrap_or(SmsLength { septets: 0, segments: 0 });
            Shown::Sms(proto::SmsPreview {
                septets: count(length.septets),
                segments: count(length.segments),
                body: body.into_exposed(),
            })
        }
        Content::Email { subject, text, html } => {
            let [subject, text, html] = [subject, text, html].map(Redacted::into_exposed);
            Shown::Email(proto::EmailPreview { subject, text, html })
        }
        Content::Push { title, body, link } => {
            Shown::Push(proto::PushPreview { title: title.into_exposed(), body: body.into_exposed(), link })
        }
    }
}

fn template_to(info: TemplateInfo) -> proto::Template {
    proto::Template {
        purpose: purpose_to(info.purpose).into(),
        channel: channel_to(info.channel).into(),
        locale: info.locale.to_owned(),
        variables: info.variables.into_iter().map(variable_to).collect(),
    }
}

fn variable_to(info: VariableInfo) -> proto::TemplateVariable {
    use proto::TemplateVariableKind as Word;
    let (kind, max_chars, choices) = match info.kind {
        VariableKind::Date => (Word::Date, 0, Vec::new()),
        VariableKind::Time => (Word::Time, 0, Vec::new()),
        VariableKind::Text { max_chars } => (Word::Text, max_chars, Vec::new()),
        VariableKind::Choice { keys } => (Word::Choice, 0, keys),
    };
    proto::TemplateVariable {
        name: info.name,
        kind: kind.into(),
        optional: info.optional,
        max_chars: i32::try_from(max_chars).unwrap_or(i32::MAX),
        choices,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn renderer() -> Renderer {
        Renderer::embedded(&Config::from_defaults().plan).unwrap()
    }

    fn request(channel: proto::Channel, variables: &[(&str, &str)]) -> proto::TemplateServicePreviewRequest {
        proto::TemplateServicePreviewRequest {
            purpose: proto::Purpose::AppointmentReminder.into(),
            channel: channel.into(),
            locale: "en-GB".to_owned(),
            variables: variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        }
    }

    fn fields(message: proto::TemplateServicePreviewRequest) -> Vec<String> {
        match preview(&renderer(), message) {
            Err(ApiError::Invalid(faults)) => {
                let text = format!("{faults:?}");
                assert!(!text.contains("CANARY"), "{text}");
                faults.into_iter().map(|fault| fault.field).collect()
            }
            Err(other) => panic!("{other}"),
            Ok(_) => Vec::new(),
        }
    }

    #[test]
    fn a_preview_is_what_the_renderer_makes_of_a_message() {
        let variables = [("appointment_date", "2026-12-01"), ("appointment_time", "09:30")];
        let answer = preview(&renderer(), request(proto::Channel::Sms, &variables)).unwrap();
        assert_eq!(answer.locale, "en");
        let Some(Shown::Sms(sms)) = answer.content else { panic!("not a text message") };
        assert!(sms.body.contains("Appointment Tue, Dec 1 9:30 AM"), "{}", sms.body);
        assert_eq!((sms.septets, sms.segments), (i32::try_from(sms.body.len()).unwrap(), 1));
        let answer = preview(&renderer(), request(proto::Channel::Push, &[])).unwrap();
        let Some(Shown::Push(push)) = answer.content else { panic!("not a push message") };
        assert!(push.link.contains("/n/"), "{}", push.link);
    }

    #[test]
    fn what_would_be_dropped_cut_or_misunderstood_is_reported_all_at_once() {
        let bad = [
            ("CANARY-name", "x"),
            ("appointment_date", "CANARY"),
            ("appointment_time", "noon"),
            ("location", "CANARY long name of a clinic in the west"),
        ];
        assert_eq!(
            fields(request(proto::Channel::Sms, &bad)),
            [
                "variables",
                "variables[appointment_date]",
                "variables[appointment_time]",
                "variables[location]"
            ]
        );
        assert_eq!(fields(request(proto::Channel::Email, &bad[3..])), Vec::<String>::new());
        assert_eq!(fields(request(proto::Channel::Push, &bad[3..])), ["variables"]);
    }

    #[test]
    fn each_purpose_says_what_could_be_of_use_somewhere() {
        let of = |purpose, name: &str, value: &str| {
            let faults = renderer().faults_anywhere(purpose, &[(name.to_owned(), value.to_owned())]);
            faults.into_iter().map(|fault| fault.name).collect::<Vec<_>>()
        };
        assert_eq!(of(Purpose::Campaign, "topic", "survey"), []);
        assert_eq!(of(Purpose::Campaign, "topic", "diagnosis"), [Some("topic".to_owned())]);
        assert_eq!(of(Purpose::General, "topic", "survey"), [None]);
        assert_eq!(of(Purpose::AppointmentReminder, "location", &"w".repeat(60)), []);
        assert_eq!(of(Purpose::AppointmentReminder, "location", &"w".repeat(61)).len(), 1);
    }

    #[test]
    fn every_template_has_its_source_and_its_bounds() {
        let all = renderer().templates();
        assert_eq!(all.len(), Purpose::ALL.len() * Channel::ALL.len() * 2, "English and Spanish");
        for info in all {
            let (same, sections) = renderer().source(info.purpose, info.channel, info.locale);
            assert_eq!(same, info);
            assert!(!sections.is_empty() && sections.iter().all(|(_, source)| !source.is_empty()));
        }
    }
}
