//! A file that is whole or not there: written under another name, and gone when it was not finished.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file in the making. Only its owner can read it.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    file: File,
}

impl Draft {
    /// Begins one that is to become `path`, in the same folder.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = PathBuf::from(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path, file })
    }

    /// Where it lies for now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, to write to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes it durable and calls it `path`; with `force` also where something of this name is there.
    ///
    /// # Errors
    /// What the disk says; [`io::ErrorKind::AlreadyExists`] when the name is taken.
    pub fn keep(self, path: &Path, force: bool) -> io::Result<()> {
        self.file.sync_all()?;
        if force {
            fs::rename(&self.path, path)?;
        } else {
            match fs::hard_link(&self.path, path) {
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => return Err(why),
                // Some file systems, such as those of shares, know no second names.
                Err(_) if !path.exists() => fs::rename(&self.path, path)?,
                linked => linked?,
            }
        }
        File::open(path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What was kept by renaming is not there any more.
        match fs::remove_file(&self.path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => tracing::error!("{} cannot be removed: {why}", self.path.display()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_draft_is_kept_whole_for_its_owner_only_or_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let names = || fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect::<Vec<_>>();
        let write = |text: &str| {
            let draft = Draft::of(&path).unwrap();
            draft.file().write_all(text.as_bytes()).unwrap();
            draft
        };
        drop(write("given up"));
        assert_eq!(names().len(), 0);
        write("one").keep(&path, false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(write("two").keep(&path, false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names().len()), ("one", 1));
        write("three").keep(&path, true).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names().len()), ("three", 1));
    }
}
