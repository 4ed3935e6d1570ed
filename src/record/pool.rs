//! The pool of database connections.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::NoTls;

use super::error::RecordError;
use crate::config;

/// How long the kernel tries to deliver what was written beyond the statement's own
/// time-out, before a connection to a vanished server counts as broken.
const TCP_USER_TIMEOUT_MARGIN: Duration = Duration::from_secs(5);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// Builds the pool; connects lazily, so a database that is away does not keep a
/// process from starting.
///
/// A connection holds `postgres.statement_timeout_ms` as the bound of each statement.
/// One that the server has closed is replaced when it is next asked for.
///
/// # Errors
/// [`RecordError::Bug`] when `postgres.url` is not a connection URL.
pub fn pool(config: &config::Postgres) -> Result<Pool, RecordError> {
    let manager = Manager::from_config(
        driver_config(config)?,
        NoTls,
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    let connect = Duration::from_millis(config.connect_timeout_ms);
    Pool::builder(manager)
        .max_size(config.pool_size)
        .wait_timeout(Some(Duration::from_millis(config.pool_wait_timeout_ms)))
        .create_timeout(Some(connect))
        .recycle_timeout(Some(connect))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| RecordError::bug(format!("cannot build the connection pool: {error}")))
}

/// What every connection of ours is opened with.
pub(super) fn driver_config(config: &config::Postgres) -> Result<tokio_postgres::Config, RecordError> {
    // The parser's error would quote the URL, and with it the password.
    let mut driver: tokio_postgres::Config = config.url.expose().parse().map_err(|_| {
        RecordError::bug("postgres.url is not a connection URL (postgres://user:password@host:port/database)")
    })?;
    let statement_timeout = Duration::from_millis(config.statement_timeout_ms);
    driver
        .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
        .tcp_user_timeout(statement_timeout + TCP_USER_TIMEOUT_MARGIN)
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES);
    if driver.get_application_name().is_none() {
        driver.application_name("patient-notify");
    }
    // No transaction of ours waits for anything but the database, so one that idles
    // was left by a process that hangs, and must not hold its locks.
    // A plan that was kept from the time when a table was small reads all of it later,
    // and compares each row with each of a batch's ids: statements are planned anew.
    // Ours look rows up by key. Planned for a disk that has to seek for each of them, they
    // would read a whole table of some 100,000 rows instead.
    let ours = format!(
        "-c statement_timeout={ms} -c idle_in_transaction_session_timeout={ms} -c timezone=UTC \
         -c plan_cache_mode=force_custom_plan -c random_page_cost=1.1",
        ms = config.statement_timeout_ms
    );
    let options = match driver.get_options() {
        Some(given) => format!("{ours} {given}"),
        None => ours,
    };
    driver.options(options);
    Ok(driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> config::Postgres {
        config::Postgres {
            url: url.to_owned().into(),
            pool_size: 2,
            pool_wait_timeout_ms: 200,
            connect_timeout_ms: 200,
            statement_timeout_ms: 1500,
        }
    }

    #[test]
    fn a_bad_url_is_refused_without_showing_it() {
        let error = pool(&config("postgres//user:hunter2@host")).err().unwrap();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn options_of_the_url_come_last_so_that_they_win() {
        let driver = driver_config(&config("postgres://u@h/d?options=-c%20search_path%3Da")).unwrap();
        let options = driver.get_options().unwrap();
        assert!(options.starts_with("-c statement_timeout=1500 "), "{options}");
        assert!(options.ends_with("-c search_path=a"), "{options}");
    }

    #[tokio::test]
    async fn a_database_that_is_away_is_unavailable() {
        let pool = pool(&config("postgres://u@127.0.0.1:1/d")).unwrap();
        let error = RecordError::from(pool.get().await.err().unwrap());
        assert!(error.is_unavailable(), "{error}");
    }
}
