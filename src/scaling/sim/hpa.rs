//! The horizontal pod autoscaler's arithmetic, as Kubernetes describes it for one external
//! metric with an average value and an explicit `behavior`.

use std::collections::VecDeque;

/// Seconds between two looks.
pub(super) const SYNC_S: u32 = 15;

/// What is set, as in `deploy/keda/base`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Behavior {
    pub(super) min: u32,
    pub(super) max: u32,
    /// Share by which the metric may differ from its target without a change.
    pub(super) tolerance: f64,
    /// At most so many pods more within so many seconds.
    pub(super) up_pods: u32,
    pub(super) up_period_s: u32,
    /// Down only to the most that was recommended within so many seconds.
    pub(super) down_window_s: u32,
    /// At most this share, in percent, less within so many seconds.
    pub(super) down_percent: u32,
    pub(super) down_period_s: u32,
}

impl Behavior {
    /// As deployed for `consumer-test-result-notification`.
    pub(super) const DEPLOYED: Self = Self {
        min: 6,
        max: 15,
        tolerance: 0.0,
        up_pods: 9,
        up_period_s: 30,
        down_window_s: 180,
        down_percent: 50,
        down_period_s: 60,
    };
}

/// The autoscaler, with what it remembers.
#[derive(Debug)]
pub(super) struct Hpa {
    behavior: Behavior,
    recommended: VecDeque<(u32, u32)>,
    /// Changes, signed.
    changes: VecDeque<(u32, i64)>,
}

impl Hpa {
    pub(super) fn new(behavior: Behavior) -> Self {
        Self { behavior, recommended: VecDeque::new(), changes: VecDeque::new() }
    }

    /// Replicas after a look in second `at`, when there are to be `current` so far. `metric`:
    /// the whole value and the target of a pod; `None`: it cannot be had, and nothing changes.
    pub(super) fn look(&mut self, at: u32, current: u32, metric: Option<(f64, f64)>) -> u32 {
        let Some((value, target)) = metric else { return current };
        let recommended = recommendation(current, value, target, self.behavior.tolerance);
        let stable = self.stabilised(at, current, recommended);
        let limited = self.limited(at, current, stable);
        if limited != current {
            self.changes.push_back((at, i64::from(limited) - i64::from(current)));
        }
        limited
    }

    /// Up at once; down to the most within the window.
    fn stabilised(&mut self, at: u32, current: u32, recommended: u32) -> u32 {
        if self.recommended.is_empty() {
            self.recommended.push_back((at, current));
        }
        let window_s = self.behavior.down_window_s;
        while self.recommended.front().is_some_and(|(then, _)| at - then >= window_s) {
            self.recommended.pop_front();
        }
        let most = self.recommended.iter().map(|(_, count)| *count).fold(recommended, u32::max);
        self.recommended.push_back((at, recommended));
        if current < recommended { recommended } else { current.min(most) }
    }

    /// Within the policies, the least and the most.
    fn limited(&mut self, at: u32, current: u32, wanted: u32) -> u32 {
        let Behavior { min, max, up_pods, up_period_s, down_percent, down_period_s, .. } = self.behavior;
        let longest = up_period_s.max(down_period_s);
        while self.changes.front().is_some_and(|(then, _)| at - then >= longest) {
            self.changes.pop_front();
        }
        let began_with = |period_s: u32| {
            let changed: i64 =
                self.changes.iter().filter(|(then, _)| at - then < period_s).map(|(_, by)| by).sum();
            u32::try_from(i64::from(current) - changed).unwrap_or(0)
        };
        if wanted > current {
            let most = (began_with(up_period_s) + up_pods).max(current).min(max);
            wanted.min(most).max(min)
        } else {
            let least = began_with(down_period_s) * (100 - down_percent) / 100;
            wanted.max(least.min(current)).max(min).min(max)
        }
    }
}

/// Pods for a metric, before anything holds them back.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
fn recommendation(current: u32, value: f64, target: f64, tolerance: f64) -> u32 {
    let ratio = value / (target * f64::from(current.max(1)));
    if (ratio - 1.0).abs() <= tolerance { current } else { (value / target).ceil() as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Behavior = Behavior {
        min: 1,
        max: 100,
        tolerance: 0.1,
        up_pods: 4,
        up_period_s: 60,
        down_window_s: 300,
        down_percent: 10,
        down_period_s: 60,
    };

    #[test]
    fn the_metric_over_its_target_is_rounded_up() {
        // 200m a pod at a target of 100m doubles; 50m halves.
        assert_eq!(recommendation(3, 600.0, 100.0, 0.1), 6);
        assert_eq!(recommendation(4, 200.0, 100.0, 0.1), 2);
        assert_eq!(recommendation(6, 12_001.0, 2000.0, 0.0), 7);
    }

    #[test]
    fn within_the_tolerance_nothing_changes() {
        assert_eq!(recommendation(10, 10.9, 1.0, 0.1), 10);
        assert_eq!(recommendation(10, 11.1, 1.0, 0.1), 12);
        assert_eq!(recommendation(14, 15.0, 1.0, 0.0), 15);
    }

    #[test]
    fn ten_percent_a_minute_goes_down_in_steps_that_shrink() {
        // Kubernetes' own example: 80, 72, and then 7.2 fewer, which counts as 8.
        let mut hpa = Hpa::new(Behavior { down_window_s: 1, ..USUAL });
        assert_eq!(hpa.look(0, 80, Some((10.0, 1.0))), 80, "as many as there are, at the first look");
        assert_eq!(hpa.look(15, 80, Some((10.0, 1.0))), 72);
        assert_eq!(hpa.look(30, 72, Some((10.0, 1.0))), 72, "not again within the minute");
        assert_eq!(hpa.look(75, 72, Some((10.0, 1.0))), 64);
    }

    #[test]
    fn four_pods_a_minute_go_up() {
        let mut hpa = Hpa::new(USUAL);
        assert_eq!(hpa.look(0, 1, Some((50.0, 1.0))), 5);
        assert_eq!(hpa.look(15, 5, Some((50.0, 1.0))), 5);
        assert_eq!(hpa.look(60, 5, Some((50.0, 1.0))), 9);
    }

    #[test]
    fn down_goes_to_the_most_of_the_window() {
        let mut hpa = Hpa::new(Behavior { down_percent: 100, ..USUAL });
        assert_eq!(hpa.look(0, 10, Some((10.0, 1.0))), 10);
        assert_eq!(hpa.look(100, 10, Some((8.0, 1.0))), 10);
        assert_eq!(hpa.look(299, 10, Some((2.0, 1.0))), 10);
        assert_eq!(hpa.look(300, 10, Some((2.0, 1.0))), 8, "the 10 is older than the window");
        assert_eq!(hpa.look(400, 8, Some((2.0, 1.0))), 2);
    }

    #[test]
    fn nothing_changes_when_the_metric_is_away() {
        let mut hpa = Hpa::new(Behavior::DEPLOYED);
        assert_eq!(hpa.look(0, 9, None), 9);
    }

    #[test]
    fn the_deployed_ones_go_up_in_one_step_and_down_in_two() {
        let mut hpa = Hpa::new(Behavior::DEPLOYED);
        assert_eq!(hpa.look(0, 6, Some((1e9, 2000.0))), 15);
        assert_eq!(hpa.look(180, 15, Some((0.0, 2000.0))), 7);
        assert_eq!(hpa.look(240, 7, Some((0.0, 2000.0))), 6);
    }
}
