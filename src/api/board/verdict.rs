//! The first line: is all well, and if not, what to do. For somebody who was just woken.

use serde::Serialize;

use super::snapshot::{Group, Panels};

/// A record is to be with its provider within this time (the objective).
const OBJECTIVE_S: f64 = 10.0;
/// Due rows that waited this long are late: retries come after seconds.
const DUE_LATE_S: f64 = 60.0;
/// Lines, at most; the rest is counted.
const LINES_MAX: usize = 6;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// Nothing to do.
    Ok,
    /// Somebody should look.
    Look,
    /// Patients wait.
    Late,
}

/// One thing that is not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) text: String,
    /// Page of docs/runbooks that says what to do.
    pub(super) runbook: &'static str,
}

/// The first line and what it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) title: String,
    pub(super) lines: Vec<Line>,
}

/// Of all that was read. While something has not been read, or found to be away, nothing is well.
pub(super) fn verdict(panels: &Panels) -> Verdict {
    if !panels.are_known() {
        return Verdict { level: Level::Look, title: "Reading…".to_owned(), lines: Vec::new() };
    }
    let mut lines = Vec::new();
    for (name, panel) in &panels.groups {
        if let Some(error) = &panel.error {
            lines.push(unread(&format!("The lag of {name}"), error));
        } else if let Some(group) = &panel.data {
            of_group(name, group, &mut lines);
        }
    }
    let unread_panels = [
        ("Due queues", &panels.queues.error),
        ("Providers", &panels.providers.error),
        ("The funnel", &panels.funnel.error),
    ];
    let away = unread_panels.iter().find_map(|(what, error)| Some((what, error.as_deref()?)));
    // One line: they are all read from the database.
    lines.extend(away.map(|(what, error)| unread(what, error)));
    of_queues(panels, &mut lines);
    of_providers(panels, &mut lines);
    lines.sort_by_key(|line| std::cmp::Reverse(line.level));
    let level = lines.first().map_or(Level::Ok, |line| line.level);
    let title = match (level, lines.len()) {
        (Level::Ok, _) => "All is well".to_owned(),
        (_, 1) => lines[0].text.clone(),
        (Level::Late, count) => format!("Patients wait: {count} things are not well"),
        (Level::Look, count) => format!("{count} things to look at"),
    };
    lines.truncate(LINES_MAX);
    Verdict { level, title, lines }
}

fn unread(what: &str, error: &str) -> Line {
    let text = format!("{what} cannot be read: {error}");
    Line { level: Level::Look, text, runbook: "PatientNotifyDependencyAway" }
}

fn of_group(name: &str, group: &Group, lines: &mut Vec<Line>) {
    for topic in &group.topics {
        let stands: Vec<_> =
            topic.partitions.iter().filter(|one| matches!(one.state, "stalled" | "stopped")).collect();
        let oldest = topic.oldest_s.unwrap_or(0.0);
        if let Some(first) = stands.first() {
            let (count, state) = (stands.len(), first.state);
            let which = if count == 1 { "partition" } else { "partitions" };
            let why = if group.members == 0 { ": nobody reads them" } else { "" };
            // One slow call of a provider looks like a stall, for a while.
            let is_late = state == "stopped" || oldest > OBJECTIVE_S;
            lines.push(Line {
                level: if is_late { Level::Late } else { Level::Look },
                text: format!(
                    "{name}: {count} {which} of {} {state} ({}/{}), the oldest record for {oldest:.0} s{why}",
                    topic.topic, topic.topic, first.number
                ),
                runbook: "PatientNotifyPartitionStalled",
            });
        } else if oldest > OBJECTIVE_S {
            let drain = match topic.drain_s {
                Some(seconds) if seconds >= 0.0 => format!("gone in {seconds:.0} s"),
                Some(_) => "it does not drain".to_owned(),
                None => "time to drain not known".to_owned(),
            };
            lines.push(Line {
                level: Level::Late,
                text: format!(
                    "{name}: {} records behind, the oldest for {oldest:.0} s of {OBJECTIVE_S:.0} s; {drain}",
                    topic.lag
                ),
                runbook: "PatientNotifyOldestTooOld",
            });
        }
    }
}

fn of_queues(panels: &Panels, lines: &mut Vec<Line>) {
    let late = panels.queues.data.iter().flatten().filter(|one| one.oldest_s > DUE_LATE_S);
    lines.extend(late.map(|one| Line {
        level: if one.urgency == "bulk" { Level::Look } else { Level::Late },
        text: format!(
            "{} ({}): {} rows due, the oldest for {:.0} s",
            one.queue, one.urgency, one.due, one.oldest_s
        ),
        runbook: "PatientNotifyDueTooOld",
    }));
}

fn of_providers(panels: &Panels, lines: &mut Vec<Line>) {
    for one in panels.providers.data.iter().flatten() {
        if one.open_at > 0 {
            lines.push(Line {
                level: Level::Late,
                text: format!(
                    "{} ({}) fails: {} of {} senders leave it alone",
                    one.channel, one.provider, one.open_at, one.senders
                ),
                runbook: "PatientNotifyCircuitOpen",
            });
        }
        if let Some(paused) = &one.paused {
            lines.push(Line {
                level: Level::Look,
                text: format!("{} is paused {paused}: {} messages held", one.channel, one.held_by_pause),
                runbook: "PatientNotifyDueTooOld",
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{Partition, Provider, Topic};
    use super::*;

    fn group(state: &'static str, oldest_s: f64, drain_s: Option<f64>) -> Group {
        let partition = Partition { number: 7, lag: 3, oldest_s: Some(oldest_s), state };
        let topic = Topic {
            topic: "t".to_owned(),
            state,
            lag: 3,
            oldest_s: Some(oldest_s),
            arrival_per_s: None,
            done_per_s: None,
            drain_s,
            partitions: vec![partition],
        };
        Group { members: 1, state, topics: vec![topic] }
    }

    /// All has been read, and there is nothing.
    fn read() -> Panels {
        let mut panels = Panels::default();
        panels.groups.entry("idle".to_owned()).or_default().take(Ok(Group {
            members: 1,
            state: "ok",
            topics: Vec::new(),
        }));
        panels.queues.take(Ok(Vec::new()));
        panels.providers.take(Ok(Vec::new()));
        panels
    }

    fn of(group: Group) -> Verdict {
        let mut panels = read();
        panels.groups.entry("g".to_owned()).or_default().take(Ok(group));
        verdict(&panels)
    }

    #[test]
    fn nothing_wrong_is_said_to_be_well() {
        assert_eq!(verdict(&read()).title, "All is well");
        assert_eq!(of(group("lagging", 9.0, Some(1.0))).level, Level::Ok);
    }

    #[test]
    fn before_all_was_read_nothing_is_said_to_be_well() {
        assert_eq!(verdict(&Panels::default()).title, "Reading…");
        let mut panels = read();
        panels.groups.entry("other".to_owned()).or_default();
        assert_eq!(verdict(&panels).level, Level::Look);
    }

    #[test]
    fn what_is_late_or_stands_is_said_with_its_runbook() {
        let late = of(group("lagging", 43.0, Some(-1.0)));
        assert_eq!(late.level, Level::Late);
        assert!(late.title.contains("43 s of 10 s; it does not drain"), "{late:?}");
        let stalled = of(group("stalled", 3.0, None));
        assert_eq!(stalled.level, Level::Look);
        assert_eq!(of(group("stalled", 11.0, None)).level, Level::Late);
        assert_eq!(of(group("stopped", 3.0, None)).level, Level::Late);
        assert!(stalled.title.contains("1 partition of t stalled (t/7)"), "{stalled:?}");
        assert_eq!(stalled.lines[0].runbook, "PatientNotifyPartitionStalled");
    }

    #[test]
    fn an_outage_and_what_cannot_be_read_are_said() {
        let mut panels = read();
        panels.queues.error = Some("the database does not answer".to_owned());
        panels.providers.data = Some(vec![Provider {
            channel: "sms",
            provider: "twilio",
            enabled: true,
            open_at: 2,
            senders: 3,
            paused: None,
            held_by_pause: 0,
        }]);
        let verdict = verdict(&panels);
        assert_eq!((verdict.level, verdict.lines.len()), (Level::Late, 2));
        assert!(verdict.lines[0].text.contains("sms (twilio) fails: 2 of 3"), "{verdict:?}");
    }
}
