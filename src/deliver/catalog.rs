//! What templates there are, what they take, and how they would look.

use super::Content;
use super::gsm7;
use super::render::{RenderError, Renderer};
use super::templates;
use super::variables::{Kind, Language, Variable};
use crate::domain::{Channel, DeliveryId, Purpose, Redacted};

/// Longest value that the topics' records take; blanks at its ends count too.
const VALUE_MAX_CHARS: usize = 500;

/// One template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateInfo {
    /// What it is for.
    pub purpose: Purpose,
    /// Where it goes.
    pub channel: Channel,
    /// BCP 47 tag.
    pub locale: &'static str,
    /// By name.
    pub variables: Vec<VariableInfo>,
}

/// One variable of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableInfo {
    /// Its name.
    pub name: String,
    /// What it may hold.
    pub kind: VariableKind,
    /// Without it the template has other words.
    pub optional: bool,
}

/// What a variable may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VariableKind {
    /// A day, `YYYY-MM-DD`.
    Date,
    /// A time of day, `HH:MM`.
    Time,
    /// A short text.
    Text {
        /// Longest that is shown whole.
        max_chars: usize,
    },
    /// One of these keys.
    Choice {
        /// Sorted.
        keys: Vec<String>,
    },
}

impl VariableInfo {
    fn of(name: &str, variable: &Variable) -> Self {
        let kind = match &variable.kind {
            Kind::Date => VariableKind::Date,
            Kind::Time => VariableKind::Time,
            Kind::Text { max_chars } => VariableKind::Text { max_chars: *max_chars },
            Kind::Choice { words } => VariableKind::Choice { keys: words.keys().cloned().collect() },
        };
        Self { name: name.to_owned(), kind, optional: variable.optional }
    }
}

/// A variable that a template cannot show as it was given. The sentence repeats
/// neither a value nor a name that the template does not declare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableFault {
    /// The declared name; `None`: a name that is not declared.
    pub name: Option<String>,
    /// What is wrong.
    pub problem: String,
}

/// A text message's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmsLength {
    /// In septets of the GSM 03.38 alphabet.
    pub septets: usize,
    /// Messages that a carrier makes of it.
    pub segments: usize,
}

impl SmsLength {
    /// Of a text; `None` when it is not in the alphabet.
    #[must_use]
    pub fn of(text: &Redacted<String>) -> Option<Self> {
        let septets = gsm7::septets(text.expose())?;
        Some(Self { septets, segments: gsm7::segments(septets) })
    }
}

impl Renderer {
    /// Every template, by purpose, channel and locale.
    #[must_use]
    pub fn templates(&self) -> Vec<TemplateInfo> {
        let mut all: Vec<TemplateInfo> = self.parts().collect();
        all.sort_by_key(|info| (info.purpose, info.channel, info.locale));
        all
    }

    /// The template that a recipient of this locale gets, and its sections (name and
    /// source); empty: the default locale.
    #[must_use]
    pub fn source(
        &self,
        purpose: Purpose,
        channel: Channel,
        locale: &str,
    ) -> (TemplateInfo, Vec<(&'static str, String)>) {
        let info = self.info(purpose, channel, locale);
        let is_its = |source: &&templates::Source| {
            (source.purpose, source.channel, source.locale) == (purpose, channel, info.locale)
        };
        // They were taken apart when the process started, so there is no fault left.
        let parsed = templates::SOURCES
            .iter()
            .find(is_its)
            .and_then(|source| templates::parse(channel, source.text).ok());
        let sections = parsed.map(|parsed| parsed.sections).unwrap_or_default();
        (info, templates::section_names(channel).iter().copied().zip(sections).collect())
    }

    /// What a template would not show as it is given: names that it does not declare,
    /// values of another kind or too long, and what is missing.
    #[must_use]
    pub fn faults(
        &self,
        purpose: Purpose,
        channel: Channel,
        locale: &str,
        variables: &[(String, String)],
    ) -> Vec<VariableFault> {
        let (language, declared) = self.declared(purpose, channel, locale);
        let mut faults: Vec<VariableFault> = Vec::new();
        let unknown = variables.iter().filter(|(name, _)| !declared.iter().any(|(known, _)| known == name));
        if unknown.count() > 0 {
            let names: Vec<&str> = declared.iter().map(|(name, _)| name.as_str()).collect();
            faults.push(VariableFault { name: None, problem: undeclared(&names) });
        }
        for (name, variable) in declared {
            let given = variables.iter().find(|(given, _)| given == name).map(|(_, value)| value.trim());
            let problem = match given.filter(|value| !value.is_empty()) {
                None if variable.optional => None,
                None => Some("is required".to_owned()),
                Some(value) => problem(&variable.kind, value, language, None),
            };
            faults.extend(problem.map(|problem| VariableFault { name: Some(name.clone()), problem }));
        }
        faults
    }

    /// What no template of a purpose, on any channel and in any locale, could use: a
    /// name that none declares, a value that one that declares it would refuse, and a
    /// text that even the most generous one would cut.
    #[must_use]
    pub fn faults_anywhere(&self, purpose: Purpose, variables: &[(String, String)]) -> Vec<VariableFault> {
        let mut faults = Vec::new();
        let mut unknown = false;
        for (name, value) in variables {
            let declared: Vec<(Language, &Variable)> = self.of_purpose(purpose, name).collect();
            unknown |= declared.is_empty();
            let longest = declared.iter().filter_map(|(_, variable)| max_chars(&variable.kind)).max();
            if value.chars().count() > VALUE_MAX_CHARS {
                faults.push(VariableFault { name: Some(name.clone()), problem: too_long() });
                continue;
            }
            let value = value.trim();
            let found = (!value.is_empty()).then(|| {
                declared.iter().find_map(|(language, v)| problem(&v.kind, value, *language, longest))
            });
            faults.extend(found.flatten().map(|problem| VariableFault { name: Some(name.clone()), problem }));
        }
        if unknown {
            faults.push(VariableFault { name: None, problem: undeclared(&self.variables(purpose)) });
        }
        faults
    }

    /// Names of the variables that some template of a purpose needs, in any locale, on
    /// these channels; without channels, on any.
    #[must_use]
    pub fn required(&self, purpose: Purpose, channels: &[Channel]) -> Vec<String> {
        let of_channels = |info: &TemplateInfo| channels.is_empty() || channels.contains(&info.channel);
        let needed = self
            .parts()
            .filter(|info| info.purpose == purpose && of_channels(info))
            .flat_map(|info| info.variables)
            .filter(|variable| !variable.optional)
            .map(|variable| variable.name);
        needed.collect::<std::collections::BTreeSet<String>>().into_iter().collect()
    }

    /// The words of a message that is not sent; its link has a made-up code.
    ///
    /// # Errors
    /// As [`Renderer::render`].
    pub fn preview(
        &self,
        purpose: Purpose,
        channel: Channel,
        locale: &str,
        variables: &[(String, String)],
    ) -> Result<Content, RenderError> {
        self.render(purpose, channel, locale, variables, DeliveryId(uuid::Uuid::nil()))
    }
}

/// What a template takes.
pub(super) fn info(
    purpose: Purpose,
    channel: Channel,
    locale: &'static str,
    variables: &[(String, Variable)],
) -> TemplateInfo {
    let variables = variables.iter().map(|(name, variable)| VariableInfo::of(name, variable)).collect();
    TemplateInfo { purpose, channel, locale, variables }
}

fn too_long() -> String {
    format!("has more than {VALUE_MAX_CHARS} characters")
}

fn undeclared(names: &[&str]) -> String {
    if names.is_empty() {
        "has a name that is not declared: there are no variables here".to_owned()
    } else {
        format!("has a name that is not declared; there are {}", names.join(", "))
    }
}

const fn max_chars(kind: &Kind) -> Option<usize> {
    match kind {
        Kind::Text { max_chars } => Some(*max_chars),
        Kind::Date | Kind::Time | Kind::Choice { .. } => None,
    }
}

/// What is wrong with a value that is not empty; `longest` replaces a text's own bound.
fn problem(kind: &Kind, value: &str, language: Language, longest: Option<usize>) -> Option<String> {
    match kind {
        Kind::Date => kind.words(value, language).is_none().then(|| "must be a day, YYYY-MM-DD".to_owned()),
        Kind::Time => kind.words(value, language).is_none().then(|| "must be a time, HH:MM".to_owned()),
        Kind::Choice { words } => (!words.contains_key(value)).then(|| {
            let keys: Vec<&str> = words.keys().map(String::as_str).collect();
            format!("must be one of {}", keys.join(", "))
        }),
        Kind::Text { max_chars } => {
            let bound = longest.unwrap_or(*max_chars);
            if value.chars().count() > bound {
                Some(format!("has more than {bound} characters and would be cut"))
            } else {
                value.chars().any(char::is_control).then(|| "has a control character".to_owned())
            }
        }
    }
}
