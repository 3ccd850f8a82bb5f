//! Numbers: what the process, the store and the outbox count, as Prometheus text.
//!
//! Owns the recorder and the figures that nobody else has: those of the process and of the store. They are looked up when
//! somebody asks, and cost nothing otherwise. Names are those that Prometheus' own client libraries use.

use crate::engine::Engine;
use countersign_core::ports::Clock;
use countersign_core::words::refusal::Fault;
use countersign_core::{Core, words::time::Timestamp};
use countersign_store::Stats;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Everything that is counted, ready to be written down.
#[derive(Clone)]
pub struct Numbers {
    handle: PrometheusHandle,
    engine: Engine,
}

/// Installs the recorder, once a process.
///
/// # Errors
/// Only where one is installed already.
pub fn begin(clock: &dyn Clock, engine: Engine) -> Result<Numbers, String> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".into()), &countersign_web::DURATION_BUCKETS_S)
        .map_err(|why: BuildError| why.to_string())?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|why| why.to_string())?;
    countersign_web::describe();
    describe(clock.now());
    Ok(Numbers { handle, engine })
}

impl Numbers {
    /// All of them, as Prometheus reads them.
    #[must_use]
    pub fn render(&self) -> String {
        tell_store(&self.engine.stats());
        tell_process();
        self.handle.render()
    }

    /// Folds what histograms have gathered, so that they do not grow where nobody asks for them.
    pub fn fold(&self) {
        self.handle.run_upkeep();
    }

    /// Looks how much waits in the outbox.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn look(&self, core: &Core) -> Result<(), Fault> {
        let health = core.health().await?;
        gauge!("countersign_deliveries_queued").set(health.queued as f64);
        gauge!("countersign_store_bytes").set(health.bytes as f64);
        Ok(())
    }
}

fn describe(started_at: Timestamp) {
    describe_gauge!("countersign_build_info", "The version that runs, as a label");
    gauge!("countersign_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    describe_gauge!("process_start_time_seconds", Unit::Seconds, "When the process began, since 1970");
    gauge!("process_start_time_seconds").set(started_at.as_millis() as f64 / 1000.0);
    describe_gauge!("process_resident_memory_bytes", Unit::Bytes, "Memory that is in use");
    describe_gauge!("process_cpu_seconds_total", Unit::Seconds, "Processor time that was used");
    describe_gauge!("process_open_fds", Unit::Count, "Files and sockets that are open");
    describe_gauge!("countersign_connections", Unit::Count, "Connections that are open");
    describe_counter!("countersign_connections_refused_total", Unit::Count, "Connections beyond limits.connections");
    describe_gauge!("countersign_deliveries_queued", Unit::Count, "Messages that wait for a provider");
    describe_gauge!("countersign_store_bytes", Unit::Bytes, "The size of the database");
    describe_counter!("countersign_store_commits_total", Unit::Count, "Transactions that were committed");
    describe_counter!("countersign_store_decisions_total", Unit::Count, "Decisions that the store made");
    describe_gauge!("countersign_store_commit_seconds_total", Unit::Seconds, "Time that all commits took together, flushes included");
    describe_counter!("countersign_store_batches_total", Unit::Count, "Commits by the most decisions that they may hold");
    describe_gauge!("countersign_store_waiting", Unit::Count, "Decisions that wait for the writer");
    describe_counter!("countersign_store_overtaken_total", Unit::Count, "Batches that began anew because another node was faster");
    describe_counter!("countersign_store_unheard_total", Unit::Count, "Commits whose answer the database did not give");
    describe_gauge!("countersign_store_wal_bytes", Unit::Bytes, "The length of the write-ahead log at its last checkpoint");
    describe_counter!("countersign_store_checkpoints_total", Unit::Count, "Checkpoints of the write-ahead log");
}

fn tell_store(stats: &Stats) {
    counter!("countersign_store_commits_total").absolute(stats.commits);
    counter!("countersign_store_decisions_total").absolute(stats.jobs);
    gauge!("countersign_store_commit_seconds_total").set(stats.commit_time.as_secs_f64());
    for (power, commits) in stats.batches.iter().enumerate() {
        counter!("countersign_store_batches_total", "size_at_most" => (1u32 << power).to_string()).absolute(*commits);
    }
    gauge!("countersign_store_waiting").set(stats.waiting as f64);
    counter!("countersign_store_overtaken_total").absolute(stats.overtaken);
    counter!("countersign_store_unheard_total").absolute(stats.unheard);
    gauge!("countersign_store_wal_bytes").set(stats.wal_bytes as f64);
    counter!("countersign_store_checkpoints_total").absolute(stats.checkpoints);
}

/// Where there is no /proc, there are no figures of the process.
fn tell_process() {
    if let Ok(status) = std::fs::read_to_string("/proc/self/status")
        && let Some(kib) = resident_kib(&status)
    {
        gauge!("process_resident_memory_bytes").set((kib * 1024) as f64);
    }
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
        && let Some(ticks) = cpu_ticks(&stat)
    {
        // The kernel tells processes of 100 ticks a second, whatever it counts in itself (proc(5)).
        gauge!("process_cpu_seconds_total").set(ticks as f64 / 100.0);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge!("process_open_fds").set(open.count() as f64);
    }
}

fn resident_kib(status: &str) -> Option<u64> {
    status.lines().find_map(|it| it.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// User and system time, the 14th and 15th field. The second one is the program's name, and may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut after_name = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || after_name.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_the_process_are_read_from_what_the_kernel_says() {
        assert_eq!(resident_kib("VmPeak:\t  9 kB\nVmRSS:\t   18432 kB\n"), Some(18_432));
        let stat = "4711 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0";
        assert_eq!(cpu_ticks(stat), Some(175));
        assert_eq!(cpu_ticks("garbage"), None);
    }
}
