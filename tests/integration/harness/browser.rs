//! A real Chromium, steered over its own protocol.

use std::path::PathBuf;
use std::time::Duration;

use chromiumoxide::browser::{Browser, BrowserConfig};
use chromiumoxide::cdp::browser_protocol::emulation::{MediaFeature, SetDeviceMetricsOverrideParams};
use chromiumoxide::page::{Page, ScreenshotParams};
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::eventually;

const LAUNCH_TIMEOUT: Duration = Duration::from_secs(60);
/// Written before the page's own scripts: what goes wrong there, and its longest pause.
const WATCH: &str = "
    window.problems = [];
    addEventListener('error', (event) => problems.push(event.message));
    addEventListener('unhandledrejection', (event) => problems.push(String(event.reason)));
    addEventListener('securitypolicyviolation', (event) => problems.push(event.violatedDirective));
    window.longestPauseMs = 0;
    let last = performance.now();
    setInterval(() => {
        const now = performance.now();
        longestPauseMs = Math.max(longestPauseMs, now - last);
        last = now;
    }, 20);";

/// A browser with one page.
pub struct Window {
    browser: Browser,
    page: Page,
    events: JoinHandle<()>,
    _profile: TempDir,
}

impl Window {
    /// Opens a page.
    pub async fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let config = BrowserConfig::builder()
            .no_sandbox()
            .new_headless_mode()
            .user_data_dir(profile.path())
            .launch_timeout(LAUNCH_TIMEOUT)
            .request_timeout(LAUNCH_TIMEOUT)
            .viewport(None)
            .args(["disable-gpu", "disable-quic", "disable-component-update", "disable-dev-shm-usage"])
            .build()
            .expect("chromium is not there: `make test` installs it");
        let (browser, mut handler) = Browser::launch(config).await.unwrap();
        let events = tokio::spawn(async move { while handler.next().await.is_some() {} });
        let page = browser.new_page("about:blank").await.unwrap();
        page.evaluate_on_new_document(WATCH).await.unwrap();
        page.goto(url).await.unwrap();
        Self { browser, page, events, _profile: profile }
    }

    /// What a script's expression is.
    pub async fn read<T: DeserializeOwned>(&self, expression: &str) -> T {
        let result = self.page.evaluate_expression(expression).await.unwrap();
        result.into_value().unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// The text of the first element.
    pub async fn text(&self, selector: &str) -> String {
        self.read(&format!("document.querySelector({selector:?})?.textContent ?? ''")).await
    }

    /// Waits until the text of an element has something in it.
    pub async fn until_says(&self, selector: &str, words: &str, deadline: Duration) {
        let what = format!("{selector} says {words}");
        eventually(&what, deadline, async || self.text(selector).await.contains(words)).await;
    }

    /// Clicks.
    pub async fn click(&self, selector: &str) {
        self.page.find_element(selector).await.unwrap().click().await.unwrap();
    }

    /// Types into an element, or presses a key there.
    pub async fn write(&self, selector: &str, text: &str) {
        let element = self.page.find_element(selector).await.unwrap();
        element.click().await.unwrap().type_str(text).await.unwrap();
    }

    /// Presses a key in an element.
    pub async fn press(&self, selector: &str, key: &str) {
        let element = self.page.find_element(selector).await.unwrap();
        element.focus().await.unwrap().press_key(key).await.unwrap();
    }

    /// As on a screen of this size.
    pub async fn resize(&self, (width, height): (i64, i64), mobile: bool) {
        let metrics = SetDeviceMetricsOverrideParams::new(width, height, 1.0, mobile);
        self.page.execute(metrics).await.unwrap();
    }

    /// As its user has asked: `light` or `dark`.
    pub async fn scheme(&self, scheme: &str) {
        let feature = MediaFeature::new("prefers-color-scheme", scheme);
        self.page.emulate_media_features(vec![feature]).await.unwrap();
    }

    /// Keeps a picture of the whole page among what the build makes.
    pub async fn picture(&self, name: &str) -> PathBuf {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        let params = ScreenshotParams::builder().full_page(true).build();
        self.page.save_screenshot(params, &path).await.unwrap();
        path
    }

    /// Nothing went wrong on the page.
    pub async fn assert_no_problem(&self) {
        assert_eq!(self.read::<Vec<String>>("problems").await, Vec::<String>::new());
    }

    /// Closes it.
    pub async fn close(mut self) {
        self.browser.close().await.unwrap();
        self.browser.wait().await.unwrap();
        self.events.abort();
    }
}
