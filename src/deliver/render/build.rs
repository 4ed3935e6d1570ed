//! Templates are compiled and checked, once, when the process starts.

use minijinja::value::Value;
use minijinja::{Environment, UndefinedBehavior};

use super::{CODE_MARK, RenderError, Renderer, Section, Standard, Template, code};
use crate::config::Plan;
use crate::deliver::gsm7;
use crate::deliver::templates::{self, LAYOUT, Source};
use crate::deliver::variables::Language;
use crate::domain::{Channel, Purpose};

/// Length of a short code.
const CODE_CHARS: usize = 11;

impl Renderer {
    pub(super) fn build(plan: &Plan, sources: &'static [Source]) -> Result<Self, RenderError> {
        let portal_url = plan.portal_url.trim_end_matches('/').to_owned();
        let mut faults = plan_faults(plan);
        let mut locales: Vec<&'static str> = Vec::new();
        for source in sources {
            if !locales.contains(&source.locale) {
                locales.push(source.locale);
            }
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        if let Err(error) = environment.add_template("layout.html", LAYOUT) {
            faults.push(format!("layout.html.j2: {error}"));
        }
        faults.extend(code::compile(&mut environment));
        let mut found: Vec<Template> = Vec::with_capacity(sources.len());
        for source in sources {
            match compile(&mut environment, source) {
                Ok(template) => found.push(template),
                Err(problem) => faults.push(format!("{}: {problem}", file_name(source))),
            }
        }
        let standard = |words: fn(&str) -> String| Standard {
            sender_name: Value::from(words(&plan.sender_name)),
            contact_phone: Value::from(words(&plan.contact_phone)),
            portal_url: Value::from(portal_url.as_str()),
        };
        let mut renderer = Self {
            environment,
            templates: in_order(&locales, found, &mut faults),
            default_locale: 0,
            plain: standard(str::to_owned),
            gsm7: standard(gsm7::simplify),
            locales,
            portal_url,
        };
        match renderer.find_locale(&plan.default_locale) {
            Some(index) => renderer.default_locale = index,
            None => {
                faults.push(format!("plan.default_locale must be one of {}", renderer.locales.join(", ")))
            }
        }
        if faults.is_empty() {
            renderer.check_and_fix(&mut faults);
            faults.extend(renderer.check_codes());
        }
        if faults.is_empty() { Ok(renderer) } else { Err(RenderError::Unusable { faults }) }
    }

    /// Fills every template with its longest values and with none, and keeps the
    /// words of those that have no variables.
    fn check_and_fix(&mut self, faults: &mut Vec<String>) {
        let longest_code = "W".repeat(CODE_CHARS);
        let mut fixed = Vec::new();
        for (index, template) in self.templates.iter().enumerate() {
            let longest: Vec<String> =
                template.variables.iter().map(|(_, v)| v.kind.longest(template.language)).collect();
            let mut tries = vec![longest];
            if template.variables.iter().all(|(_, variable)| variable.optional) {
                tries.push(vec![String::new(); template.variables.len()]);
            }
            for values in tries {
                if let Err(error) = self.fill(template, &values, &longest_code) {
                    faults.push(format!(
                        "locale {}, {error}; shorten plan.sender_name, plan.contact_phone or plan.portal_url, \
                         or the template",
                        template.locale
                    ));
                }
            }
            if template.variables.is_empty()
                && let Ok(sections) = self.fill(template, &[], &CODE_MARK.to_string())
            {
                fixed.push((index, sections));
            }
        }
        for (index, sections) in fixed {
            for (section, words) in self.templates[index].sections.iter_mut().zip(sections) {
                section.fixed = Some(words.split(CODE_MARK).map(str::to_owned).collect());
            }
        }
    }
}

fn plan_faults(plan: &Plan) -> Vec<String> {
    let mut faults = Vec::new();
    let is_url = plan.portal_url.starts_with("https://") || plan.portal_url.starts_with("http://");
    if !is_url || plan.portal_url.contains([' ', '?', '#']) || !plan.portal_url.is_ascii() {
        faults.push("plan.portal_url must be an http(s) address without query or fragment".to_owned());
    }
    for (key, value) in [("plan.sender_name", &plan.sender_name), ("plan.contact_phone", &plan.contact_phone)]
    {
        if value.trim().is_empty() || value.chars().any(char::is_control) {
            faults.push(format!("{key} must be one line of text"));
        }
    }
    faults
}

fn file_name(source: &Source) -> String {
    format!("templates/{}/{}.{}.j2", source.locale, source.purpose, source.channel)
}

fn compile(environment: &mut Environment<'static>, source: &Source) -> Result<Template, String> {
    let parsed = templates::parse(source.channel, source.text)?;
    let language = Language::of(source.locale).ok_or("dates of this language are not known")?;
    let mut sections = Vec::new();
    for (section, words) in templates::section_names(source.channel).iter().zip(parsed.sections) {
        let name = format!("{}/{}.{}.{section}", source.locale, source.purpose, source.channel);
        environment.add_template_owned(name.clone(), words).map_err(|error| error.to_string())?;
        sections.push(Section { name, fixed: None });
    }
    Ok(Template {
        language,
        locale: source.locale,
        purpose: source.purpose,
        channel: source.channel,
        variables: parsed.variables.into_iter().collect(),
        sections,
    })
}

/// One template a locale, purpose and channel, in the order of their indices.
fn in_order(locales: &[&'static str], mut found: Vec<Template>, faults: &mut Vec<String>) -> Vec<Template> {
    let mut ordered = Vec::with_capacity(found.len());
    for &locale in locales {
        for &purpose in Purpose::ALL {
            for &channel in Channel::ALL {
                let wanted = |t: &Template| (t.locale, t.purpose, t.channel) == (locale, purpose, channel);
                match found.iter().position(wanted) {
                    Some(index) => ordered.push(found.swap_remove(index)),
                    None => faults.push(format!("templates/{locale}/{purpose}.{channel}.j2 cannot be used")),
                }
            }
        }
    }
    ordered
}
