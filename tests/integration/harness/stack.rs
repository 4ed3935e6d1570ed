//! Where the servers are.

/// Addresses of the stack that this test run was started on.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Bootstrap servers.
    pub brokers: String,
    /// Bootstrap servers that say that they are on the proxy's port.
    pub proxied_brokers: String,
    /// The port that a proxy of the broker has to listen on.
    pub proxy_port: u16,
    /// Where it has to forward to.
    pub proxy_target: String,
    /// Base URL of the registry.
    pub registry_url: String,
    /// The owner's connection to a database that is there.
    pub postgres_url: String,
}

impl Addresses {
    /// As `patient-notify stack run` tells them.
    pub fn from_environment() -> Self {
        Self {
            brokers: variable("BROKERS"),
            proxied_brokers: variable("PROXIED_BROKERS"),
            proxy_port: variable("PROXY_PORT").parse().expect("a port number"),
            proxy_target: variable("PROXY_TARGET"),
            registry_url: variable("REGISTRY_URL"),
            postgres_url: variable("POSTGRES_URL"),
        }
    }

    /// The same server, another database.
    pub fn database_url(&self, database: &str) -> String {
        let (server, _) = self.postgres_url.rsplit_once('/').expect("a URL with a database");
        format!("{server}/{database}")
    }

    /// `host:port` of PostgreSQL.
    pub fn postgres_address(&self) -> &str {
        authority(&self.postgres_url)
    }

    /// `host:port` of the registry.
    pub fn registry_address(&self) -> &str {
        authority(&self.registry_url)
    }
}

fn authority(url: &str) -> &str {
    let (_, rest) = url.split_once("://").expect("a URL");
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit('@').next().unwrap_or(authority)
}

#[expect(clippy::disallowed_methods, reason = "the stack's addresses come this way, and only here")]
fn variable(name: &str) -> String {
    std::env::var(format!("PATIENT_NOTIFY_TEST_{name}")).unwrap_or_else(|_| {
        panic!(
            "these tests need servers, and PATIENT_NOTIFY_TEST_{name} does not say where they are: run \
             `make test` (or `patient-notify stack run --free-ports -- cargo test`)"
        )
    })
}
