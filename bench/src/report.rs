//! What was measured, for people, for machines and for `docs/performance.md`.
//!
//! A figure is the median of its rounds. A ratio is taken within a round, against the ceiling that ran right before, and
//! the median is taken of the ratios: a busy neighbour then slows both.

use crate::process::Memory;
use serde::Serialize;
use std::fmt::Write as _;

/// The load from which on rates say more of the neighbours than of the server.
const BUSY: f64 = 0.5;

/// One row in one round.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// Operations per second.
    pub rate: f64,
    /// The latency that half of all operations stay below, in milliseconds.
    pub p50_ms: f64,
    /// The latency that 99 of 100 stay below.
    pub p99_ms: f64,
    /// The longest latency.
    pub max_ms: f64,
    /// Processor time of the whole server, or of all its nodes, for one operation, in microseconds; nothing where none is asked.
    pub cpu_us: Option<f64>,
    /// The same of the database, where it is a server of its own.
    pub database_cpu_us: Option<f64>,
    /// Processor time of the driver for one operation.
    pub driver_cpu_us: f64,
    /// Flushes for one operation, where they are counted.
    pub flushes: Option<f64>,
    /// Bytes of the database's log for one operation, where they are counted.
    pub wal_bytes: Option<f64>,
    /// Decisions in one transaction, on average.
    pub batch: Option<f64>,
    /// The part of the transactions that began anew because another one was faster.
    pub overtaken: Option<f64>,
    /// The rate as a part of the ceiling's, which ran right before.
    pub of_ceiling: Option<f64>,
}

/// A budget. It is shown beside the figure; nothing fails because of it.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Budget {
    /// Operations per second at least.
    pub rate: Option<f64>,
    /// Part of the ceiling at least.
    pub of_ceiling: Option<f64>,
    /// Part of the same row on an empty database at least.
    pub of_empty: Option<f64>,
    /// Microseconds of processor time at most.
    pub cpu_us: Option<f64>,
    /// Milliseconds that 99 of 100 stay below at most.
    pub p99_ms: Option<f64>,
}

/// One row in all its rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What is measured.
    pub what: String,
    /// Milliseconds added to each flush.
    pub flush_ms: u64,
    /// Connections, each with one request on its way.
    pub connections: usize,
    /// What was promised.
    pub budget: Budget,
    /// The rounds, in order.
    pub rounds: Vec<Sample>,
}

impl Row {
    /// The median of one figure over all rounds; nothing where a round has none.
    #[must_use]
    pub fn median(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        let mut figures: Vec<f64> = self.rounds.iter().map(figure).collect::<Option<_>>()?;
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        Some(if figures.len().is_multiple_of(2) {
            (figures.get(middle.wrapping_sub(1))? + figures[middle]) / 2.0
        } else {
            *figures.get(middle)?
        })
    }

    fn most(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        self.rounds.iter().map(figure).fold(f64::NEG_INFINITY, f64::max)
    }

    fn least(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        self.rounds.iter().map(figure).fold(f64::INFINITY, f64::min)
    }

    /// Each budget, and whether it is kept.
    fn verdicts(&self) -> String {
        let at_least = |found: Option<f64>, wanted: Option<f64>| Some((found?, wanted?, found? >= wanted?));
        let at_most = |found: Option<f64>, wanted: Option<f64>| Some((found?, wanted?, found? <= wanted?));
        let budget = self.budget;
        let all = [
            at_least(self.median(|it| Some(it.rate)), budget.rate).map(|(_, wanted, kept)| (format!("≥ {}/s", whole(wanted)), kept)),
            at_least(self.median(|it| it.of_ceiling), budget.of_ceiling).map(|(_, wanted, kept)| (format!("≥ {wanted} of ceiling"), kept)),
            at_least(self.median(|it| it.of_ceiling), budget.of_empty).map(|(_, wanted, kept)| (format!("≥ {wanted} of empty"), kept)),
            at_most(self.median(|it| it.cpu_us), budget.cpu_us).map(|(_, wanted, kept)| (format!("≤ {wanted} µs CPU"), kept)),
            at_most(self.median(|it| Some(it.p99_ms)), budget.p99_ms).map(|(_, wanted, kept)| (format!("p99 ≤ {wanted} ms"), kept)),
        ];
        let said: Vec<_> =
            all.into_iter().flatten().map(|(text, kept)| format!("{text}: {}", if kept { "kept" } else { "MISSED" })).collect();
        said.join("; ")
    }

    fn cells(&self) -> [String; COLUMNS] {
        let median = |figure: fn(&Sample) -> Option<f64>, decimals: usize| {
            self.median(figure).map_or_else(|| NONE.to_owned(), |it| format!("{it:.decimals$}"))
        };
        [
            if self.flush_ms == 0 { self.what.clone() } else { format!("{}, {} ms flush", self.what, self.flush_ms) },
            self.connections.to_string(),
            self.median(|it| Some(it.rate)).map_or_else(|| NONE.to_owned(), whole),
            format!("{} – {}", whole(self.least(|it| it.rate)), whole(self.most(|it| it.rate))),
            format!("{} / {} / {:.1}", median(|it| Some(it.p50_ms), 2), median(|it| Some(it.p99_ms), 2), self.most(|it| it.max_ms)),
            median(|it| it.cpu_us, 1),
            median(|it| it.database_cpu_us, 1),
            median(|it| it.flushes, 3),
            median(|it| it.wal_bytes, 0),
            median(|it| it.batch, 1),
            median(|it| it.overtaken, 4),
            median(|it| it.of_ceiling, 2),
            median(|it| Some(it.driver_cpu_us), 1),
            self.verdicts(),
        ]
    }
}

const COLUMNS: usize = 14;

const HEADINGS: [&str; COLUMNS] = [
    "row",
    "conn.",
    "rate/s",
    "least – most",
    "p50 / p99 / max ms",
    "CPU µs",
    "database µs",
    "flushes",
    "log bytes",
    "batch",
    "overtaken",
    "of ceiling",
    "driver µs",
    "budget",
];

/// What stands in a cell that has no figure.
const NONE: &str = "–";

/// How long a start takes, and what is in memory then.
#[derive(Debug, Clone, Serialize)]
pub struct Start {
    /// In which state the server was started.
    pub what: String,
    /// From starting the process to the first access token, in milliseconds, over several starts.
    pub first_answer_ms: Vec<f64>,
    /// Memory a second after the first answer.
    pub memory: Memory,
    /// Milliseconds at most.
    pub budget_ms: Option<f64>,
    /// Megabytes (10⁶ bytes) in memory at most.
    pub budget_megabytes: Option<f64>,
}

/// On what it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// What the kernel calls them.
    pub processor: String,
    /// Its kernel.
    pub kernel: String,
    /// The file system that held the data.
    pub file_system: String,
    /// Processes that wanted to run, on average over a minute, before anything was measured.
    pub load_before: f64,
    /// The same when everything was measured; the run itself is most of it on a quiet machine.
    pub load_after: f64,
}

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The command that produced it.
    pub command: String,
    /// On what.
    pub machine: Machine,
    /// What was under load.
    pub server: String,
    /// The measured rows, ceilings first.
    pub rows: Vec<Row>,
    /// Starts and memory.
    pub starts: Vec<Start>,
    /// What the database is, where it is a server of its own.
    pub database: Option<String>,
    /// What else is to be known of the figures.
    pub notes: Vec<String>,
    /// The server's memory after all rounds of load; of the first node, where there are several.
    pub memory_after_load: Option<Memory>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
}

impl Report {
    /// Headings and rows, without the columns in which no row has a figure.
    fn columns(&self) -> Vec<Vec<String>> {
        let rows: Vec<_> = self.rows.iter().map(Row::cells).collect();
        let filled: [bool; COLUMNS] = std::array::from_fn(|at| rows.iter().any(|row| row[at] != NONE));
        let kept = |row: [String; COLUMNS]| row.into_iter().zip(filled).filter_map(|(cell, filled)| filled.then_some(cell)).collect();
        std::iter::once(HEADINGS.map(str::to_owned)).chain(rows).map(kept).collect()
    }

    /// For a terminal: columns padded with blanks.
    #[must_use]
    pub fn table(&self) -> String {
        let rows = self.columns();
        let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
        let mut text = String::new();
        for row in &rows {
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let blanks = " ".repeat(width - cell.chars().count());
                // Words stand to the left, figures to the right.
                let padded = if at == 0 || at == row.len() - 1 { format!("{cell}{blanks}") } else { format!("{blanks}{cell}") };
                text.push_str(if at == 0 { "" } else { "  " });
                text.push_str(if at == row.len() - 1 { cell } else { &padded });
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text.push('\n');
        for line in self.sentences() {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// For `docs/performance.md`.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("`{}`\n\n", self.command);
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rows = self.columns();
        let last = rows[0].len() - 1;
        let ruler: Vec<_> = (0..=last).map(|at| if at == 0 || at == last { "---".to_owned() } else { "---:".to_owned() }).collect();
        text += &line(&rows[0]);
        text += &line(&ruler);
        for row in &rows[1..] {
            text += &line(row);
        }
        text.push('\n');
        for line in self.sentences() {
            let _ = writeln!(text, "* {line}");
        }
        text
    }

    fn sentences(&self) -> Vec<String> {
        let machine = &self.machine;
        let mut said = vec![format!(
            "Measured on {} cores of {}, Linux {}, data on {}, load {:.2} before the run and {:.2} after it; server: {}.",
            machine.cores, machine.processor, machine.kernel, machine.file_system, machine.load_before, machine.load_after, self.server
        )];
        if let Some(database) = &self.database {
            said.push(format!("Database: {database}."));
        }
        if machine.load_before > BUSY {
            said.push("The machine was busy before the run began: the ratios hold, the rates and times do not.".into());
        }
        for start in &self.starts {
            let mut times = start.first_answer_ms.clone();
            times.sort_by(f64::total_cmp);
            let median = times.get(times.len() / 2).copied().unwrap_or(f64::NAN);
            let resident = megabytes(start.memory.resident_bytes);
            let kept = |found: f64, most: Option<f64>, unit: &str| {
                most.map(|most| format!(" (≤ {most} {unit}: {})", if found <= most { "kept" } else { "MISSED" })).unwrap_or_default()
            };
            said.push(format!(
                "Started {}: first answer after {median:.0} ms{}, median of {}; then {resident:.1} MB in memory{}, {:.1} MB at most.",
                start.what,
                kept(median, start.budget_ms, "ms"),
                times.len(),
                kept(resident, start.budget_megabytes, "MB"),
                megabytes(start.memory.peak_bytes),
            ));
        }
        if let Some(after) = &self.memory_after_load {
            said.push(format!(
                "After all rounds: {:.1} MB in memory, {:.1} MB at most.",
                megabytes(after.resident_bytes),
                megabytes(after.peak_bytes)
            ));
        }
        said.extend(self.notes.iter().cloned());
        said.extend(self.skipped.iter().map(|it| format!("Not measured: {it}")));
        said
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// A number without decimals, in groups of three digits.
#[must_use]
pub fn whole(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(rates: &[f64]) -> Row {
        let sample = |rate: &f64| Sample {
            rate: *rate,
            p50_ms: 1.0,
            p99_ms: 2.0,
            max_ms: 3.0,
            cpu_us: Some(30.0),
            database_cpu_us: None,
            driver_cpu_us: 4.0,
            flushes: None,
            wal_bytes: None,
            batch: None,
            overtaken: None,
            of_ceiling: Some(0.5),
        };
        let budget = Budget { rate: Some(50_000.0), cpu_us: Some(25.0), ..Budget::default() };
        Row { what: "verify".into(), flush_ms: 0, connections: 64, budget, rounds: rates.iter().map(sample).collect() }
    }

    #[test]
    fn a_figure_is_the_median_of_its_rounds() {
        assert_eq!(row(&[3.0, 1.0, 2.0]).median(|it| Some(it.rate)), Some(2.0));
        assert_eq!(row(&[4.0, 1.0, 2.0, 3.0]).median(|it| Some(it.rate)), Some(2.5));
        assert_eq!(row(&[1.0]).median(|it| it.flushes), None);
        assert_eq!(row(&[]).median(|it| Some(it.rate)), None);
    }

    #[test]
    fn a_missed_budget_is_said_beside_a_kept_one() {
        assert_eq!(row(&[60_000.0]).verdicts(), "≥ 50,000/s: kept; ≤ 25 µs CPU: MISSED");
    }

    #[test]
    fn a_column_without_a_figure_is_left_out() {
        let cells = row(&[1.0]).cells();
        let kept: Vec<_> = HEADINGS.iter().zip(&cells).filter(|(_, cell)| *cell != NONE).map(|(heading, _)| *heading).collect();
        assert!(kept.contains(&"CPU µs") && !kept.contains(&"database µs") && !kept.contains(&"overtaken"));
    }

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!([0.4, 999.0, 1000.0, 1_234_567.0].map(whole), ["0", "999", "1,000", "1,234,567"]);
    }
}
