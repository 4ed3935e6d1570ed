//! Templates and variables become words.
//!
//! Templates are embedded, compiled once, and checked against the configuration
//! when the process starts: a text message that could be longer than 160 GSM-7
//! characters is a fault of the start, not of the night. Where only the link
//! differs from message to message, the words are made once and joined with the
//! link, which takes under a microsecond.

mod build;
mod code;

use std::fmt;

use minijinja::Environment;
use minijinja::value::Value;

use super::Content;
use super::catalog::{self, TemplateInfo};
use super::gsm7;
use super::templates::SOURCES;
use super::variables::{Language, Variable};
use crate::config::Plan;
use crate::domain::{Channel, DeliveryId, Purpose, Redacted};

/// Stands where the short code goes in words that are made once (private use).
const CODE_MARK: char = '\u{E000}';
/// Longest part that is made of one message.
const SECTION_MAX_BYTES: usize = 16 * 1024;

/// What can go wrong with templates. It names templates and variables, never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The templates do not fit the configuration; every fault, one a line.
    #[error("the templates cannot be used:\n  {}", faults.join("\n  "))]
    Unusable {
        /// Each names its template or key.
        faults: Vec<String>,
    },
    /// A variable that the template needs was not given.
    #[error("{purpose} by {channel}: variable {variable} is missing")]
    Missing {
        /// What for.
        purpose: Purpose,
        /// Where to.
        channel: Channel,
        /// Its name.
        variable: String,
    },
    /// A variable has a value of another kind than the template allows.
    #[error("{purpose} by {channel}: variable {variable} is not of its kind (see the template's head)")]
    WrongKind {
        /// What for.
        purpose: Purpose,
        /// Where to.
        channel: Channel,
        /// Its name.
        variable: String,
    },
    /// The template itself failed, or its words are too long.
    #[error("{purpose} by {channel}: {problem}")]
    Failed {
        /// What for.
        purpose: Purpose,
        /// Where to.
        channel: Channel,
        /// In words of ours.
        problem: &'static str,
    },
    /// The words around a code that proves an address cannot be made.
    #[error("code by {channel}: {problem}")]
    Code {
        /// Where to.
        channel: Channel,
        /// In words of ours.
        problem: &'static str,
    },
}

struct Section {
    name: String,
    /// The words around each short code, when nothing else differs.
    fixed: Option<Vec<String>>,
}

struct Template {
    language: Language,
    locale: &'static str,
    purpose: Purpose,
    channel: Channel,
    variables: Vec<(String, Variable)>,
    sections: Vec<Section>,
}

/// Standard variables, in the characters of a channel.
struct Standard {
    sender_name: Value,
    contact_phone: Value,
    portal_url: Value,
}

/// Makes the words of messages; cheap to share, never changes.
pub struct Renderer {
    environment: Environment<'static>,
    locales: Vec<&'static str>,
    default_locale: usize,
    /// By locale, purpose, channel.
    templates: Vec<Template>,
    portal_url: String,
    plain: Standard,
    gsm7: Standard,
}

impl fmt::Debug for Renderer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renderer").field("locales", &self.locales).finish_non_exhaustive()
    }
}

impl Renderer {
    /// Compiles the embedded templates for a sender.
    ///
    /// # Errors
    /// [`RenderError::Unusable`]: every template that does not compile, lacks a
    /// section or can exceed one text message, and every unusable key.
    pub fn embedded(plan: &Plan) -> Result<Self, RenderError> {
        Self::build(plan, SOURCES)
    }

    /// Makes the words of one message. Variables that the template does not
    /// declare are dropped: they reach nobody. The locale falls back from
    /// `es-MX` to `es` to the configured default.
    ///
    /// # Errors
    /// [`RenderError`] when a needed variable is missing or of another kind.
    pub fn render(
        &self,
        purpose: Purpose,
        channel: Channel,
        locale: &str,
        variables: &[(String, String)],
        delivery_id: DeliveryId,
    ) -> Result<Content, RenderError> {
        let template = self.template(self.locale(locale), purpose, channel);
        let code = delivery_id.short_code();
        let mut words = self.sections(template, variables, &code)?.into_iter();
        let mut next = || Redacted::new(words.next().unwrap_or_default());
        Ok(match channel {
            Channel::Sms => Content::Sms { body: next() },
            Channel::Email => Content::Email { subject: next(), text: next(), html: next() },
            Channel::Push => Content::Push { title: next(), body: next(), link: self.link(&code) },
        })
    }

    /// Names of the variables that a purpose takes, on any channel, sorted: what
    /// a caller may send.
    #[must_use]
    pub fn variables(&self, purpose: Purpose) -> Vec<&str> {
        let of_purpose = self.templates.iter().filter(|template| template.purpose == purpose);
        let mut names: Vec<&str> = of_purpose
            .flat_map(|template| template.variables.iter().map(|(name, _)| name.as_str()))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What each template takes, in no order.
    pub(super) fn parts(&self) -> impl Iterator<Item = TemplateInfo> {
        self.templates.iter().map(|one| catalog::info(one.purpose, one.channel, one.locale, &one.variables))
    }

    /// What the template for this locale takes.
    pub(super) fn info(&self, purpose: Purpose, channel: Channel, locale: &str) -> TemplateInfo {
        let one = self.template(self.locale(locale), purpose, channel);
        catalog::info(purpose, channel, one.locale, &one.variables)
    }

    /// Language and declared variables of the template for this locale.
    pub(super) fn declared(
        &self,
        purpose: Purpose,
        channel: Channel,
        locale: &str,
    ) -> (Language, &[(String, Variable)]) {
        let one = self.template(self.locale(locale), purpose, channel);
        (one.language, &one.variables)
    }

    /// A variable as the templates of a purpose declare it.
    pub(super) fn of_purpose(
        &self,
        purpose: Purpose,
        name: &str,
    ) -> impl Iterator<Item = (Language, &Variable)> {
        let of_purpose = self.templates.iter().filter(move |one| one.purpose == purpose);
        of_purpose.flat_map(move |one| {
            let named = one.variables.iter().filter(move |(declared, _)| declared == name);
            named.map(|(_, variable)| (one.language, variable))
        })
    }

    fn link(&self, code: &str) -> String {
        format!("{}/n/{code}", self.portal_url)
    }

    fn template(&self, locale: usize, purpose: Purpose, channel: Channel) -> &Template {
        let purposes = Purpose::ALL.len();
        let channels = Channel::ALL.len();
        &self.templates[(locale * purposes + purpose as usize) * channels + channel as usize]
    }

    /// Exact, then without its last subtag, again and again, then the default.
    fn locale(&self, tag: &str) -> usize {
        let mut rest = tag;
        loop {
            if let Some(found) = self.find_locale(rest) {
                return found;
            }
            match rest.rfind(['-', '_']) {
                Some(end) => rest = &rest[..end],
                None => return self.default_locale,
            }
        }
    }

    fn find_locale(&self, tag: &str) -> Option<usize> {
        self.locales.iter().position(|locale| locale.eq_ignore_ascii_case(tag))
    }

    fn sections(
        &self,
        template: &Template,
        variables: &[(String, String)],
        code: &str,
    ) -> Result<Vec<String>, RenderError> {
        if template.sections.iter().all(|section| section.fixed.is_some()) {
            let fixed = template.sections.iter().filter_map(|section| section.fixed.as_ref());
            return Ok(fixed.map(|pieces| pieces.join(code)).collect());
        }
        let values = template.values(variables)?;
        self.fill(template, &values, code)
    }

    /// Fills every section; `values` belong to the template's variables, in order.
    fn fill(&self, template: &Template, values: &[String], code: &str) -> Result<Vec<String>, RenderError> {
        let context = self.context(template, values, code);
        let section = |section: &Section| {
            let compiled = self.environment.get_template(&section.name);
            // The engine's error would quote the values: only its kind is ours to tell.
            compiled
                .and_then(|compiled| compiled.render(context.clone()))
                .map_err(|_| template.failed("a template uses a variable that it does not declare"))
        };
        let sections: Vec<String> = template.sections.iter().map(section).collect::<Result<_, _>>()?;
        if template.channel == Channel::Sms {
            let septets = sections.first().and_then(|body| gsm7::septets(&body.replace(CODE_MARK, "0")));
            if septets.is_none_or(|septets| septets > gsm7::MESSAGE_MAX_SEPTETS) {
                return Err(template.failed("the text is longer than one message of 160 GSM-7 characters"));
            }
        }
        if sections.iter().any(|section| section.len() > SECTION_MAX_BYTES) {
            return Err(template.failed("the text is longer than 16 KiB"));
        }
        Ok(sections)
    }

    fn context(&self, template: &Template, values: &[String], code: &str) -> Value {
        let is_sms = template.channel == Channel::Sms;
        let own = template.variables.iter().zip(values).map(|((name, _), value)| {
            let value = if is_sms { gsm7::simplify(value) } else { value.clone() };
            (Value::from(name.as_str()), Value::from(value))
        });
        Value::from_pairs(own.chain(self.shared(template.channel, template.locale, self.link(code))))
    }

    /// What every template may use.
    fn shared(&self, channel: Channel, locale: &'static str, link: String) -> [(Value, Value); 5] {
        let standard = if channel == Channel::Sms { &self.gsm7 } else { &self.plain };
        [
            (Value::from("sender_name"), standard.sender_name.clone()),
            (Value::from("contact_phone"), standard.contact_phone.clone()),
            (Value::from("portal_url"), standard.portal_url.clone()),
            (Value::from("link"), Value::from(link)),
            (Value::from("locale"), Value::from(locale)),
        ]
    }
}

impl Template {
    fn failed(&self, problem: &'static str) -> RenderError {
        RenderError::Failed { purpose: self.purpose, channel: self.channel, problem }
    }

    /// The declared variables' words, in order; an optional one that was not
    /// given is empty.
    fn values(&self, given: &[(String, String)]) -> Result<Vec<String>, RenderError> {
        let (purpose, channel) = (self.purpose, self.channel);
        let value = |(name, variable): &(String, Variable)| {
            let given = given.iter().find(|(given, _)| given == name).map(|(_, value)| value.trim());
            match given.filter(|value| !value.is_empty()) {
                None if variable.optional => Ok(String::new()),
                None => Err(RenderError::Missing { purpose, channel, variable: name.clone() }),
                Some(value) => variable
                    .kind
                    .words(value, self.language)
                    .ok_or_else(|| RenderError::WrongKind { purpose, channel, variable: name.clone() }),
            }
        };
        self.variables.iter().map(value).collect()
    }
}
