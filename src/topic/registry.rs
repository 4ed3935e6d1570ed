//! The schema registry as its administrators and writers use it: subjects,
//! versions, compatibility. (Readers ask for schemas by id, in `decode`.)

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thiserror::Error;

use crate::config::{self, Secret};

/// Why the registry did not do what it was asked.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// No answer, or none that a registry gives.
    #[error(
        "the schema registry at {url} cannot be reached to {what}: {detail}; check registry.url and that it is up"
    )]
    Unavailable {
        /// Base URL.
        url: String,
        /// What was asked.
        what: String,
        /// What happened.
        detail: String,
    },
    /// The registry said no.
    #[error("the schema registry refused to {what}: {message} (HTTP {status}, code {code})")]
    Refused {
        /// What was asked.
        what: String,
        /// HTTP status.
        status: u16,
        /// The registry's own code; 0 without one.
        code: u32,
        /// The registry's own words.
        message: String,
    },
}

/// A client of the registry's HTTP API.
pub(super) struct Registry {
    client: Client,
    url: String,
    username: String,
    password: Secret,
}

/// A version of a subject.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Version {
    pub(super) id: u32,
    pub(super) version: u32,
    pub(super) schema: String,
}

#[derive(Deserialize)]
struct Id {
    id: u32,
}

#[derive(Deserialize)]
struct Level {
    #[serde(rename = "compatibilityLevel")]
    level: String,
}

#[derive(Deserialize)]
struct Verdict {
    is_compatible: bool,
}

#[derive(Deserialize, Default)]
struct Fault {
    #[serde(default)]
    error_code: u32,
    #[serde(default)]
    message: String,
}

impl Registry {
    pub(super) fn new(registry: &config::Registry) -> Result<Self, RegistryError> {
        let url = registry.url.trim_end_matches('/').to_owned();
        let client = Client::builder()
            .timeout(Duration::from_millis(registry.timeout_ms))
            // A service of the same network, like the brokers.
            .no_proxy()
            .build()
            .map_err(|error| RegistryError::Unavailable {
                url: url.clone(),
                what: "set up a client".to_owned(),
                detail: error.to_string(),
            })?;
        Ok(Self { client, url, username: registry.username.clone(), password: registry.password.clone() })
    }

    /// The version of a subject that has exactly this schema.
    pub(super) async fn look_up(
        &self,
        subject: &str,
        schema: &str,
    ) -> Result<Option<Version>, RegistryError> {
        let what = format!("look up our schema of {subject}");
        self.find(&what, Method::POST, &format!("subjects/{subject}?normalize=true"), Some(body(schema)))
            .await
    }

    /// The newest version of a subject.
    pub(super) async fn latest(&self, subject: &str) -> Result<Option<Version>, RegistryError> {
        let what = format!("read the newest schema of {subject}");
        self.find(&what, Method::GET, &format!("subjects/{subject}/versions/latest"), None).await
    }

    /// The compatibility level in force for a subject.
    pub(super) async fn level(&self, subject: &str) -> Result<Option<String>, RegistryError> {
        let what = format!("read the compatibility level of {subject}");
        let path = format!("config/{subject}?defaultToGlobal=true");
        let level: Option<Level> = self.find(&what, Method::GET, &path, None).await?;
        Ok(level.map(|level| level.level))
    }

    pub(super) async fn set_level(&self, subject: &str, level: &str) -> Result<(), RegistryError> {
        let what = format!("set the compatibility level of {subject}");
        let body = json!({ "compatibility": level });
        let _: Value = self.call(&what, Method::PUT, &format!("config/{subject}"), Some(body)).await?;
        Ok(())
    }

    /// Whether the registry itself would take this schema after the newest version.
    pub(super) async fn accepts(&self, subject: &str, schema: &str) -> Result<bool, RegistryError> {
        let what = format!("compare our schema with {subject}");
        let path = format!("compatibility/subjects/{subject}/versions/latest");
        let verdict: Option<Verdict> = self.find(&what, Method::POST, &path, Some(body(schema))).await?;
        Ok(verdict.is_none_or(|verdict| verdict.is_compatible))
    }

    pub(super) async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let what = format!("register our schema under {subject}");
        let path = format!("subjects/{subject}/versions?normalize=true");
        let Id { id } = self.call(&what, Method::POST, &path, Some(body(schema))).await?;
        Ok(id)
    }

    /// A call whose "not found" is an answer.
    async fn find<T: DeserializeOwned>(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Option<T>, RegistryError> {
        match self.call(what, method, path, body).await {
            Ok(found) => Ok(Some(found)),
            // 40401 subject, 40402 version, 40403 schema, 40408 level: without such a
            // code it is not the registry that answers.
            Err(RegistryError::Refused { code: 40_401..=40_408, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, RegistryError> {
        let unavailable = |detail: String| RegistryError::Unavailable {
            url: self.url.clone(),
            what: what.to_owned(),
            detail,
        };
        let mut request = self.client.request(method, format!("{}/{path}", self.url));
        if !self.username.is_empty() {
            request = request.basic_auth(&self.username, Some(self.password.expose()));
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.map_err(|error| unavailable(chain(&error)))?;
        let status = response.status();
        if status.is_success() {
            return response.json().await.map_err(|error| unavailable(chain(&error)));
        }
        let fault: Fault = response.json().await.unwrap_or_default();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(unavailable(format!("HTTP {status} {}", fault.message)));
        }
        let code = fault.error_code;
        Err(RegistryError::Refused {
            what: what.to_owned(),
            status: status.as_u16(),
            code,
            message: fault.message,
        })
    }
}

fn body(schema: &str) -> Value {
    json!({ "schema": schema, "schemaType": "AVRO" })
}

/// An error with its causes; reqwest's own text stops at "error sending request".
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
