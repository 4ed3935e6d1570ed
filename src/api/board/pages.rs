//! The page, and its stream of news.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use futures::{StreamExt as _, stream};
use serde_json::json;

use super::{Board, actions};

const PAGE: &str = include_str!("board.html");
const STYLE: &str = include_str!("board.css");
const SCRIPT: &str = include_str!("board.js");
/// Nothing from elsewhere, and nobody else's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// A stream that has nothing to say shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A stream ends after this time; the page comes again, to whichever replica, with its token.
const STREAM_MAX: Duration = Duration::from_secs(1800);

/// The page with links. Words and addresses are the program's own, never a caller's, so
/// nothing is escaped.
pub(super) fn page(links: &[(String, String)]) -> String {
    let mut list = String::new();
    for (words, address) in links {
        // Writing to a string cannot fail.
        let _ = write!(list, r#"<li><a href="{address}">{words}</a></li>"#);
    }
    PAGE.replace("{{links}}", &list).replace("{{version}}", env!("CARGO_PKG_VERSION"))
}

pub(super) async fn index(State(board): State<Board>) -> Response {
    with_policy(Html(board.page.to_string()))
}

pub(super) async fn style() -> Response {
    with_policy(([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE))
}

pub(super) async fn script() -> Response {
    with_policy(([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT))
}

fn with_policy(content: impl IntoResponse) -> Response {
    let mut response = content.into_response();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // A new version's page is not to meet an old one's script.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    ] {
        response.headers_mut().insert(name, value);
    }
    response
}

/// Snapshots, the newest each time. The first event says what the viewer may do.
pub(super) async fn events(State(board): State<Board>, request: Request) -> Response {
    let caller = match actions::viewer(&board, request).await {
        Ok(caller) => caller,
        Err(refusal) => return refusal,
    };
    let Some(viewer) = board.hub.view() else {
        let full = json!({ "error": "too many viewers look at this replica; try again in a minute" });
        return (StatusCode::SERVICE_UNAVAILABLE, axum::Json(full)).into_response();
    };
    let first = Event::default().event("you").data(json!(caller).to_string());
    let news = stream::unfold(viewer, async |mut viewer| {
        loop {
            viewer.news.changed().await.ok()?;
            let text = viewer.news.borrow_and_update().clone();
            if !text.is_empty() {
                return Some((Event::default().event("snapshot").data(&*text), viewer));
            }
        }
    });
    let events = stream::once(async { first }).chain(news).map(Ok::<_, Infallible>);
    let events = events.take_until(tokio::time::sleep(STREAM_MAX));
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_its_links_and_nothing_inline() {
        let page = page(&[("Inbox".to_owned(), "/inbox".to_owned())]);
        assert!(page.contains(r#"<li><a href="/inbox">Inbox</a></li>"#), "{page}");
        assert!(!page.contains("{{") && !page.contains("<style") && !page.contains(" style="), "{page}");
        assert_eq!(page.matches("<script").count(), 1);
        for text in [STYLE, SCRIPT, &page] {
            assert!(!text.contains("http://") && !text.contains("https://"), "something from elsewhere");
        }
    }
}
