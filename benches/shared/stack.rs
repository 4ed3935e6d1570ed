//! A database and topics of a bench's own, on the stack that `make bench` starts.

use anyhow::Context as _;
use patient_notify::config::Config;
use patient_notify::record::{migrate, pool};
use patient_notify::topic::{admin, schemas};
use uuid::Uuid;

fn from_stack(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: run `make bench`"))
}

/// A migrated, empty database, topics with a prefix of their own, registered schemas. What
/// else there is to set comes from the environment, as for a role.
pub async fn prepare() -> anyhow::Result<Config> {
    let name = format!("bench_{}", Uuid::new_v4().simple());
    let server = from_stack("PATIENT_NOTIFY_TEST_POSTGRES_URL")?;
    let mut config = Config::load(None)?;
    config.postgres.url = server.clone().into();
    pool::pool(&config.postgres)?.get().await?.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    let (address, _) = server.rsplit_once('/').context("the stack's PostgreSQL URL names no database")?;
    config.postgres.url = format!("{address}/{name}").into();
    config.kafka.bootstrap_servers = from_stack("PATIENT_NOTIFY_TEST_BROKERS")?;
    config.kafka.topic_prefix = format!("{name}.");
    config.registry.url = from_stack("PATIENT_NOTIFY_TEST_REGISTRY_URL")?;
    migrate::run(&config.postgres).await?;
    admin::apply(&config).await?;
    schemas::apply(&config).await?;
    Ok(config)
}
