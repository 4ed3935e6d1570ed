//! `dlq list|show|replay|drop`

use std::collections::BTreeMap;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};

use crate::config::Config;
use crate::domain::Reason;
use crate::roles::Unavailable;
use crate::topic::dlq::{self, DlqError, Letter, Letters, Place, Reader};

use super::Usage;

mod act;
mod list;
mod show;

/// `patient-notify dlq …`
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// Say what there is, and why; keys and values are not shown.
    List(ListOptions),
    /// Show one dead letter.
    Show(ShowOptions),
    /// Write dead letters to their topics once more; nothing is sent twice by it.
    Replay(ReplayOptions),
    /// Give dead letters up.
    Drop(DropOptions),
}

/// What to list.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Only of this topic; can be given several times.
    #[arg(long = "topic", value_name = "NAME")]
    topics: Vec<String>,
    /// Only those with this reason.
    #[arg(long, value_parser = reason)]
    reason: Option<Reason>,
    /// Lines to show; the summary counts all.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Those that were replayed or dropped too.
    #[arg(long)]
    all: bool,
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines in columns.
    Table,
    /// One JSON object.
    Json,
}

/// What to show.
#[derive(Debug, Args)]
pub struct ShowOptions {
    /// The dead letter, as `dlq list` names it.
    #[arg(value_name = "ID")]
    place: Place,
    /// Key, value and headers too: protected health information.
    #[arg(long)]
    payload: bool,
}

/// What to replay.
#[derive(Debug, Args)]
pub struct ReplayOptions {
    #[command(flatten)]
    which: Which,
    /// A key for a single record that came without one (or instead of its own): the
    /// patient's identifier.
    #[arg(long, value_name = "KEY", conflicts_with = "topics", value_parser = key)]
    key: Option<String>,
    /// Also what was replayed or dropped already, as long as it is there.
    #[arg(long, conflicts_with = "topics")]
    again: bool,
}

/// What to drop.
#[derive(Debug, Args)]
pub struct DropOptions {
    #[command(flatten)]
    which: Which,
}

/// Which dead letters to handle.
#[derive(Debug, Args)]
struct Which {
    /// Dead letters, as `dlq list` names them.
    #[arg(value_name = "ID", required_unless_present = "topics", conflicts_with_all = ["topics", "reason"])]
    places: Vec<Place>,
    /// All of this topic that nobody has handled; can be given several times.
    #[arg(long = "topic", value_name = "NAME")]
    topics: Vec<String>,
    /// Only those with this reason.
    #[arg(long, value_parser = reason)]
    reason: Option<Reason>,
    /// At most so many, oldest first.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// Do it. Without this it is only said what would be done.
    #[arg(long)]
    yes: bool,
    /// Who does it, for the record; by default the user of this process.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

fn reason(word: &str) -> Result<Reason, String> {
    Reason::parse(word).ok_or_else(|| "no reason is called that; `dlq list` shows them".to_owned())
}

fn key(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("a key is not empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// Runs one of the commands.
///
/// # Errors
/// When the brokers do not answer, a dead letter is not there, or not all that was
/// asked for was done.
pub async fn run(config: &Config, command: DlqCommand) -> Result<()> {
    match command {
        DlqCommand::List(options) => list::run(config, &options).await,
        DlqCommand::Show(options) => show::run(config, &options).await,
        DlqCommand::Replay(options) => act::replay(config, &options).await,
        DlqCommand::Drop(options) => act::drop(config, &options.which).await,
    }
}

/// An error of the brokers, so that the exit code says whether they were away.
fn away(error: DlqError) -> anyhow::Error {
    let is_unavailable = error.is_unavailable();
    let error = anyhow::Error::from(error);
    if is_unavailable { error.context(Unavailable("kafka")) } else { error }
}

/// The dead letters of the topics that somebody names; of all, if nobody names one.
async fn letters_of(reader: &Reader, prefix: &str, words: &[String]) -> Result<Letters> {
    let known = dlq::topics(prefix);
    let mut topics = Vec::with_capacity(words.len());
    for word in words {
        let topic = dlq::topic_meant(prefix, word).ok_or_else(|| {
            let known = known.join(", ");
            Usage(format!("{} is no topic with dead letters; there are {known}", dlq::printable(word)))
        })?;
        if !topics.contains(&topic) {
            topics.push(topic);
        }
    }
    let is_all = topics.is_empty();
    let letters = Letters::of_topics(reader, if is_all { &known } else { &topics }).await.map_err(away)?;
    for absent in letters.absent() {
        if !is_all {
            return Err(away(DlqError::NoTopic { topic: absent.clone() }));
        }
        super::print_error(&format!("the brokers have no topic {absent}: run `patient-notify topics apply`"));
    }
    Ok(letters)
}

/// True when a dead letter has this reason, or any will do.
fn has_reason(letter: &Letter, reason: Option<Reason>) -> bool {
    reason.is_none_or(|reason| letter.reason() == reason.as_str())
}

/// How many dead letters there are by topic and reason.
#[derive(Debug, Default)]
struct Counts(BTreeMap<(String, String), u64>);

impl Counts {
    fn add(&mut self, letter: &Letter) {
        *self.0.entry((letter.place.topic.clone(), letter.reason().to_owned())).or_default() += 1;
    }

    fn total(&self) -> u64 {
        self.0.values().sum()
    }

    fn table(&self) -> String {
        let head = ["TOPIC", "REASON", "COUNT"].map(str::to_owned);
        let rows =
            self.0.iter().map(|((topic, reason), count)| [topic.clone(), reason.clone(), count.to_string()]);
        columns(head, rows.collect())
    }
}

/// Rows under a head, each column as wide as its widest cell, the last one free.
pub(super) fn columns<const N: usize>(head: [String; N], rows: Vec<[String; N]>) -> String {
    let all = || std::iter::once(&head).chain(&rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in all() {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;
    use super::*;

    fn parses(line: &str) -> bool {
        Cli::try_parse_from(line.split(' ')).is_ok()
    }

    #[test]
    fn a_command_says_which_dead_letters_it_means() {
        for line in [
            "patient-notify dlq list --topic a --topic b --reason undecodable --all --format json",
            "patient-notify dlq show a.dlq/0/1 --payload",
            "patient-notify dlq replay a.dlq/0/1 --key pat-1 --again",
            "patient-notify dlq replay --topic a --reason undecodable --limit 5 --yes",
            "patient-notify dlq drop a.dlq/0/1 b.dlq/0/1 --yes --by ann",
        ] {
            assert!(parses(line), "{line}");
        }
        for line in [
            "patient-notify dlq list --reason nonsense",
            "patient-notify dlq list --limit 0",
            "patient-notify dlq show a.dlq/0",
            "patient-notify dlq replay",
            "patient-notify dlq replay a.dlq/0/1 --topic a",
            "patient-notify dlq replay --topic a --key pat-1",
            "patient-notify dlq replay --topic a --again",
            "patient-notify dlq drop --yes",
        ] {
            assert!(!parses(line), "{line}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let text =
            columns(row(["A", "LONG", "C"]), vec![row(["1234", "x", ""]), row(["5", "y", "the rest"])]);
        assert_eq!(text, "A     LONG  C\n1234  x\n5     y     the rest\n");
    }
}
