//! `patient-notify scaler why`: asks a running scaler.

use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use tonic::transport::Endpoint;

use super::print;
use crate::config::Config;
use crate::roles::Unavailable;
use crate::scaler::proto::v1::ScalerServiceExplainRequest;
use crate::scaler::proto::v1::scaler_service_client::ScalerServiceClient;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `patient-notify scaler …`
#[derive(Debug, Subcommand)]
pub enum ScalerCommand {
    /// Say how many replicas a deployment is to have, and why.
    Why {
        /// For example consumer-notification; none: all.
        deployment: Option<String>,
        /// Where the scaler is, host:port; none: scaler.listen.
        #[arg(long, value_name = "HOST:PORT")]
        address: Option<String>,
    },
}

/// Carries out a command.
///
/// # Errors
/// When the scaler does not answer, or does not know the deployment.
pub async fn run(config: &Config, command: ScalerCommand) -> anyhow::Result<()> {
    let ScalerCommand::Why { deployment, address } = command;
    let address = address.unwrap_or_else(|| config.scaler.listen.clone());
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address} is no address (for example 127.0.0.1:19110)"))?;
    let channel = endpoint
        .connect_timeout(TIMEOUT)
        .timeout(TIMEOUT)
        .connect()
        .await
        .with_context(|| format!("nobody answers at {address}: is a scaler running there? (--address)"))
        .context(Unavailable("the scaler"))?;
    let request = ScalerServiceExplainRequest { deployment: deployment.unwrap_or_default() };
    let answer = ScalerServiceClient::new(channel).explain(request).await;
    let answer = answer.map_err(|status| anyhow::anyhow!("the scaler says: {}", status.message()))?;
    for one in answer.into_inner().decisions {
        let replicas = match (one.replicas, one.stale) {
            (Some(replicas), false) => replicas.to_string(),
            _ => "unknown".to_owned(),
        };
        print(&format!("{}: {replicas} ({})\n  {}\n", one.deployment, one.reason, one.text));
    }
    Ok(())
}
