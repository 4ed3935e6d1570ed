//! What KEDA is answered: more replicas for a backlog on a real broker, an error and never a
//! number when the broker is away, and to an operator why.

use std::time::Duration;

use patient_notify::config::Config;
use patient_notify::scaler::proto::externalscaler::external_scaler_client::ExternalScalerClient;
use patient_notify::scaler::proto::externalscaler::{GetMetricsRequest, ScaledObjectRef};
use patient_notify::scaler::proto::v1::ScalerServiceExplainRequest;
use patient_notify::scaler::proto::v1::scaler_service_client::ScalerServiceClient;
use patient_notify::topic::names::TEST_RESULTS;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::harness::{BrokerProxy, RunningRole, World, eventually, free_address};
use crate::tools::tool;

const RESULTS: &str = "consumer-test-result-notification";
const SOON: Duration = Duration::from_secs(60);
const MIN: u32 = 2;
const MAX: u32 = 6;

/// A scaler of pods that handle 10 records a second.
async fn scaler(world: &World, change: impl FnOnce(&mut Config)) -> (RunningRole, String, Channel) {
    let address = free_address();
    let role = world.role("scaler", |config| {
        config.scaler.listen.clone_from(&address);
        config.scaler.interval_ms = 500;
        config.scaler.stale_after_ms = 3_000;
        config.scaler.results_replicas_min = MIN;
        config.scaler.results_replicas_max = MAX;
        config.scaler.results_rate_per_s = 10;
        change(config);
    });
    role.ready().await;
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    (role, address, channel)
}

fn object(name: &str) -> ScaledObjectRef {
    ScaledObjectRef { name: name.to_owned(), namespace: "n".to_owned(), ..Default::default() }
}

/// As KEDA asks.
async fn wanted(channel: &Channel, name: &str) -> Result<f64, tonic::Status> {
    let request =
        GetMetricsRequest { scaled_object_ref: Some(object(name)), metric_name: "replicas".to_owned() };
    let answer = ExternalScalerClient::new(channel.clone()).get_metrics(request).await?.into_inner();
    assert_eq!(answer.metric_values.len(), 1);
    let value = &answer.metric_values[0];
    assert_eq!(value.metric_value_float.to_string(), value.metric_value.to_string());
    Ok(value.metric_value_float)
}

async fn until(channel: &Channel, replicas: u32) {
    eventually(&format!("{replicas} replicas"), SOON, async || {
        wanted(channel, RESULTS).await.is_ok_and(|value| (value - f64::from(replicas)).abs() < 0.01)
    })
    .await;
}

async fn assert_has_a_spec(channel: &Channel) {
    let answer = ExternalScalerClient::new(channel.clone()).get_metric_spec(object(RESULTS)).await;
    let specs = answer.unwrap().into_inner().metric_specs;
    assert_eq!(specs.len(), 1);
    assert_eq!((specs[0].metric_name.as_str(), specs[0].target_size), ("replicas", 1));
}

async fn add_backlog(world: &World, records: usize) {
    let topic = world.topic(&TEST_RESULTS);
    for number in 0..records {
        let key = format!("key-{number}");
        world.publish_raw(&topic, Some(key.as_bytes()), Some(b"nobody reads it"), &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_asks_for_pods_and_says_why() {
    let world = World::new().await;
    let (role, address, channel) = scaler(&world, |_| {}).await;
    assert_has_a_spec(&channel).await;
    until(&channel, MIN).await;
    let mut keda = ExternalScalerClient::new(channel.clone());
    assert!(keda.is_active(object(RESULTS)).await.unwrap().into_inner().result);
    let mut active = keda.stream_is_active(object(RESULTS)).await.unwrap().into_inner();
    assert!(active.message().await.unwrap().unwrap().result);

    // 10 a second for 30 s each: more than six pods' worth.
    add_backlog(&world, 3_000).await;
    until(&channel, MAX).await;

    let mut operator = ScalerServiceClient::new(channel.clone());
    let decision = eventually("the explanation of all records", SOON, async || {
        let one = ScalerServiceExplainRequest { deployment: RESULTS.to_owned() };
        let decisions = operator.explain(one).await.unwrap().into_inner().decisions;
        let [decision] = <[_; 1]>::try_from(decisions).ok()?;
        decision.text.contains("3000 records are not committed").then_some(decision)
    })
    .await;
    assert_eq!((decision.replicas, decision.stale), (Some(MAX), false));
    let all = operator.explain(ScalerServiceExplainRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.decisions.len(), 3);

    let told = tool(&world.config, &["scaler", "why", RESULTS, "--address", &address]).await;
    let text = String::from_utf8_lossy(&told.stdout);
    assert!(told.status.success() && text.contains("3000 records are not committed"), "{told:?}");

    let unknown = wanted(&channel, "somebody-else").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains(RESULTS), "{unknown}");
    role.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_an_error_and_no_number() {
    let world = World::new().await;
    let broker = BrokerProxy::start().await;
    let (role, _, channel) = scaler(&world, |config| {
        config.kafka.bootstrap_servers.clone_from(&world.addresses.proxied_brokers);
    })
    .await;
    add_backlog(&world, 3_000).await;
    until(&channel, MAX).await;

    broker.proxy.cut().await;
    let error =
        eventually("the reading is stale", SOON, async || wanted(&channel, RESULTS).await.err()).await;
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("replicas stay as they are"), "{error}");
    assert_has_a_spec(&channel).await;
    broker.proxy.restore().await;
    until(&channel, MAX).await;
    role.stop().await.unwrap();
    broker.stop().await;
}
