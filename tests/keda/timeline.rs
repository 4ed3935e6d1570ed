//! What was seen, second by second, and a look at what is waited for.

use std::time::{Duration, Instant};

use crate::backlog;
use crate::bed::Bed;
use crate::harness::World;
use crate::workload::{Standing, Workload};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Follows a workload; prints a line at each change of its replicas and every few seconds while
/// there is lag.
pub struct Timeline {
    workload: Workload,
    begun: Instant,
    last: Option<Standing>,
    printed: Instant,
    /// Replicas asked for, whenever they changed, with the time since the beginning.
    pub changes: Vec<(Duration, i64)>,
}

impl Timeline {
    /// Begins now.
    pub fn new(workload: Workload) -> Self {
        println!(
            "  {}: {:>6} {:>8} {:>6} {:>5} {:>5}",
            workload.name, "s", "lag", "wanted", "asked", "ready"
        );
        let now = Instant::now();
        Self { workload, begun: now, last: None, printed: now, changes: Vec::new() }
    }

    fn see(&mut self, now: Standing, lag: i64) {
        let (min, max) = (self.workload.min, self.workload.max);
        // One before its ScaledObject has been seen.
        assert!(
            now.asked == 1 || (min..=max).contains(&now.asked),
            "{}: {} replicas, of {min} to {max}",
            self.workload.name,
            now.asked
        );
        if self.last.is_none_or(|last| last.asked != now.asked) {
            self.changes.push((self.begun.elapsed(), now.asked));
        }
        if self.last != Some(now) || (lag > 0 && self.printed.elapsed() >= Duration::from_secs(15)) {
            let wanted = now.wanted.map_or_else(|| "-".to_owned(), |wanted| wanted.to_string());
            println!(
                "  {}: {:>6.0} {lag:>8} {wanted:>6} {:>5} {:>5}",
                self.workload.name,
                self.begun.elapsed().as_secs_f64(),
                now.asked,
                now.ready
            );
            self.printed = Instant::now();
        }
        self.last = Some(now);
    }

    /// Time from the beginning to the first replica more than at the beginning.
    pub fn first_new_replica(&self) -> Option<Duration> {
        let &(_, at_first) = self.changes.first()?;
        self.changes.iter().find(|(_, asked)| *asked > at_first).map(|(when, _)| *when)
    }

    /// Follows until `is_so`; panics when it is not within `deadline`.
    pub async fn until(
        &mut self,
        what: &str,
        deadline: Duration,
        (bed, world): (&Bed, &World),
        is_so: impl Fn(Standing, i64) -> bool,
    ) {
        let begun = Instant::now();
        loop {
            let (now, lag) = self.look(bed, world).await;
            if is_so(now, lag) {
                return;
            }
            assert!(begun.elapsed() < deadline, "{}: not within {deadline:?}: {what}", self.workload.name);
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Follows for as long as `time`: it must be so at every look.
    pub async fn stays(
        &mut self,
        what: &str,
        time: Duration,
        (bed, world): (&Bed, &World),
        is_so: impl Fn(Standing) -> bool,
    ) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            let (now, _) = self.look(bed, world).await;
            assert!(is_so(now), "{}: no longer after {:?}: {what}", self.workload.name, begun.elapsed());
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn look(&mut self, bed: &Bed, world: &World) -> (Standing, i64) {
        bed.assert_running();
        let (now, lag) = tokio::join!(self.workload.standing(&bed.api), lag_of(world, self.workload));
        self.see(now, lag);
        (now, lag)
    }
}

/// What scales a workload, in records or rows.
async fn lag_of(world: &World, workload: Workload) -> i64 {
    match backlog::topic_of(workload) {
        Some(topic) => world.committed(&topic).await.iter().map(|one| one.lag()).sum(),
        None => world.count("delivery WHERE due_at <= now()").await,
    }
}
