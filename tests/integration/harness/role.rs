//! A role inside this process.

use std::sync::Arc;
use std::time::Duration;

use patient_notify::config::Config;
use patient_notify::health::Health;
use patient_notify::roles::{self, Context};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{World, eventually};

/// How long a role may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A running role; dropping it asks it to end.
pub struct RunningRole {
    /// Its probes.
    pub health: Arc<Health>,
    name: &'static str,
    shutdown: CancellationToken,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

impl RunningRole {
    pub(super) fn start(name: &'static str, config: Config) -> Self {
        let health = Health::new();
        let shutdown = CancellationToken::new();
        let context =
            Context { config: Arc::new(config), health: Arc::clone(&health), shutdown: shutdown.clone() };
        let task = match name {
            "app" => tokio::spawn(roles::app::run(context)),
            "consumer-test-result-notification" => {
                tokio::spawn(roles::consumer_test_result_notification::run(context))
            }
            "consumer-notification" => tokio::spawn(roles::consumer_notification::run(context)),
            "consumer-notification-update" => tokio::spawn(roles::consumer_notification_update::run(context)),
            "wrk-notifications" => tokio::spawn(roles::wrk_notifications::run(context)),
            "wrk-default" => tokio::spawn(roles::wrk_default::run(context)),
            "wrk-batch-publisher" => tokio::spawn(roles::wrk_batch_publisher::run(context)),
            "cron" => tokio::spawn(roles::cron::run(context)),
            "scaler" => tokio::spawn(roles::scaler::run(context)),
            unknown => panic!("there is no role {unknown}"),
        };
        Self { health, name, shutdown, task: Some(task) }
    }

    /// Waits until it is ready for work.
    pub async fn ready(&self) {
        let what = format!("{} is ready", self.name);
        eventually(&what, READY_TIMEOUT, async || {
            assert!(self.is_running(), "{} ended by itself", self.name);
            self.health.ready().is_ok()
        })
        .await;
    }

    /// False once it has ended.
    pub fn is_running(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Asks it to stop, as a signal would, and waits for its end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.health.stopping();
        self.shutdown.cancel();
        self.ended().await
    }

    /// Waits for an end that it comes to by itself.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        match self.task.take() {
            Some(task) => task.await?,
            None => Ok(()),
        }
    }
}

impl Drop for RunningRole {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Starts roles of a world, and waits until each is ready.
pub async fn ready<const N: usize>(world: &World, names: [&'static str; N]) -> [RunningRole; N] {
    let roles = names.map(|name| world.role(name, |_| {}));
    for role in &roles {
        role.ready().await;
    }
    roles
}

/// Stops roles; each has to end without an error.
pub async fn stop<const N: usize>(roles: [RunningRole; N]) {
    for role in roles {
        role.stop().await.unwrap();
    }
}
