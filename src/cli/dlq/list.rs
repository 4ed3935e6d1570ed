//! `dlq list`

use anyhow::Result;
use serde_json::{Value, json};

use crate::cli::print;
use crate::config::Config;
use crate::topic::dlq::{Handled, Letter, Reader};

use super::{Counts, Format, ListOptions, away, columns, has_reason, letters_of};

/// Prints the dead letters that are meant, and how many there are.
pub(super) async fn run(config: &Config, options: &ListOptions) -> Result<()> {
    let mut reader = Reader::new(&config.kafka).map_err(away)?;
    let mut letters = letters_of(&reader, &config.kafka.topic_prefix, &options.topics).await?;
    let limit = usize::try_from(options.limit)?;
    let mut counts = Counts::default();
    let mut rows = Vec::new();
    while let Some((letter, handled)) = letters.next(&mut reader).await.map_err(away)? {
        if !has_reason(&letter, options.reason) || (handled.is_some() && !options.all) {
            continue;
        }
        counts.add(&letter);
        if rows.len() < limit {
            rows.push(Row::new(&letter, handled));
        }
    }
    print(&match options.format {
        Format::Table => table(rows, &counts, options.all),
        Format::Json => as_json(&rows, &counts),
    });
    Ok(())
}

/// What is shown of a dead letter: nothing of the record itself.
struct Row {
    id: String,
    reason: String,
    detail: String,
    origin: Option<String>,
    published_at: Option<String>,
    consumer: Option<String>,
    size_bytes: usize,
    is_cut: bool,
    handled: Option<Handled>,
}

impl Row {
    fn new(letter: &Letter, handled: Option<Handled>) -> Self {
        Self {
            id: letter.place.to_string(),
            reason: letter.reason().to_owned(),
            detail: letter.detail().to_owned(),
            origin: letter.origin().map(|place| place.to_string()),
            published_at: letter.published().map(|at| at.to_string()),
            consumer: letter.header("dlq.consumer").map(str::to_owned),
            size_bytes: letter.size_bytes(),
            is_cut: letter.is_cut(),
            handled,
        }
    }

    fn json(&self) -> Value {
        let handled = self.handled.as_ref().map(|handled| {
            json!({
                "action": handled.action.as_str(),
                "at": handled.at.map(|at| at.to_string()),
                "by": handled.by,
                "replayed_to": handled.to,
            })
        });
        json!({
            "id": self.id,
            "reason": self.reason,
            "detail": self.detail,
            "origin": self.origin,
            "published_at": self.published_at,
            "consumer": self.consumer,
            "size_bytes": self.size_bytes,
            "cut": self.is_cut,
            "handled": handled,
        })
    }
}

fn table(rows: Vec<Row>, counts: &Counts, is_all: bool) -> String {
    if rows.is_empty() {
        return format!("no dead letters{}\n", if is_all { "" } else { " that nobody has handled" });
    }
    let shown = rows.len();
    let head =
        ["ID", "REASON", "ORIGIN", "PUBLISHED", "BYTES", "CUT", "HANDLED", "DETAIL"].map(str::to_owned);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let cells = |row: Row| {
        [
            row.id,
            row.reason,
            or_dash(row.origin),
            or_dash(row.published_at),
            row.size_bytes.to_string(),
            (if row.is_cut { "cut" } else { "-" }).to_owned(),
            or_dash(row.handled.map(|handled| handled.to_string())),
            row.detail,
        ]
    };
    let lines = columns(head, rows.into_iter().map(cells).collect());
    format!("{lines}\n{}\n{} dead letters, {shown} shown\n", counts.table(), counts.total())
}

fn as_json(rows: &[Row], counts: &Counts) -> String {
    let summary = counts
        .0
        .iter()
        .map(|((topic, reason), count)| json!({ "topic": topic, "reason": reason, "count": count }));
    let all = json!({
        "dead_letters": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "summary": summary.collect::<Vec<_>>(),
        "total": counts.total(),
    });
    format!("{all:#}\n")
}
