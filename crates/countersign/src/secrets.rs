//! Secrets for commands: from standard input, a file or the environment, never from an argument.

use crate::cli::Secrets;
use crate::config::Environment;
use crate::no::No;
use countersign_core::words::secret::Secret;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};
use std::path::Path;

/// The longest secret: a private key, generously.
const LONGEST_BYTES: u64 = 64 << 10;

impl Secrets {
    /// Reads them all. A line's end at the end of a secret is no part of it.
    ///
    /// # Errors
    /// Which secret cannot be read, and why; never a part of one.
    pub fn read(&self, environment: &Environment, stdin: impl Read) -> Result<BTreeMap<String, Secret>, No> {
        let mut found = BTreeMap::new();
        let mut put = |name: &str, text: String| match found.insert(name.to_owned(), without_end(&text, name)?) {
            None => Ok(()),
            Some(_) => Err(No::usage(format!("the secret {name} is given twice"))),
        };
        for (name, path) in pairs(&self.files, "--secret-file", "PATH")? {
            put(name, whole(std::fs::File::open(Path::new(path)), name)?)?;
        }
        for (name, variable) in pairs(&self.variables, "--secret-env", "VARIABLE")? {
            let text =
                environment.get(variable).ok_or_else(|| No::usage(format!("the variable {variable} for the secret {name} is not set")))?;
            put(name, text.clone())?;
        }
        if let Some(name) = &self.stdin {
            put(name, whole(Ok(stdin), name)?)?;
        }
        Ok(found)
    }

    /// Tells a person at a terminal that something is waited for.
    pub fn prompt(&self) {
        if let Some(name) = &self.stdin
            && std::io::stdin().is_terminal()
        {
            eprintln!("Type or paste {name} (it will be seen), press Enter, then Ctrl-D:");
        }
    }
}

/// The secret in a file; `-` is standard input.
///
/// # Errors
/// Why it cannot be read; never a part of it.
pub fn in_file(path: &Path, name: &str) -> Result<Secret, No> {
    if path == Path::new("-") {
        Secrets { stdin: Some(name.to_owned()), ..Secrets::default() }.prompt();
        return without_end(&whole(Ok(std::io::stdin()), name)?, name);
    }
    without_end(&whole(std::fs::File::open(path), name)?, name)
}

/// A line's end at the end of a secret is no part of it.
fn without_end(text: &str, name: &str) -> Result<Secret, No> {
    let text = text.strip_suffix('\n').map_or(text, |it| it.strip_suffix('\r').unwrap_or(it));
    if text.is_empty() { Err(No::usage(format!("the secret {name} is empty"))) } else { Ok(Secret::new(text)) }
}

fn pairs<'a>(given: &'a [String], option: &str, what: &str) -> Result<Vec<(&'a str, &'a str)>, No> {
    let pair = |it: &'a String| {
        // What stands there instead of a pair may be the secret itself, so it is not repeated.
        it.split_once('=')
            .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            .ok_or_else(|| No::usage(format!("{option} takes NAME={what}")))
    };
    given.iter().map(pair).collect()
}

fn whole(from: std::io::Result<impl Read>, name: &str) -> Result<String, No> {
    let mut text = String::new();
    let read = from.and_then(|it| it.take(LONGEST_BYTES + 1).read_to_string(&mut text));
    read.map_err(|why| No::usage(format!("the secret {name} cannot be read: {why}")))?;
    if text.len() as u64 > LONGEST_BYTES {
        return Err(No::usage(format!("the secret {name} is longer than {LONGEST_BYTES} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_three_places_without_the_end_of_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "from a file\r\n").unwrap();
        let asked = Secrets { stdin: Some("a".into()), files: vec![format!("b={}", path.display())], variables: vec!["c=VARIABLE".into()] };
        let environment = Environment::from([("VARIABLE".to_owned(), "from=there".to_owned())]);
        let read = asked.read(&environment, &b"typed\n"[..]).unwrap();
        let shown: Vec<_> = read.iter().map(|(name, it)| (name.as_str(), it.reveal())).collect();
        assert_eq!(shown, [("a", "typed"), ("b", "from a file"), ("c", "from=there")]);
    }

    #[test]
    fn a_mistaken_pair_is_not_repeated_for_it_may_be_the_secret() {
        let asked = Secrets { files: vec!["hunter2hunter2".into()], ..Secrets::default() };
        assert!(!asked.read(&Environment::new(), &b""[..]).unwrap_err().to_string().contains("hunter2"));
    }

    #[test]
    fn an_empty_secret_and_one_given_twice_are_mistakes() {
        let empty = Secrets { stdin: Some("a".into()), ..Secrets::default() };
        assert!(empty.read(&Environment::new(), &b"\n"[..]).is_err());
        let twice = Secrets { stdin: Some("a".into()), variables: vec!["a=V".into()], ..Secrets::default() };
        let environment = Environment::from([("V".to_owned(), "x".to_owned())]);
        assert!(twice.read(&environment, &b"y"[..]).unwrap_err().to_string().contains("twice"));
    }
}
