//! The stack's data folder: emptied at each start, but never one of a user's own.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::error::StackError;

/// A folder with this file was made by us and may be emptied.
const MARKER: &str = ".patient-notify-stack";
const MARKER_TEXT: &str = "Data of a development stack. Everything here is deleted at its next start.\n";

/// A folder that this process owns for as long as the value lives.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    /// Locked; the lock goes with the process, however it ends.
    _marker: File,
}

impl DataDir {
    /// Makes the folder or empties it. Refuses one that is neither empty nor ours,
    /// and one that another stack uses.
    pub(super) fn claim(path: &Path) -> Result<Self, StackError> {
        let path = std::path::absolute(path).map_err(StackError::io("find", path))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .map_err(StackError::io("create", &path))?;
        let marker_path = path.join(MARKER);
        let entries = entries(&path)?;
        if !entries.is_empty() && !entries.contains(&marker_path) {
            return Err(StackError::ForeignFolder(path));
        }
        let mut marker = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&marker_path)
            .map_err(StackError::io("write", &marker_path))?;
        match marker.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StackError::FolderInUse(path)),
            Err(TryLockError::Error(source)) => {
                return Err(StackError::Io { action: "lock", path: marker_path, source });
            }
        }
        for entry in entries.iter().filter(|entry| **entry != marker_path) {
            remove(entry).map_err(StackError::io("remove", entry))?;
        }
        marker.write_all(MARKER_TEXT.as_bytes()).map_err(StackError::io("write", &marker_path))?;
        // Search only: PostgreSQL may run as another user and has its own folder in here.
        fs::set_permissions(&path, Permissions::from_mode(0o711))
            .map_err(StackError::io("set permissions of", &path))?;
        Ok(Self { path, _marker: marker })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder of one server.
    pub(super) fn create(&self, name: &str) -> Result<PathBuf, StackError> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).map_err(StackError::io("create", &path))?;
        Ok(path)
    }

    /// Deletes the folder with all that is in it.
    pub(super) fn remove(self) -> Result<(), StackError> {
        fs::remove_dir_all(&self.path).map_err(StackError::io("remove", &self.path))
    }
}

fn entries(path: &Path) -> Result<Vec<PathBuf>, StackError> {
    fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|found| found.path())).collect())
        .map_err(StackError::io("read", path))
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Writes a server's configuration.
pub(super) fn write(path: &Path, text: &str) -> Result<(), StackError> {
    fs::write(path, text).map_err(StackError::io("write", path))
}

/// Copies a folder with everything below it.
pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<(), StackError> {
    fs::create_dir_all(to).map_err(StackError::io("create", to))?;
    for entry in entries(from)? {
        let target = to.join(entry.file_name().unwrap_or_default());
        if entry.is_dir() {
            copy_tree(&entry, &target)?;
        } else {
            fs::copy(&entry, &target).map_err(StackError::io("copy", &entry))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_folder_is_emptied() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("new/stack");
        let first = DataDir::claim(&path).unwrap();
        fs::write(first.create("kafka").unwrap().join("old"), "x").unwrap();
        drop(first);
        let second = DataDir::claim(&path).unwrap();
        assert_eq!(entries(second.path()).unwrap(), [path.join(MARKER)]);
        second.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_of_the_user_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "x").unwrap();
        let error = DataDir::claim(dir.path()).unwrap_err();
        assert!(matches!(error, StackError::ForeignFolder(_)), "{error}");
        assert!(dir.path().join("thesis.txt").exists());
    }

    #[test]
    fn two_stacks_do_not_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let _first = DataDir::claim(dir.path()).unwrap();
        let error = DataDir::claim(dir.path()).unwrap_err();
        assert!(matches!(error, StackError::FolderInUse(_)), "{error}");
    }
}
