//! The page at `/`.

use std::fmt::Write as _;

use axum::response::Html;

/// A short page with links. Words and addresses are the program's own, never a
/// caller's, so nothing is escaped.
pub fn page(links: &[(String, String)]) -> Html<String> {
    let mut list = String::new();
    for (words, address) in links {
        // Writing to a string cannot fail.
        let _ = writeln!(list, r#"<li><a href="{address}">{words}</a></li>"#);
    }
    Html(format!(
        r#"<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>patient-notify</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}}code{{background:#8882;padding:.1em .3em}}</style>
</head>
<body>
<h1>patient-notify {version}</h1>
<p>gRPC on this port: <code>patientnotify.v1.NotificationService</code>,
<code>patientnotify.v1.OperationsService</code>,
<code>patientnotify.v1.RecipientService</code>, health and reflection.</p>
<ul>
{list}</ul>
</body>
</html>
"#,
        version = env!("CARGO_PKG_VERSION"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_on_the_page() {
        let Html(text) = page(&[("Inbox".to_owned(), "/inbox".to_owned())]);
        assert!(text.contains(r#"<li><a href="/inbox">Inbox</a></li>"#), "{text}");
    }
}
