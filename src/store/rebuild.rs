//! Rebuilding a state folder that cannot be opened: the new rows and chunks are made in a folder inside,
//! and take the places of the old ones only when they are whole. The old ones are set aside, not removed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::chunks::{Adopted, LocalChunks};
use super::disk::Folder;
use super::state::{
    CHUNKS_FOLDER, FORMAT_FILE, KEY_FILE, ROWS_FOLDER, WAL_FOLDER, read_private, sync_folder,
    take_lock, write_private,
};
use super::{StateDir, Store, StoreError};
use crate::crypto::LocalKey;

/// Where the new contents are made.
const NEW_FOLDER: &str = "rebuilt";

/// Lies in there when they are whole.
const WHOLE_FILE: &str = "whole";

/// What is made anew, in the order in which it changes places.
const PARTS: [&str; 4] = [ROWS_FOLDER, WAL_FOLDER, CHUNKS_FOLDER, FORMAT_FILE];

/// Where the old contents go, with a number where there is one already.
const ASIDE: &str = "damaged";

/// Most folders with old contents.
const ASIDE_MAX: usize = 1000;

/// A state folder that is being rebuilt, held until the value is dropped.
#[derive(Debug)]
pub struct Rebuild {
    folder: PathBuf,
    /// Held, never read.
    _lock: File,
}

impl Rebuild {
    /// Takes hold of a folder, whatever is wrong with it; ends a change of places that was cut short.
    /// Returns where the old contents lie then, as nothing is left to be done.
    ///
    /// Fails with [`StoreError::InUse`] where a process holds it.
    pub fn begin(folder: &Path) -> Result<(Self, Option<PathBuf>), StoreError> {
        let lock = take_lock(folder)?;
        let rebuild = Self {
            folder: folder.to_owned(),
            _lock: lock,
        };
        if rebuild.new_folder().join(WHOLE_FILE).exists() {
            let aside = rebuild.change_places()?;
            return Ok((rebuild, Some(aside)));
        }
        remove(&rebuild.new_folder())?;
        Ok((rebuild, None))
    }

    /// Returns where the new contents are made.
    pub fn new_folder(&self) -> PathBuf {
        self.folder.join(NEW_FOLDER)
    }

    /// Makes the new folder, with the key and the files of chunks of the old one, and opens its store.
    /// Whole chunks are in it.
    pub fn make(&self, key: &LocalKey) -> Result<(Store, Adopted), StoreError> {
        let new = StateDir::open_or_create(&self.new_folder())?;
        if let Some(secret) = read_private(&self.folder.join(KEY_FILE))? {
            write_private(&new.identity_key(), &secret)?;
        }
        // With files of chunks and without rows it would be a damaged one.
        drop(Store::open(new.path(), key)?);
        link_files(&self.folder.join(CHUNKS_FOLDER), &new.chunks())?;
        let store = Store::open(new.path(), key)?;
        let adopted = LocalChunks::adopt(&Folder::read_only(&new.chunks()), &*store.rows)?;
        store.sync()?;
        drop(store);
        // Opened anew: it knows its chunks by their index.
        Ok((Store::open(new.path(), key)?, adopted))
    }

    /// Puts the new contents, of which nothing is open any more, in the place of the old ones. Returns
    /// where those lie.
    pub fn finish(&self) -> Result<PathBuf, StoreError> {
        let new = self.new_folder();
        write_private(&new.join(WHOLE_FILE), &[])?;
        self.change_places()
    }

    fn change_places(&self) -> Result<PathBuf, StoreError> {
        let new = self.new_folder();
        let aside = self.aside()?;
        for part in PARTS {
            let (from, to, old) = (new.join(part), self.folder.join(part), aside.join(part));
            // Both steps of it may have been done.
            if !exists(&from)? {
                continue;
            }
            if exists(&to)? {
                rename(&to, &old)?;
            }
            rename(&from, &to)?;
        }
        sync_folder(&aside)?;
        sync_folder(&self.folder)?;
        // The files of chunks have two names each: what is in them lies in the new place.
        remove(&aside.join(CHUNKS_FOLDER))?;
        // From here on a start finds all in its place.
        let whole = new.join(WHOLE_FILE);
        match std::fs::remove_file(&whole) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", &whole, e));
            }
            _ => sync_folder(&new)?,
        }
        remove(&new)?;
        sync_folder(&self.folder)?;
        Ok(aside)
    }

    /// Returns the folder for old contents: the one that was begun, or a new one.
    fn aside(&self) -> Result<PathBuf, StoreError> {
        let mark = self.new_folder().join(ASIDE);
        let named = read_private(&mark)?;
        if let Some(name) = named.and_then(|name| String::from_utf8(name).ok()) {
            return Ok(self.folder.join(name));
        }
        let names = (1..ASIDE_MAX).map(|n| match n {
            1 => ASIDE.to_owned(),
            n => format!("{ASIDE}-{n}"),
        });
        for name in names {
            let path = self.folder.join(&name);
            if !exists(&path)? {
                super::state::create_private(&path)?;
                write_private(&mark, name.as_bytes())?;
                return Ok(path);
            }
        }
        Err(StoreError::io(
            "set aside what is in",
            &self.folder,
            io::Error::from(io::ErrorKind::AlreadyExists),
        ))
    }
}

/// Fails where a change of places was cut short: what lies in the folder is some of each.
pub(super) fn check(folder: &Path) -> Result<(), StoreError> {
    let path = folder.join(NEW_FOLDER);
    if !exists(&path.join(WHOLE_FILE))? {
        return Ok(());
    }
    Err(StoreError::Damaged {
        path,
        what: "has the contents that a repair has made, and which are not all in their places yet",
    })
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists()
        .map_err(|e| StoreError::io("look at", path, e))
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    std::fs::rename(from, to).map_err(|e| StoreError::io("move", from, e))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Gives each file of a folder a second name in another.
fn link_files(from: &Path, to: &Path) -> Result<(), StoreError> {
    let entries = match std::fs::read_dir(from) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| StoreError::io("list", from, e))?,
    };
    for entry in entries {
        let path = entry.map_err(|e| StoreError::io("list", from, e))?.path();
        let Some(name) = path.file_name().filter(|_| path.is_file()) else {
            continue;
        };
        let linked = std::fs::hard_link(&path, to.join(name));
        linked.map_err(|e| StoreError::io("give a second name to", &path, e))?;
    }
    sync_folder(to)
}
