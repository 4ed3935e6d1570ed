//! Records as laboratories, backends and providers would publish them: the same seed
//! gives the same records, so that a run can be repeated and a repeated run changes
//! nothing.

use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

mod requests;

pub use requests::{RequestOptions, sample_requests, sample_updates};

use crate::domain::{PatientId, Redacted, ResultUrgency, TestResultPublished};

/// What the sample consists of.
#[derive(Debug, Clone, Copy)]
pub struct SampleOptions {
    /// Names the sample: it is part of every result's identifier.
    pub seed: u64,
    /// Results.
    pub count: u64,
    /// Patients, numbered from 1; at least 1. See [`sample_patient`].
    pub patients: u64,
    /// Share of critical results, 0 to 100.
    pub critical_percent: u8,
    /// Share of results that the patient may see only later, 0 to 100.
    pub embargo_percent: u8,
    /// When the newest result was released.
    pub now: Timestamp,
}

impl SampleOptions {
    /// 1 % critical, none embargoed.
    #[must_use]
    pub const fn new(seed: u64, count: u64, patients: u64, now: Timestamp) -> Self {
        Self { seed, count, patients, critical_percent: 1, embargo_percent: 0, now }
    }
}

/// Share of results outside of the reference range, of those that are not critical.
const ABNORMAL_PERCENT: u32 = 15;
const FACILITIES: u32 = 12;
const CATEGORIES: [&str; 5] = ["laboratory", "laboratory", "laboratory", "imaging", "pathology"];
/// An embargo lasts up to this long.
const EMBARGO_MAX_HOURS: i64 = 72;
/// Results were released within this time before `now`.
const RELEASED_WITHIN_MS: i64 = 2_000;

/// The identifier of the n-th patient of a sample.
#[must_use]
pub fn sample_patient(number: u64) -> PatientId {
    let text = format!("pat-{number:06}");
    PatientId::parse(&text).expect("a number of at most 20 digits makes an identifier within bounds")
}

/// The results of a sample, one after the other. Each patient gets results in a
/// random order; some get several, some none.
pub fn sample_results(options: SampleOptions) -> impl Iterator<Item = TestResultPublished> + Send {
    let mut random = StdRng::seed_from_u64(options.seed);
    (1..=options.count).map(move |number| sample_result(&options, number, &mut random))
}

fn sample_result(options: &SampleOptions, number: u64, random: &mut StdRng) -> TestResultPublished {
    let patient = random.random_range(1..=options.patients.max(1));
    let facility = random.random_range(1..=FACILITIES);
    let category = CATEGORIES[random.random_range(0..CATEGORIES.len())];
    let urgency = if random.random_range(0..100) < options.critical_percent {
        ResultUrgency::Critical
    } else if random.random_range(0..100) < ABNORMAL_PERCENT {
        ResultUrgency::Abnormal
    } else {
        ResultUrgency::Normal
    };
    let age = SignedDuration::from_millis(random.random_range(0..RELEASED_WITHIN_MS));
    let released_at = options.now - age;
    let is_embargoed = random.random_range(0..100) < options.embargo_percent;
    let embargo_hours = if is_embargoed { random.random_range(1..=EMBARGO_MAX_HOURS) } else { 0 };
    TestResultPublished {
        result_id: format!("lab{facility:02}-{:x}-{number:08}", options.seed),
        version: 1,
        patient_id: sample_patient(patient),
        facility_id: format!("fac-{facility:02}"),
        category: Redacted::new(category.to_owned()),
        urgency,
        released_at,
        available_at: released_at + SignedDuration::from_hours(embargo_hours),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::is_opaque;

    fn sample(seed: u64) -> Vec<TestResultPublished> {
        let now = Timestamp::from_millisecond(1_795_600_000_000).unwrap();
        let options = SampleOptions {
            critical_percent: 10,
            embargo_percent: 20,
            ..SampleOptions::new(seed, 2_000, 100, now)
        };
        sample_results(options).collect()
    }

    #[test]
    fn a_seed_names_a_sample() {
        assert_eq!(sample(7), sample(7));
        let (seven, eight) = (sample(7), sample(8));
        let ids: std::collections::HashSet<_> = seven.iter().chain(&eight).map(|r| &r.result_id).collect();
        assert_eq!(ids.len(), 4_000);
    }

    #[test]
    fn a_sample_is_what_was_asked_for() {
        let sample = sample(u64::MAX);
        assert!(sample.iter().all(|r| is_opaque(&r.result_id) && r.available_at >= r.released_at));
        let critical = sample.iter().filter(|r| r.urgency == ResultUrgency::Critical).count();
        assert!((120..=280).contains(&critical), "{critical}");
        let embargoed = sample.iter().filter(|r| r.available_at > r.released_at).count();
        assert!((300..=500).contains(&embargoed), "{embargoed}");
        let patients: std::collections::HashSet<_> = sample.iter().map(|r| &r.patient_id).collect();
        assert_eq!(patients.len(), 100);
    }
}
