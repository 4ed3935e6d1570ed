//! What the consumers' pods tell of themselves at `/metrics`: what one can do, and whether a
//! provider is away.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use reqwest::{Client, Url};
use tokio::net::lookup_host;

/// Pods of one deployment that are asked, at most.
const PODS_MAX: usize = 64;
/// Bytes of one pod's page, at most.
const PAGE_MAX_BYTES: usize = 4 * 1024 * 1024;
const TRUE_RATE: &str = "patient_notify_processor_true_rate";
const CIRCUIT_OPEN: &str = "patient_notify_circuit_open";

/// Why pods cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    /// Not an address.
    #[error(
        "scaler.processors_url is no http:// address with a host and a port: `{0}` (for example \
         http://{{deployment}}-metrics:9090/metrics)"
    )]
    Address(String),
    /// No client for HTTP.
    #[error("the client that asks pods cannot be made")]
    Client(#[from] reqwest::Error),
}

/// The pods of one deployment, by their common name.
#[derive(Debug, Clone)]
pub struct Pods {
    client: Client,
    url: Url,
}

/// What the pods say together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Told {
    /// Pods that answered.
    pub answered: usize,
    /// Pods that did not.
    pub silent: usize,
    /// Mean of the records a second that one handles while it is busy; `None`: none says.
    pub true_rate_per_s: Option<f64>,
    /// At least half of those that answered leave a provider alone.
    pub circuit_open: bool,
}

/// What one pod says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Page {
    true_rate_per_s: Option<f64>,
    circuit_open: bool,
}

impl Pods {
    /// Those of a deployment; `None`: nobody has said where they are.
    ///
    /// # Errors
    /// When `scaler.processors_url` cannot be used.
    pub fn new(pattern: &str, deployment: &str, timeout: Duration) -> Result<Option<Self>, PodsError> {
        if pattern.is_empty() {
            return Ok(None);
        }
        let address = pattern.replace("{deployment}", deployment);
        let url = Url::parse(&address).ok().filter(|url| url.scheme() == "http" && url.has_host());
        let url = url.ok_or_else(|| PodsError::Address(pattern.to_owned()))?;
        Ok(Some(Self { client: Client::builder().timeout(timeout).no_proxy().build()?, url }))
    }

    /// Asks all of them at once. Who does not answer in time, or not what is expected, is silent.
    pub async fn ask(&self) -> Told {
        let answers = join_all(self.addresses().await.into_iter().map(|address| self.page(address))).await;
        together(&answers)
    }

    async fn addresses(&self) -> Vec<SocketAddr> {
        let (Some(host), Some(port)) = (self.url.host_str(), self.url.port_or_known_default()) else {
            return Vec::new();
        };
        match lookup_host((host.trim_matches(['[', ']']), port)).await {
            Ok(found) => found.take(PODS_MAX).collect(),
            Err(error) => {
                tracing::debug!(host, %error, "no address of a pod was found");
                Vec::new()
            }
        }
    }

    /// What the pod at this address says; `None`: nothing that can be used.
    async fn page(&self, address: SocketAddr) -> Option<Page> {
        let mut url = self.url.clone();
        url.set_ip_host(address.ip()).ok()?;
        let mut answer = self.client.get(url).send().await.ok()?.error_for_status().ok()?;
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.ok()? {
            if text.len() + chunk.len() > PAGE_MAX_BYTES {
                return None;
            }
            text.extend_from_slice(&chunk);
        }
        Some(read(&String::from_utf8_lossy(&text)))
    }
}

/// What a page in Prometheus' text format says.
fn read(text: &str) -> Page {
    let mut page = Page::default();
    for line in text.lines() {
        let Some((name, value)) = sample(line) else { continue };
        match name {
            TRUE_RATE if value > 0.0 => page.true_rate_per_s = Some(value),
            CIRCUIT_OPEN if value > 0.0 => page.circuit_open = true,
            _ => {}
        }
    }
    page
}

/// The name and the value of a line `name{labels} value [timestamp]`.
fn sample(line: &str) -> Option<(&str, f64)> {
    let name = line.split(['{', ' ']).next()?;
    if name != TRUE_RATE && name != CIRCUIT_OPEN {
        return None;
    }
    let after = line.rsplit_once('}').map_or(&line[name.len()..], |(_, after)| after);
    let value: f64 = after.split_whitespace().next()?.parse().ok()?;
    value.is_finite().then_some((name, value))
}

fn together(answers: &[Option<Page>]) -> Told {
    let pages: Vec<&Page> = answers.iter().flatten().collect();
    let rates: Vec<f64> = pages.iter().filter_map(|page| page.true_rate_per_s).collect();
    let open = pages.iter().filter(|page| page.circuit_open).count();
    #[expect(clippy::cast_precision_loss, reason = "a handful of pods")]
    let mean = (!rates.is_empty()).then(|| rates.iter().sum::<f64>() / rates.len() as f64);
    Told {
        answered: pages.len(),
        silent: answers.len() - pages.len(),
        true_rate_per_s: mean,
        circuit_open: open > 0 && open * 2 >= pages.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_a_pod_can_do_and_whether_a_provider_is_away() {
        let text = "# HELP patient_notify_processor_true_rate x\n\
                    patient_notify_processor_true_rate 412.5\n\
                    patient_notify_processor_true_rate_more 9\n\
                    patient_notify_circuit_open{channel=\"email\"} 0\n\
                    patient_notify_circuit_open{channel=\"sms\"} 1 1700000000000\n";
        assert_eq!(read(text), Page { true_rate_per_s: Some(412.5), circuit_open: true });
        assert_eq!(
            read("patient_notify_processor_true_rate NaN\n\npatient_notify_circuit_open"),
            Page::default()
        );
    }

    #[test]
    fn pods_that_are_silent_or_idle_do_not_count_for_the_rate() {
        let page = |rate, circuit_open| Some(Page { true_rate_per_s: rate, circuit_open });
        let told = together(&[page(Some(400.0), false), page(Some(600.0), true), page(None, true), None]);
        let expected = Told { answered: 3, silent: 1, true_rate_per_s: Some(500.0), circuit_open: true };
        assert_eq!(told, expected);
        assert!(!together(&[page(None, true), page(None, false), page(None, false)]).circuit_open);
        assert_eq!(together(&[]), Told::default());
    }

    #[test]
    fn an_address_that_cannot_be_used_is_said_at_once() {
        let timeout = Duration::from_secs(1);
        assert!(Pods::new("", "c", timeout).unwrap().is_none());
        assert!(Pods::new("http://{deployment}:9090/metrics", "c", timeout).unwrap().is_some());
        let error = Pods::new("pods:9090", "c", timeout).unwrap_err().to_string();
        assert!(error.contains("scaler.processors_url") && error.contains("{deployment}"), "{error}");
    }
}
