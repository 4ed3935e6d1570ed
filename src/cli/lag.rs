//! `patient-notify lag`: how far consumer groups are behind, for people and for scripts.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Usage, columns, print};
use crate::config::{self, Config};
use crate::lag::{Finding, GroupStanding, Ownership, PartitionStanding, Reader, State, Window};
use crate::roles::Unavailable;
use crate::topic::names;

/// Rates are means over this time, when it looks for so long.
const SPAN: Duration = Duration::from_secs(30);
/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Looks without `--watch`: the first and the last make the rates.
const LOOKS: u32 = 5;
/// Groups that one command reads, at most.
const GROUPS_MAX: usize = 64;

/// `patient-notify lag`
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Look again every second, until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// One JSON object a group and look, a line each.
    #[arg(long)]
    json: bool,
    /// Show every partition, also those where nothing waits.
    #[arg(long)]
    all: bool,
    /// A group by its full name, any group of the cluster; may be repeated. Without it: ours.
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Only this topic (full name); may be repeated. Without it: all that the group reads.
    #[arg(long, value_name = "TOPIC", requires = "group")]
    topic: Vec<String>,
    /// Bootstrap servers in place of kafka.bootstrap_servers.
    #[arg(long, value_name = "HOST:PORT,…")]
    bootstrap: Option<String>,
}

/// A group that is looked at.
struct Watched {
    reader: Reader,
    window: Window,
}

/// Looks at groups and prints how they stand.
///
/// # Errors
/// When the command line cannot be carried out, or the brokers do not answer.
pub async fn run(config: &Config, options: Options) -> anyhow::Result<()> {
    let mut kafka = config.kafka.clone();
    if let Some(bootstrap) = &options.bootstrap {
        kafka.bootstrap_servers.clone_from(bootstrap);
    }
    let mut groups = watched(&kafka, &options)?;
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = 0;
    while options.watch || look < LOOKS {
        tick.tick().await;
        look += 1;
        let begun = Instant::now();
        let read = futures::future::join_all(groups.iter().map(|group| group.reader.read())).await;
        for (group, reading) in groups.iter_mut().zip(read) {
            group.window.push(reading.context(Unavailable("kafka"))?);
        }
        if options.watch || look == LOOKS {
            let standings: Vec<GroupStanding> =
                groups.iter().filter_map(|group| group.window.standing()).collect();
            show(&standings, &options, begun.elapsed())?;
        }
    }
    Ok(())
}

fn watched(kafka: &config::Kafka, options: &Options) -> anyhow::Result<Vec<Watched>> {
    let wanted: Vec<(String, Vec<String>)> = if options.group.is_empty() {
        let ours = names::groups(&kafka.topic_prefix);
        ours.into_iter().collect()
    } else {
        options.group.iter().map(|group| (group.clone(), options.topic.clone())).collect()
    };
    if wanted.len() > GROUPS_MAX {
        return Err(Usage(format!("{} groups; at most {GROUPS_MAX} at once", wanted.len())).into());
    }
    let watched = |(group, topics): (String, Vec<String>)| {
        let reader = Reader::of_topics(kafka, &group, topics)?;
        Ok(Watched { reader, window: Window::new(SPAN) })
    };
    wanted.into_iter().map(watched).collect()
}

fn show(standings: &[GroupStanding], options: &Options, took: Duration) -> anyhow::Result<()> {
    let mut text = String::new();
    if options.json {
        for standing in standings {
            text.push_str(&serde_json::to_string(standing)?);
            text.push('\n');
        }
    } else {
        if options.watch && io::stdout().is_terminal() {
            // Home, and clear what is below: no flicker of an empty screen.
            text.push_str("\x1b[H\x1b[J");
        }
        for standing in standings {
            text.push_str(&table(standing, options.all));
        }
        if options.watch {
            writeln!(text, "read in {} ms; Ctrl-C ends", took.as_millis())?;
        }
    }
    print(&text);
    Ok(())
}

/// A group for people: one line for it, one a topic, and those of partitions that say something.
fn table(standing: &GroupStanding, all: bool) -> String {
    let state = standing.group_state.as_deref().unwrap_or("not known to the brokers");
    let mut text = format!(
        "group {}: {} ({state}, members: {})\n",
        standing.group,
        standing.state.as_str(),
        standing.members
    );
    if standing.topics.is_empty() {
        text.push_str("  no commits and no members in any topic\n\n");
        return text;
    }
    let head = ["TOPIC", "LAG", "OLDEST", "IN/S", "DONE/S", "DRAINS IN", "HEADROOM", "STATE", "NOTES"];
    let mut rows = Vec::new();
    for topic in &standing.topics {
        let of_topic = standing.partitions.iter().filter(|one| one.reading.topic == topic.topic);
        rows.push([
            topic.topic.clone(),
            topic.lag_messages.to_string(),
            age(topic.lag_messages, topic.oldest_age_ms),
            rate(topic.arrival_rate),
            rate(topic.processing_rate),
            drain(topic.drain_seconds),
            headroom(of_topic.clone().filter_map(|one| one.reading.retention_headroom_ms())),
            topic.state.as_str().to_owned(),
            notes(&topic.findings, None),
        ]);
        for one in of_topic.filter(|one| all || says_something(one)) {
            rows.push(row(one));
        }
    }
    text.push_str(&columns(head.map(str::to_owned), rows));
    text.push('\n');
    text
}

fn row(one: &PartitionStanding) -> [String; 9] {
    [
        format!("  {}", one.reading.partition),
        one.reading.lag_messages.to_string(),
        age(one.reading.lag_messages, one.reading.oldest_age_ms),
        rate(one.arrival_rate),
        rate(one.processing_rate),
        drain(one.drain_seconds),
        headroom(one.reading.retention_headroom_ms().into_iter()),
        one.state.as_str().to_owned(),
        notes(&one.findings, Some(&one.reading.owner)),
    ]
}

fn says_something(one: &PartitionStanding) -> bool {
    one.state != State::Ok || one.reading.lag_messages > 0 || !one.findings.is_empty()
}

fn age(lag: i64, age_ms: Option<u64>) -> String {
    match age_ms {
        #[expect(clippy::cast_precision_loss, reason = "a time for people")]
        Some(age_ms) => span(age_ms as f64 / 1000.0),
        None if lag == 0 => "0 s".to_owned(),
        None => "?".to_owned(),
    }
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "?".to_owned(), |rate| format!("{rate:.1}"))
}

fn drain(seconds: Option<f64>) -> String {
    match seconds {
        None => "?".to_owned(),
        Some(seconds) if seconds.is_infinite() => "never".to_owned(),
        Some(seconds) => span(seconds),
    }
}

fn headroom(all_ms: impl Iterator<Item = f64>) -> String {
    match all_ms.reduce(f64::min) {
        None => "?".to_owned(),
        Some(ms) if ms.is_infinite() => "endless".to_owned(),
        Some(ms) => span(ms / 1000.0),
    }
}

/// Seconds as people say them, in the largest unit that leaves at least two of it.
fn span(seconds: f64) -> String {
    const UNITS: [(f64, &str); 3] = [(86_400.0, "d"), (3_600.0, "h"), (60.0, "min")];
    let unit = UNITS.into_iter().find(|(length, _)| seconds >= 2.0 * length);
    match unit {
        Some((length, name)) => format!("{:.1} {name}", seconds / length),
        None => format!("{seconds:.1} s"),
    }
}

fn notes(findings: &[Finding], owner: Option<&Ownership>) -> String {
    let mut notes: Vec<String> = findings.iter().map(note).collect();
    match owner {
        Some(Ownership::Owned(client)) => notes.push(format!("read by {client}")),
        Some(Ownership::Nobody) => notes.push("nobody reads it".to_owned()),
        Some(Ownership::Unknown) | None => {}
    }
    notes.join("; ")
}

fn note(finding: &Finding) -> String {
    match finding {
        Finding::NoCommits => "never committed".to_owned(),
        Finding::TopicMissing => "the topic does not exist".to_owned(),
        Finding::RetentionLoss(records) => {
            format!("{records} records were deleted by retention before they were committed")
        }
        Finding::Gap(offsets) => {
            format!("{offsets} offsets hold no record (compaction or transactions)")
        }
        Finding::BeyondEnd(offsets) => {
            format!("committed {offsets} offsets behind the end: the topic was made anew")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lag::{GroupReading, PartitionReading, Retention};

    #[test]
    fn times_are_said_in_units_that_people_use() {
        let said = [0.0, 0.04, 119.0, 121.0, 7_200.0, 1_209_600.0].map(span);
        assert_eq!(said, ["0.0 s", "0.0 s", "119.0 s", "2.0 min", "2.0 h", "14.0 d"]);
        assert_eq!(
            [drain(Some(f64::INFINITY)), drain(None), age(0, None), age(3, None)],
            ["never", "?", "0 s", "?"]
        );
    }

    #[test]
    fn the_table_shows_partitions_that_say_something() {
        let partition = |partition, lag_messages| PartitionReading {
            topic: "t".to_owned(),
            partition,
            committed: Some(10),
            low: 0,
            high: 10 + lag_messages,
            oldest_offset: (lag_messages > 0).then_some(10),
            oldest_timestamp_ms: None,
            oldest_age_ms: (lag_messages > 0).then_some(90_000),
            lag_messages,
            owner: Ownership::Owned("a-1".to_owned()),
            retention: Retention::Ms(1_000_000),
        };
        let mut window = Window::new(SPAN);
        for second in 0..4 {
            window.push(GroupReading {
                group: "g".to_owned(),
                group_state: Some("Stable".to_owned()),
                members: 1,
                taken: Duration::from_secs(second),
                at_ms: 0,
                partitions: vec![partition(0, 0), partition(1, 7)],
                missing_topics: vec!["gone".to_owned()],
            });
        }
        let text = table(&window.standing().unwrap(), false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "group g: stopped (Stable, members: 1)");
        let cells = |line: usize| {
            lines[line].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>()
        };
        assert_eq!(cells(2), ["gone", "0", "0 s", "?", "?", "?", "?", "stopped", "the topic does not exist"]);
        assert_eq!(cells(3), ["t", "7", "90.0 s", "0.0", "0.0", "never", "15.2 min", "stalled"]);
        assert_eq!(
            cells(4),
            ["1", "7", "90.0 s", "0.0", "0.0", "never", "15.2 min", "stalled", "read by a-1"]
        );
        assert_eq!(lines.iter().filter(|line| line.contains("a-1")).count(), 1, "{text}");
    }
}
