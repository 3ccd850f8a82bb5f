//! Latencies, counted in buckets that are at most 1/64 wide: a second of a busy row costs no memory and no sorting.

use std::time::Duration;

/// Buckets of every power of two.
const PARTS: u64 = 64;

/// How often each latency was seen.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; bucket(u64::MAX) + 1], total: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Counts one latency.
    pub fn count(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// Counts what `other` has counted.
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.total += other.total;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// The latency that `share` (0 to 1) of all stay at or below, rounded up to the end of its bucket.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(end(bucket).min(self.max_ns));
            }
        }
        self.max()
    }

    /// The longest latency, exactly.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }
}

/// Below 128 ns every nanosecond has a bucket; above, each power of two has 64.
fn bucket(ns: u64) -> usize {
    let shift = u64::from((63 - (ns | 127).leading_zeros()) - 6);
    (shift * PARTS + (ns >> shift)) as usize
}

/// The longest latency that falls into a bucket.
fn end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / PARTS).saturating_sub(1);
    let first = bucket - shift * PARTS;
    ((u128::from(first + 1) << shift) - 1).min(u128::from(u64::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_falls_into_a_bucket_that_ends_at_most_a_64th_above_it() {
        for ns in (0..1000).chain([4095, 4096, 1_000_003, 987_654_321, 1 << 40, u64::MAX - 1, u64::MAX]) {
            let end = end(bucket(ns));
            assert!(end >= ns && end - ns <= ns / 64, "{ns} ends at {end}");
        }
    }

    #[test]
    fn quantiles_of_a_thousand_even_latencies() {
        let mut histogram = Histogram::default();
        for us in 1..=1000 {
            histogram.count(Duration::from_micros(us));
        }
        let near = |share: f64, us: f64| {
            let found = histogram.quantile(share).as_secs_f64() * 1e6;
            assert!(found >= us && found <= us * 1.02, "{share}: {found}");
        };
        near(0.5, 500.0);
        near(0.99, 990.0);
        assert_eq!(histogram.max(), Duration::from_millis(1));
        assert_eq!(histogram.quantile(1.0), Duration::from_millis(1));
    }
}
