//! Child processes, and what the kernel says of them: processor time, memory, and flushes where the preload counts them.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A clock tick of `/proc/PID/stat`: Linux shows them as hundredths of a second on every machine that we serve.
const TICK: Duration = Duration::from_millis(10);

/// How long a child may take until it is ready, and until it has stopped.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child that is ended when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    counter: Option<PathBuf>,
}

/// What a process has used since it began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Processor time of all its threads, in user and kernel mode.
    pub cpu: Duration,
    /// Flushes; nothing where nobody counts them.
    pub flushes: Option<u64>,
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Memory {
    /// What it has in memory now (`VmRSS`).
    pub resident_bytes: u64,
    /// The most that it ever had (`VmHWM`).
    pub peak_bytes: u64,
}

impl Running {
    /// Starts `command`. `counter` is the file in which the preload counts flushes.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub fn start(command: &mut Command, counter: Option<PathBuf>) -> Result<Self> {
        // A closed standard input tells our own children to end, also when this process is killed.
        let child = command.stdin(Stdio::piped()).spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self { child, counter })
    }

    /// Starts `command` and waits for the one line of JSON by which it says that it is ready.
    ///
    /// # Errors
    /// A program that cannot be started, ends, says something else, or says nothing within a minute.
    pub fn start_and_hear<T: for<'de> Deserialize<'de>>(command: &mut Command, counter: Option<PathBuf>) -> Result<(Self, T)> {
        let name = command.get_program().display().to_string();
        let mut running = Self::start(command.stdout(Stdio::piped()), counter)?;
        let mut stdout = BufReader::new(running.child.stdout.take().context("a pipe was asked for")?);
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // Nobody listens any more where the wait was given up; what comes later is thrown away.
            let _ = tell.send(stdout.read_line(&mut line).map(|_| line));
            let _ = std::io::copy(&mut stdout.by_ref(), &mut std::io::sink());
        });
        let line = told.recv_timeout(PATIENCE).with_context(|| format!("{name} is not ready after {PATIENCE:?}"))??;
        if line.is_empty() {
            bail!("{name} ended before it was ready: {}", running.child.wait()?);
        }
        let said =
            serde_json::from_str(&line).with_context(|| format!("{name} said something else than it should: {}", line.trim_end()))?;
        Ok((running, said))
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// It is gone.
    pub fn usage(&self) -> Result<Usage> {
        Ok(Usage { cpu: cpu(&self.child.id().to_string())?, flushes: self.counter.as_deref().map(count).transpose()? })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it and the processes that it has started have used so far, those included that have ended and that it has noticed.
    ///
    /// # Errors
    /// It is gone.
    pub fn usage_of_family(&self) -> Result<Usage> {
        let own = self.child.id();
        let read = |process: &str| std::fs::read_to_string(format!("/proc/{process}/stat"));
        let stat = read(&own.to_string()).context("reading a process's times")?;
        let mut cpu = parse_family_cpu(&stat).context("a /proc/PID/stat of an unknown shape")?;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|it| it.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
            // One that ends meanwhile is among those that have ended.
            let Ok(stat) = read(name) else { continue };
            if parent(&stat) == Some(own) {
                cpu += parse_cpu(&stat).unwrap_or_default();
            }
        }
        Ok(Usage { cpu, flushes: self.counter.as_deref().map(count).transpose()? })
    }

    /// Its memory.
    ///
    /// # Errors
    /// It is gone.
    pub fn memory(&self) -> Result<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).context("reading a child's memory")?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in a child's status"))?;
            Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
        };
        Ok(Memory { resident_bytes: field("VmRSS:")?, peak_bytes: field("VmHWM:")? })
    }

    /// Whether it has ended by itself.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Asks it to end (`SIGTERM`), and waits until it has.
    ///
    /// # Errors
    /// It has not ended within a minute.
    pub fn stop(mut self) -> Result<()> {
        let asked = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &self.child.id().to_string()]).status()?;
        let since = Instant::now();
        while asked.success() && self.child.try_wait()?.is_none() {
            if since.elapsed() > PATIENCE {
                bail!("a server has not stopped {PATIENCE:?} after it was asked to");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time that this process has used.
///
/// # Errors
/// There is no `/proc`.
pub fn own_cpu() -> Result<Duration> {
    cpu("self")
}

fn cpu(process: &str) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).context("reading a process's times")?;
    parse_cpu(&stat).context("a /proc/PID/stat of an unknown shape")
}

/// utime and stime are fields 14 and 15 (proc(5)); the name, which is field 2, may hold blanks and parentheses.
fn parse_cpu(stat: &str) -> Option<Duration> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?;
    Some(TICK * ticks)
}

/// The same with cutime and cstime, fields 16 and 17: children that were waited for.
fn parse_family_cpu(stat: &str) -> Option<Duration> {
    let fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11).take(4);
    let ticks = fields.map(|it| it.parse::<u32>().ok()).sum::<Option<u32>>()?;
    Some(TICK * ticks)
}

/// The parent is field 4.
fn parent(stat: &str) -> Option<u32> {
    stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The counter is eight bytes in the machine's order, shared by mapping: see `slowflush.c`.
fn count(counter: &Path) -> Result<u64> {
    let bytes = std::fs::read(counter).with_context(|| format!("reading the count of flushes in {}", counter.display()))?;
    Ok(u64::from_ne_bytes(bytes.as_slice().try_into().context("a count of flushes that is not eight bytes long")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_after_a_name_with_blanks_and_parentheses() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 100 0 0";
        assert_eq!(parse_cpu(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_cpu("42 (a"), None);
        let stat = "42 (a) b (c)) S 7 42 42 0 -1 4194304 100 0 0 0 150 50 10 90 20 0 1 0 100 0 0";
        assert_eq!((parse_family_cpu(stat), parent(stat)), (Some(Duration::from_secs(3)), Some(7)));
    }
}
