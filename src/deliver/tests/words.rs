//! What the recipients read.

use super::*;
use crate::deliver::gsm7;
use crate::deliver::render::{RenderError, Renderer};
use crate::domain::Purpose;

fn renderer() -> Renderer {
    Renderer::embedded(&plan()).unwrap()
}

fn id() -> DeliveryId {
    DeliveryId(Uuid::from_u128(0xFFFF_FFFF_FFFF_FFFF << 64))
}

fn pairs(values: &[(&str, &str)]) -> Vec<(String, String)> {
    values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Every part of a message, one after the other.
fn parts(content: &Content) -> Vec<String> {
    let parts = match content {
        Content::Sms { body } => vec![body],
        Content::Email { subject, text, html } => vec![subject, text, html],
        Content::Push { title, body, .. } => vec![title, body],
    };
    parts.into_iter().map(|part| part.expose().clone()).collect()
}

fn render(purpose: Purpose, channel: Channel, locale: &str, values: &[(&str, &str)]) -> Vec<String> {
    parts(&renderer().render(purpose, channel, locale, &pairs(values), id()).unwrap())
}

/// The longest values that the templates allow.
fn longest() -> Vec<(String, String)> {
    let place = "Wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww";
    pairs(&[
        ("appointment_date", "2026-09-30"),
        ("appointment_time", "22:30"),
        ("location", place),
        ("change", "cancelled"),
        ("topic", "flu_shots"),
    ])
}

#[test]
fn each_text_message_is_one_message_in_every_locale() {
    let renderer = renderer();
    for locale in ["en", "es"] {
        for &purpose in Purpose::ALL {
            for values in [longest(), Vec::new()] {
                let content = renderer.render(purpose, Channel::Sms, locale, &values, id()).unwrap();
                let body = &parts(&content)[0];
                let septets = gsm7::septets(body).unwrap_or_else(|| panic!("not GSM-7: {body}"));
                assert!(septets <= 160, "{septets}: {body}");
                assert!(body.starts_with("Example Health: "), "{body}");
                assert!(body.contains("+1 555 010 0100"), "{body}");
                assert!(body.contains("STOP"), "{body}");
                let link = format!("https://portal.example.org/n/{} ", id().short_code());
                assert!(body.contains(&link), "{body}");
            }
        }
    }
}

#[test]
fn a_test_result_is_announced_in_general_words_only() {
    let telling = pairs(&[
        ("category", "CANARY"),
        ("urgency", "CANARY"),
        ("diagnosis", "CANARY"),
        ("location", "CANARY"),
    ]);
    let renderer = renderer();
    for locale in ["en", "es"] {
        for &channel in Channel::ALL {
            let content = renderer.render(Purpose::TestResult, channel, locale, &telling, id()).unwrap();
            let words = parts(&content).join("\n").to_lowercase();
            for word in
                ["canary", "test", "result", "lab", "abnormal", "critical", "urgent", "prueba", "anal"]
            {
                assert!(!words.contains(word), "{word} in {words}");
            }
        }
    }
    let body = &render(Purpose::TestResult, Channel::Sms, "en", &[])[0];
    assert!(body.contains("You have a new message in the portal, sign in to see it"), "{body}");
}

#[test]
fn a_lock_screen_shows_the_same_for_every_value() {
    let renderer = renderer();
    for locale in ["en", "es"] {
        for &purpose in Purpose::ALL {
            let with = renderer.render(purpose, Channel::Push, locale, &longest(), id()).unwrap();
            let without = renderer.render(purpose, Channel::Push, locale, &[], id()).unwrap();
            assert_eq!(parts(&with), parts(&without));
        }
    }
}

#[test]
fn a_reminder_names_day_time_and_place() {
    let values =
        [("appointment_date", "2026-12-02"), ("appointment_time", "14:05"), ("location", "Clínica Sur")];
    let text = &render(Purpose::AppointmentReminder, Channel::Email, "en-US", &values)[1];
    assert!(text.contains("on Wed, Dec 2 at 2:05 PM, Clínica Sur."), "{text}");
    let text = &render(Purpose::AppointmentReminder, Channel::Email, "es-MX", &values)[1];
    assert!(text.contains("el mié 2 dic a las 14:05, Clínica Sur."), "{text}");
    let body = &render(Purpose::AppointmentReminder, Channel::Sms, "es", &values)[0];
    assert!(body.contains("Cita mié 2 dic 14:05, Clinica Sur."), "{body}");
}

#[test]
fn html_is_escaped_and_in_its_frame() {
    let values = [("appointment_date", "2026-12-02"), ("location", "<b>Main</b> & Co")];
    let [subject, text, html] = &render(Purpose::AppointmentReminder, Channel::Email, "en", &values)[..]
    else {
        panic!("not three parts")
    };
    assert!(!subject.contains('\n'));
    assert!(text.contains("<b>Main</b> & Co"));
    assert!(html.contains("&lt;b&gt;Main") && !html.contains("<b>Main"), "{html}");
    assert!(html.starts_with("<!doctype html>") && html.contains("lang=\"en\""));
}

#[test]
fn locales_fall_back() {
    let subject = |locale: &str| render(Purpose::General, Channel::Email, locale, &[])[0].clone();
    let (en, es) = (subject("en"), subject("es"));
    assert_ne!(en, es);
    for (locale, expected) in
        [("es-MX", &es), ("es_419", &es), ("ES", &es), ("en-GB", &en), ("fr-CA", &en), ("", &en)]
    {
        assert_eq!(&subject(locale), expected, "{locale}");
    }
    let spanish = Renderer::embedded(&Plan { default_locale: "es".to_owned(), ..plan() }).unwrap();
    let content = spanish.render(Purpose::General, Channel::Email, "fr", &[], id()).unwrap();
    assert_eq!(parts(&content)[0], es);
}

#[test]
fn a_value_of_another_kind_is_an_error_that_does_not_quote_it() {
    let values = pairs(&[("appointment_date", "CANARY")]);
    let error =
        renderer().render(Purpose::AppointmentReminder, Channel::Sms, "en", &values, id()).unwrap_err();
    assert!(matches!(&error, RenderError::WrongKind { variable, .. } if variable == "appointment_date"));
    assert!(!format!("{error} {error:?}").contains("CANARY"));
}

#[test]
fn callers_can_learn_what_a_purpose_takes() {
    let renderer = renderer();
    assert_eq!(renderer.variables(Purpose::TestResult), Vec::<&str>::new());
    let taken = ["appointment_date", "appointment_time", "location"];
    assert_eq!(renderer.variables(Purpose::AppointmentReminder), taken);
}

#[test]
fn what_cannot_fit_is_a_fault_of_the_start() {
    let error = Renderer::embedded(&Plan {
        portal_url: format!("https://{}.example.org", "portal".repeat(9)),
        default_locale: "fr".to_owned(),
        sender_name: String::new(),
        ..plan()
    })
    .unwrap_err()
    .to_string();
    assert!(error.contains("plan.default_locale must be one of en, es"), "{error}");
    assert!(error.contains("plan.sender_name"), "{error}");
    let error =
        Renderer::embedded(&Plan { sender_name: "A very long name of a clinic".to_owned(), ..plan() })
            .unwrap_err()
            .to_string();
    assert!(error.contains("longer than one message"), "{error}");
}
