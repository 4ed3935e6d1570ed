//! A processor looks at the lag of the partitions that it owns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::reader::{ReadError, Reader};
use super::window::Window;
use crate::metrics::LagTeller;
use crate::topic::Consumer;

/// Rates are means over this time.
const SPAN: Duration = Duration::from_secs(30);

/// Reads the lag of what a consumer owns, every so often, for the metrics, until it is told to
/// stop. While the brokers do not answer, what was read last stands.
///
/// # Errors
/// At once, when librdkafka refuses the configuration.
pub fn watch(
    consumer: &Arc<Consumer>,
    every: Duration,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + 'static, ReadError> {
    let options = consumer.options();
    let reader = Reader::of_topics(&options.kafka, &options.group, options.topics.clone())?;
    let consumer = Arc::clone(consumer);
    Ok(async move {
        let owner = Arc::downgrade(&consumer);
        let owns = move |topic: &str, partition| owner.upgrade().is_some_and(|it| it.owns(topic, partition));
        let teller = LagTeller::of_owned(owns);
        let mut window = Window::new(SPAN);
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let held: BTreeMap<_, _> = consumer
                .partitions()
                .iter()
                .map(|one| ((one.topic.to_string(), one.partition), one.held()))
                .collect();
            let Some(read) = stop.run_until_cancelled(reader.read_owned(held)).await else { return };
            match read {
                Ok(reading) => window.push(reading),
                Err(error) => {
                    tracing::warn!(%error, "the lag could not be read; what was read last stands");
                    continue;
                }
            }
            if let Some(standing) = window.standing() {
                teller.tell(standing);
            }
        }
    })
}
