//! Words around a code that proves an address. They belong to no purpose: nobody asks for
//! them by a topic or by `Send`.

use minijinja::Environment;
use minijinja::value::Value;

use super::{RenderError, Renderer};
use crate::deliver::templates::{self, CODE_SOURCES};
use crate::deliver::{Content, gsm7};
use crate::domain::{Channel, Redacted};

/// As long as any code.
const SAMPLE: &str = "888888";

fn section_name(locale: &str, channel: Channel, section: &str) -> String {
    format!("{locale}/verification_code.{channel}.{section}")
}

/// Compiles the templates of codes; gives every fault in words.
pub(super) fn compile(environment: &mut Environment<'static>) -> Vec<String> {
    let mut faults = Vec::new();
    for &(locale, channel, text) in CODE_SOURCES {
        let compiled = templates::parse(channel, text).and_then(|parsed| {
            let names = templates::section_names(channel).iter();
            names.zip(parsed.sections).try_for_each(|(section, words)| {
                let name = section_name(locale, channel, section);
                environment.add_template_owned(name, words).map_err(|error| error.to_string())
            })
        });
        let file = format!("templates/{locale}/verification_code.{channel}.j2");
        faults.extend(compiled.err().map(|problem| format!("{file}: {problem}")));
    }
    faults
}

impl Renderer {
    /// Every locale has the words, and a text message is one.
    pub(super) fn check_codes(&self) -> Vec<String> {
        let sample = Redacted::new(SAMPLE.to_owned());
        let mut faults = Vec::new();
        for &locale in &self.locales {
            for channel in [Channel::Sms, Channel::Email] {
                let made = self.code(channel, locale, &sample).map(drop);
                let told =
                    |error| format!("locale {locale}, {error}; shorten plan.sender_name, or the template");
                faults.extend(made.err().map(told));
            }
        }
        faults
    }

    /// The words of a message with a code, by text message or e-mail. The locale falls
    /// back as with [`Renderer::render`].
    ///
    /// # Errors
    /// [`RenderError::Code`]: there are no such words, or they are too long.
    pub fn code(
        &self,
        channel: Channel,
        locale: &str,
        code: &Redacted<String>,
    ) -> Result<Content, RenderError> {
        let locale = self.locales[self.locale(locale)];
        let own = (Value::from("code"), Value::from(code.expose().as_str()));
        let shared = self.shared(channel, locale, self.portal_url.clone());
        let context = Value::from_pairs(std::iter::once(own).chain(shared));
        let words = |section: &str| {
            let compiled = self.environment.get_template(&section_name(locale, channel, section));
            // The engine's error would quote the code.
            let words = compiled.and_then(|compiled| compiled.render(context.clone()));
            words
                .map(Redacted::new)
                .map_err(|_| RenderError::Code { channel, problem: "there are no such words" })
        };
        match channel {
            Channel::Sms => {
                let body = words("body")?;
                let septets = gsm7::septets(body.expose());
                if septets.is_none_or(|septets| septets > gsm7::MESSAGE_MAX_SEPTETS) {
                    let problem = "the text is longer than one message of 160 GSM-7 characters";
                    return Err(RenderError::Code { channel, problem });
                }
                Ok(Content::Sms { body })
            }
            Channel::Email => {
                Ok(Content::Email { subject: words("subject")?, text: words("text")?, html: words("html")? })
            }
            Channel::Push => Err(RenderError::Code { channel, problem: "a device needs none" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_code_stands_in_the_words_and_in_no_subject() {
        let renderer = Renderer::embedded(&Config::from_defaults().plan).unwrap();
        let code = Redacted::new("042871".to_owned());
        for (locale, word) in [("en", "your code"), ("es-MX", "su clave"), ("fr", "your code")] {
            match renderer.code(Channel::Sms, locale, &code).unwrap() {
                Content::Sms { body } => {
                    assert!(body.expose().contains("042871") && body.expose().contains(word), "{locale}");
                    assert!(!body.expose().contains("http"), "a link beside a code teaches people to click");
                }
                other => panic!("{other:?}"),
            }
            match renderer.code(Channel::Email, locale, &code).unwrap() {
                Content::Email { subject, text, html } => {
                    assert!(text.expose().contains("042871") && html.expose().contains("<strong>042871<"));
                    assert!(!subject.expose().contains("042871"), "subjects are shown on lock screens");
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(renderer.code(Channel::Push, "en", &code).is_err());
    }

    #[test]
    fn a_sender_whose_name_makes_two_messages_is_a_fault_of_the_start() {
        let mut plan = Config::from_defaults().plan;
        plan.sender_name = "x".repeat(120);
        let faults = Renderer::embedded(&plan).unwrap_err().to_string();
        assert!(faults.contains("code by sms: the text is longer"), "{faults}");
    }
}
