//! What the process that measures takes itself.

use std::time::Duration;

use anyhow::Context as _;

/// User and system time of this process (proc(5), fields 14 and 15 of stat, in
/// ticks of 10 ms).
pub fn own_cpu() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("/proc/self/stat has no command")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|t| t.parse().unwrap_or(0)).sum();
    Ok(Duration::from_millis(ticks * 10))
}
