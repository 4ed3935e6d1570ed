//! `dlq replay` and `dlq drop`

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use futures::future::join_all;

use crate::cli::{Usage, print, print_error};
use crate::config::Config;
use crate::roles::Unavailable;
use crate::topic::dlq::{Action, Handled, Handler, Letter, Letters, NotHandled, Reader, Removal, Remover};

use super::{Counts, ReplayOptions, Which, away, has_reason, letters_of};

/// Records on their way at a time, and their bytes.
const IN_FLIGHT_MAX: usize = 16;
const IN_FLIGHT_MAX_BYTES: usize = 4 * 1024 * 1024;

/// `dlq replay`
pub(super) async fn replay(config: &Config, options: &ReplayOptions) -> Result<()> {
    if options.key.is_some() && options.which.places.len() > 1 {
        bail!(Usage("--key goes with a single dead letter: each record has a key of its own".to_owned()));
    }
    let key = options.key.as_deref();
    run(config, &options.which, Order { action: Action::Replayed, key, again: options.again }).await
}

/// `dlq drop`
pub(super) async fn drop(config: &Config, which: &Which) -> Result<()> {
    run(config, which, Order { action: Action::Dropped, key: None, again: false }).await
}

/// What is to be done.
#[derive(Clone, Copy)]
struct Order<'a> {
    action: Action,
    key: Option<&'a str>,
    again: bool,
}

/// What becomes of a dead letter.
enum Verdict {
    Take,
    /// Not meant.
    Pass,
    /// Meant, and not done, because of this.
    Refuse(String),
    /// Done already.
    Done(String),
}

impl Order<'_> {
    const fn word(&self) -> &'static str {
        self.action.as_str()
    }

    /// One dead letter may be replayed as it is named. Giving up, and more than one,
    /// is meant only by who says so.
    fn needs_yes(&self, which: &Which) -> bool {
        self.action == Action::Dropped || which.places.len() != 1
    }

    fn verdict(&self, which: &Which, letter: &Letter, handled: Option<&Handled>) -> Verdict {
        let is_named = !which.places.is_empty();
        match (handled, self.action) {
            _ if !has_reason(letter, which.reason) => Verdict::Pass,
            (Some(_), _) if !is_named => Verdict::Pass,
            (Some(handled), Action::Replayed) if !self.again => {
                Verdict::Refuse(format!("it was {handled}; --again replays it once more"))
            }
            (Some(handled), Action::Dropped) => Verdict::Done(format!("it was {handled}")),
            _ => Verdict::Take,
        }
    }
}

async fn run(config: &Config, which: &Which, order: Order<'_>) -> Result<()> {
    let prefix = &config.kafka.topic_prefix;
    let reader = Reader::new(&config.kafka).map_err(away)?;
    let letters = if which.places.is_empty() {
        letters_of(&reader, prefix, &which.topics).await?
    } else {
        Letters::named(&reader, prefix, &which.places).await.map_err(away)?
    };
    if order.needs_yes(which) && !which.yes {
        return only_say(reader, letters, which, order).await;
    }
    let user = super::user();
    let by = which.by.as_ref().or(user.as_ref()).map(String::as_str);
    let handler = Handler::new(&config.kafka, &reader, by).await.map_err(away)?;
    let mut work = Work { order, handler, done: 0, failed: 0, touched: BTreeSet::new() };
    let mut reader = reader;
    work.all(&mut reader, letters, which).await?;
    work.remove(config, &mut reader).await?;
    print(&format!("{} {}\n", work.done, order.word()));
    if work.failed > 0 {
        bail!("{} not {}; what stands above says why", work.failed, order.word());
    }
    Ok(())
}

/// Says what would be done; an error, because nothing was.
async fn only_say(mut reader: Reader, mut letters: Letters, which: &Which, order: Order<'_>) -> Result<()> {
    let mut counts = Counts::default();
    while counts.total() < u64::from(which.limit)
        && let Some((letter, handled)) = letters.next(&mut reader).await.map_err(away)?
    {
        match order.verdict(which, &letter, handled.as_ref()) {
            Verdict::Take => counts.add(&letter),
            Verdict::Pass => {}
            Verdict::Refuse(why) | Verdict::Done(why) => print(&format!("{}: {why}\n", letter.place)),
        }
    }
    for missing in letters.missing() {
        print(&format!("{}: {}\n", missing.place, missing.why));
    }
    if counts.total() == 0 {
        bail!("nothing to be {}", order.word());
    }
    print(&counts.table());
    bail!("{} would be {}, and nothing was done: repeat it with --yes", counts.total(), order.word())
}

/// A run that changes something.
struct Work<'a> {
    order: Order<'a>,
    handler: Handler,
    done: u64,
    failed: u64,
    /// Topic and partition of what was handled.
    touched: BTreeSet<(String, i32)>,
}

impl Work<'_> {
    async fn all(&mut self, reader: &mut Reader, mut letters: Letters, which: &Which) -> Result<()> {
        let mut taken = 0;
        let mut hand = Vec::new();
        let mut hand_bytes = 0;
        while taken < which.limit
            && let Some((letter, handled)) = letters.next(reader).await.map_err(away)?
        {
            match self.order.verdict(which, &letter, handled.as_ref()) {
                Verdict::Pass => continue,
                Verdict::Done(why) => {
                    print(&format!("{}: {why}\n", letter.place));
                    continue;
                }
                Verdict::Refuse(why) => {
                    self.fail(&letter, &why);
                    continue;
                }
                Verdict::Take => {}
            }
            taken += 1;
            hand_bytes += letter.size_bytes();
            hand.push(letter);
            if hand.len() >= IN_FLIGHT_MAX || hand_bytes >= IN_FLIGHT_MAX_BYTES {
                self.handle(&hand).await?;
                hand.clear();
                hand_bytes = 0;
            }
        }
        self.handle(&hand).await?;
        for missing in letters.missing() {
            self.failed += 1;
            print_error(&format!("there is no dead letter {}: {}", missing.place, missing.why));
        }
        if taken == which.limit {
            print(&format!("--limit {} is reached: there may be more\n", which.limit));
        }
        Ok(())
    }

    /// Side by side; those of one partition begin, and are written, in their order.
    async fn handle(&mut self, letters: &[Letter]) -> Result<()> {
        let mut away = None;
        for (letter, ended) in letters.iter().zip(join_all(letters.iter().map(|one| self.one(one))).await) {
            match ended {
                Ok(text) => {
                    self.done += 1;
                    self.touched.insert((letter.place.topic.clone(), letter.place.partition));
                    print(&format!("{text}\n"));
                }
                Err(error) => {
                    self.fail(letter, &error.to_string());
                    if error.is_unavailable() {
                        away = Some(error);
                    }
                }
            }
        }
        match away {
            None => Ok(()),
            Some(error) => Err(anyhow::Error::from(error).context(Unavailable("kafka")).context(format!(
                "stopped after {} were {}",
                self.done,
                self.order.word()
            ))),
        }
    }

    async fn one(&self, letter: &Letter) -> Result<String, NotHandled> {
        match self.order.action {
            Action::Replayed => {
                let to = self.handler.replay(letter, self.order.key.map(str::as_bytes)).await?;
                let dropped = letter.header("dlq.headers_dropped").filter(|count| *count != "0");
                let without = dropped.map(|count| format!(", without {count} headers that were not kept"));
                Ok(format!("{} replayed to {to}{}", letter.place, without.unwrap_or_default()))
            }
            Action::Dropped => {
                self.handler.drop(letter).await?;
                Ok(format!("{} dropped", letter.place))
            }
        }
    }

    fn fail(&mut self, letter: &Letter, why: &str) {
        self.failed += 1;
        print_error(&format!("{} not {}: {why}", letter.place, self.order.word()));
    }

    /// Removes what is handled from the beginning of each partition that was touched.
    async fn remove(&self, config: &Config, reader: &mut Reader) -> Result<()> {
        if self.touched.is_empty() {
            return Ok(());
        }
        let remover = Remover::new(&config.kafka).map_err(away)?;
        for (topic, partition) in &self.touched {
            match remover.remove_handled(reader, topic, *partition).await.map_err(away)? {
                Removal::Nothing => {}
                Removal::Removed { offsets } => {
                    let what = "records that are all handled";
                    print(&format!(
                        "{topic} partition {partition}: the oldest {offsets} {what} are removed\n"
                    ));
                }
                Removal::Refused { cause } => print_error(&format!(
                    "{topic} partition {partition}: the brokers do not remove what is handled ({cause}); \
                     it stays until the topic's retention ends"
                )),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Reason, Redacted};
    use crate::topic::dlq::Place;

    fn place() -> Place {
        Place { topic: "t.dlq".to_owned(), partition: 0, offset: 4 }
    }

    fn letter() -> Letter {
        Letter {
            place: place(),
            buried_ms: None,
            ours: vec![("dlq.reason".to_owned(), "undecodable".to_owned())],
            contents: Redacted::default(),
        }
    }

    fn which(places: usize, reason: Option<Reason>) -> Which {
        let places = vec![place(); places];
        Which { places, topics: Vec::new(), reason, limit: 10, yes: false, by: None }
    }

    const REPLAY: Order<'static> = Order { action: Action::Replayed, key: None, again: false };
    const DROP: Order<'static> = Order { action: Action::Dropped, key: None, again: false };

    #[test]
    fn what_is_not_undone_is_asked_for_twice() {
        assert!(!REPLAY.needs_yes(&which(1, None)));
        assert!(REPLAY.needs_yes(&which(2, None)) && REPLAY.needs_yes(&which(0, None)));
        assert!(DROP.needs_yes(&which(1, None)));
    }

    #[test]
    fn what_is_handled_is_left_alone_unless_it_is_asked_for() {
        let handled = Handled { action: Action::Dropped, at: None, by: None, to: None };
        let again = Order { again: true, ..REPLAY };
        let verdict = |order: Order<'_>, which: &Which, handled: Option<&Handled>| match order.verdict(
            which,
            &letter(),
            handled,
        ) {
            Verdict::Take => "take",
            Verdict::Pass => "pass",
            Verdict::Refuse(_) => "refuse",
            Verdict::Done(_) => "done",
        };
        assert_eq!(verdict(REPLAY, &which(1, None), None), "take");
        assert_eq!(verdict(REPLAY, &which(1, None), Some(&handled)), "refuse");
        assert_eq!(verdict(again, &which(1, None), Some(&handled)), "take");
        assert_eq!(verdict(DROP, &which(1, None), Some(&handled)), "done");
        assert_eq!(verdict(REPLAY, &which(0, None), Some(&handled)), "pass");
        assert_eq!(verdict(REPLAY, &which(0, Some(Reason::UnknownSchema)), None), "pass");
        assert_eq!(verdict(REPLAY, &which(0, Some(Reason::Undecodable)), None), "take");
    }
}
