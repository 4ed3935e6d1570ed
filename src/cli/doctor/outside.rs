//! The providers: whether they answer, and take our credentials. Nothing is sent.

use super::finding::Finding;
use crate::config::Config;
use crate::deliver::{Providers, provider_name};
use crate::domain::{Channel, Reason};

pub(super) async fn providers(config: &Config) -> Vec<Finding> {
    let providers = match Providers::from_config(config) {
        Ok(providers) => providers,
        Err(error) => {
            return vec![Finding::fault("providers", error.to_string(), "correct these keys")];
        }
    };
    let mut findings = Vec::with_capacity(Channel::ALL.len());
    for channel in Channel::ALL {
        findings.push(greet(&providers, *channel).await);
    }
    findings
}

async fn greet(providers: &Providers, channel: Channel) -> Finding {
    let check = provider_name(channel);
    let section = channel.as_str();
    match providers.greet(channel).await {
        Ok(()) => Finding::ok(check, format!("answers, and takes our credentials ({section})")),
        Err(Reason::ChannelDisabled) => Finding::warning(
            check,
            format!("{section} is switched off"),
            format!("set {section}.enabled, if it should not be"),
        ),
        Err(reason) => {
            let what = format!("cannot be called for {section}: {}", reason.as_str());
            Finding::fault(check, what, mend(section, reason))
        }
    }
}

fn mend(section: &str, reason: Reason) -> String {
    match reason {
        Reason::ProviderCredentials => format!("correct the credentials in section [{section}]"),
        Reason::Throttled => "wait; it answers, and asks for fewer calls".to_owned(),
        _ => format!(
            "check the address in section [{section}], what lies between, and the provider's own status"
        ),
    }
}
