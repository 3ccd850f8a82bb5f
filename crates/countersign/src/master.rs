//! The master key: read from where the settings say, and made on the first start.
//!
//! Owns the one dangerous moment: a new key beside an old database would open nothing in it, so none is made then.

use crate::config::{Config, MASTER_KEY, MasterKeySource};
use crate::draft::Draft;
use crate::no::No;
use countersign_core::ports::Chance;
use countersign_core::words::secret::MasterKey;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// What a key looks like.
const FORM: &str = "it takes 64 hexadecimal digits, such as `openssl rand -hex 32` prints";

/// Reads the key of these settings, as [`read`] does, and the one before it, where they name one.
///
/// # Errors
/// Where one of them cannot be had: why, and what to do.
pub fn of(config: &Config, database: Option<&str>, chance: &dyn Chance) -> Result<MasterKey, No> {
    with_old(config, read(&config.master_key, database, chance)?)
}

/// The same for what is `sealed` already, as [`read_for`] does.
///
/// # Errors
/// Where one of them cannot be had: why, and what to do.
pub fn of_sealed(config: &Config, sealed: &str) -> Result<MasterKey, No> {
    with_old(config, read_for(&config.master_key, sealed)?)
}

fn with_old(config: &Config, present: MasterKey) -> Result<MasterKey, No> {
    let Some(path) = &config.old_master_key else { return Ok(present) };
    let wrong = |why: String| No::usage(format!("secrets.old_master_key_file: {} {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|why| {
        wrong(format!("cannot be read: {why}"))
            .hint("when every tenant is opened by the present key (`countersign doctor`), take the setting out")
    })?;
    warn_if_open_to_others(path);
    let old = MasterKey::parse(&text).ok_or_else(|| wrong(format!("holds no key: {FORM}")))?;
    Ok(present.with_old(&old))
}

/// Reads the key. A missing file is made, unless there is a database already, which is then told by what it is called.
///
/// # Errors
/// Where no key can be had: why, and what to do.
fn read(source: &MasterKeySource, database: Option<&str>, chance: &dyn Chance) -> Result<MasterKey, No> {
    match source {
        MasterKeySource::File(path) if !path.exists() && database.is_none() => {
            let key = make(path, chance)?;
            let path = path.display();
            tracing::warn!("A master key was made in {path}. Keep a copy elsewhere: nothing in the database opens without it");
            Ok(key)
        }
        source => read_for(source, database.unwrap_or("nothing yet")),
    }
}

/// Reads the key with which `sealed` was sealed, and makes none: another one would not open it.
///
/// # Errors
/// Where no key can be had: why, and what to do.
fn read_for(source: &MasterKeySource, sealed: &str) -> Result<MasterKey, No> {
    match source {
        MasterKeySource::Given(key) => {
            MasterKey::parse(key.reveal()).ok_or_else(|| No::usage(format!("{MASTER_KEY} holds no key: {FORM}")))
        }
        MasterKeySource::Command(command) => by_command(command),
        MasterKeySource::File(path) => match std::fs::read_to_string(path) {
            Ok(text) => {
                warn_if_open_to_others(path);
                parse(path, &text)
            }
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                let what = format!("{} is missing, and {sealed} was sealed with the key in it; no other key opens it", path.display());
                Err(No::refused(what).hint("put your copy of the file back, or name its place in secrets.master_key_file"))
            }
            Err(why) => Err(No::refused(format!("secrets.master_key_file: {} cannot be read: {why}", path.display()))),
        },
    }
}

/// `serve` refuses such a file before it comes here; a command does not keep an operator from mending things.
fn warn_if_open_to_others(path: &Path) {
    let mode = std::fs::metadata(path).map_or(0, |it| it.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        let path = path.display();
        tracing::warn!("{path} holds the master key and has mode {mode:03o}, so others can read it; run: chmod 600 {path}");
    }
}

fn parse(path: &Path, text: &str) -> Result<MasterKey, No> {
    MasterKey::parse(text).ok_or_else(|| No::usage(format!("secrets.master_key_file: {} holds no key: {FORM}", path.display())))
}

/// Makes a key and its file, and leaves it to the caller what to say about it.
///
/// # Errors
/// Where the file cannot be written.
pub fn make(path: &Path, chance: &dyn Chance) -> Result<MasterKey, No> {
    let key = MasterKey::draw(chance);
    let written = write_private(path, key.reveal().reveal());
    match written {
        Ok(()) => Ok(key),
        // Another process was faster by a moment: its key is the one.
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {
            let text = std::fs::read_to_string(path).map_err(|why| No::refused(format!("{} cannot be read: {why}", path.display())))?;
            parse(path, &text)
        }
        Err(why) => Err(No::refused(format!("a master key cannot be written to {}: {why}", path.display()))),
    }
}

/// Makes a file that only its owner can read, whole or not at all, and durable.
///
/// # Errors
/// Also when the file is there already.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    if let Some(folder) = folder {
        make_folder(folder)?;
    }
    let draft = Draft::of(path)?;
    writeln!(draft.file(), "{text}")?;
    draft.keep(path, false)
}

/// Makes a folder that only its owner can enter, and those above it, where they are not there.
///
/// # Errors
/// Where it cannot be made.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn by_command(command: &[String]) -> Result<MasterKey, No> {
    let [program, arguments @ ..] = command else { return Err(No::usage("secrets.master_key_command is empty")) };
    let ran = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = ran.map_err(|why| No::unavailable(format!("secrets.master_key_command: {program} cannot be run: {why}")))?;
    if !output.status.success() {
        return Err(No::unavailable(format!("secrets.master_key_command: {program} ended with {}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    MasterKey::parse(line).ok_or_else(|| No::refused(format!("secrets.master_key_command: {program} printed no key: {FORM}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::no::Kind;
    use countersign_core::ports::test::Script;
    use countersign_core::words::secret::Secret;

    #[test]
    fn a_first_start_makes_a_key_for_its_owner_only_and_the_next_one_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/master.key");
        let source = MasterKeySource::File(path.clone());
        let made = read(&source, None, &Script::default()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read(&source, Some("countersign.db"), &Script::default()).unwrap().reveal() == made.reveal());
        assert_eq!(std::fs::read_dir(folder.path().join("keys")).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn no_key_is_made_beside_an_old_database() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let no = read(&MasterKeySource::File(path.clone()), Some("countersign.db"), &Script::default()).unwrap_err();
        assert!(no.kind == Kind::Refused && no.to_string().contains("put your copy"), "{no}");
        assert!(!path.exists());
    }

    #[test]
    fn a_key_comes_from_a_command_or_the_environment_and_is_never_shown_when_it_is_wrong() {
        let key = "5a".repeat(32);
        let command = |text: &str| MasterKeySource::Command(vec!["echo".into(), text.into()]);
        for source in [command(&key), MasterKeySource::Given(Secret::new(key.clone()))] {
            assert_eq!(read(&source, None, &Script::default()).unwrap().reveal().reveal(), key);
        }
        let short = &key[1..];
        for source in [command(short), MasterKeySource::Given(Secret::new(short))] {
            assert!(!read(&source, None, &Script::default()).unwrap_err().to_string().contains(short));
        }
        let failing = MasterKeySource::Command(vec!["false".into()]);
        assert_eq!(read(&failing, None, &Script::default()).unwrap_err().kind, Kind::Unavailable);
    }
}
