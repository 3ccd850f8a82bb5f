//! The preload that counts flushes and makes them slow: `slowflush.c`, compiled when it is needed.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOURCE: &str = include_str!("slowflush.c");

/// The compiled preload.
#[derive(Debug, Clone)]
pub struct SlowFlush {
    library: PathBuf,
}

impl SlowFlush {
    /// Compiles it into `folder` with the machine's C compiler.
    ///
    /// # Errors
    /// There is no C compiler, or it does not take the source.
    pub fn compile(folder: &Path) -> Result<Self> {
        let source = folder.join("slowflush.c");
        let library = std::path::absolute(folder.join("slowflush.so"))?;
        std::fs::write(&source, SOURCE)?;
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-O2", "-Wall", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let compiled = command.output().context("no C compiler `cc` was found")?;
        if !compiled.status.success() {
            bail!("`cc` does not compile slowflush.c: {}", String::from_utf8_lossy(&compiled.stderr).trim_end());
        }
        Ok(Self { library })
    }

    /// The same library at `place`, for a process that cannot open ours.
    ///
    /// # Errors
    /// It cannot be copied there.
    pub fn copied_to(&self, place: &Path) -> Result<Self> {
        std::fs::copy(&self.library, place).with_context(|| format!("copying the preload to {}", place.display()))?;
        Ok(Self { library: place.to_owned() })
    }

    /// Lets `command` run with every flush counted in the file `counter`, and `delay` longer than it is.
    pub fn preload(&self, command: &mut Command, counter: &Path, delay: Duration) {
        command.env("LD_PRELOAD", &self.library).env("SLOWFLUSH_COUNT", counter).env("SLOWFLUSH_US", delay.as_micros().to_string());
    }
}
