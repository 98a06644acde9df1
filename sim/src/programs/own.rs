//! Files that one machine alone writes: what they hold is known to the byte.

use super::*;

/// Files of one host alone.
impl Turn<'_> {
    fn folder(&self) -> Result<Looked, FsError> {
        let name = format!("own{}", self.host);
        match self.look(Ino::ROOT, name.as_bytes()) {
            Err(FsError::NotFound) => {
                self.mkdir(Ino::ROOT, name.as_bytes())?;
                self.look(Ino::ROOT, name.as_bytes())
            }
            looked => looked,
        }
    }

    pub(super) fn own(&mut self) -> Done {
        let folder = self.folder()?;
        let files = self.books.files_of(self.host);
        let there: Vec<String> = files
            .into_iter()
            .filter(|name| self.books.content(name).is_some())
            .collect();
        if there.is_empty() || there.len() < FILES_MAX && self.chance(4) {
            return self.make_own(folder.ino);
        }
        let name = there[self.below(there.len() as u64) as usize].clone();
        match self.below(12) {
            0 => self.rename_own(folder.ino, &name),
            1 => self.unlink_own(folder.ino, &name),
            2..=4 => self.close_own(&name, false),
            5 | 6 => self.close_own(&name, true),
            _ => self.write_own(folder.ino, &name),
        }
    }

    fn make_own(&mut self, folder: Ino) -> Done {
        self.programs.files += 1;
        let name = format!(
            "/own{}/{}-{}",
            self.host,
            self.programs.files,
            self.below(1 << 32)
        );
        let flags = OpenFlags {
            read: true,
            write: true,
            exclusive: true,
            ..OpenFlags::default()
        };
        let fs = &self.member.fs;
        let made = fs.create(Caller::default(), folder, last(&name), 0o600, flags)?;
        self.books.becomes(self.host, &name, Some(Vec::new()));
        self.books.handed_over(&name);
        self.programs.open.push(Open {
            name,
            ino: made.entry.attr.ino,
            fh: made.opened.fh,
        });
        Ok(())
    }

    /// Returns a handle of a file, opened where it is not open.
    fn handle(&mut self, folder: Ino, name: &str) -> Result<(Ino, FileHandle), FsError> {
        if let Some(open) = self.programs.open.iter().find(|open| open.name == name) {
            return Ok((open.ino, open.fh));
        }
        let there = self.look(folder, last(name))?;
        let flags = OpenFlags {
            read: true,
            write: true,
            ..OpenFlags::default()
        };
        let fh = self.member.fs.open(Caller::default(), there.ino, flags)?.fh;
        let ino = there.ino;
        std::mem::forget(there);
        self.programs.open.push(Open {
            name: name.to_owned(),
            ino,
            fh,
        });
        Ok((ino, fh))
    }

    fn write_own(&mut self, folder: Ino, name: &str) -> Done {
        let (ino, fh) = self.handle(folder, name)?;
        let mut content = self.books.content(name).cloned().unwrap_or_default();
        let fs = Arc::clone(&self.member.fs);
        let len = content.len() as u64;
        match self.below(6) {
            0 => {
                let size = self.below(len * 2 + 10);
                content.resize(size as usize, 0);
                let set = SetAttr {
                    size: Some(size),
                    fh: Some(fh),
                    ..SetAttr::default()
                };
                fs.setattr(Caller::default(), ino, set)?;
            }
            1 => {
                let at = self.below(len + 1);
                let end = (at + 1 + self.below(9_000)).min(len.max(at + 1));
                for byte in content.iter_mut().take(end as usize).skip(at as usize) {
                    *byte = 0;
                }
                let mode = Fallocate::PunchHole;
                fs.fallocate(Caller::default(), ino, fh, at, end - at, mode)?;
            }
            _ => {
                let token = self.below(1 << 32).to_le_bytes();
                let bytes = self.padded(&token);
                let at = match self.below(3) {
                    0 => len,
                    1 => self.below(len + 1),
                    _ => self.below(len + 20_000),
                };
                let end = at as usize + bytes.len();
                content.resize(content.len().max(end), 0);
                content[at as usize..end].copy_from_slice(&bytes);
                fs.write(ino, fh, at, &bytes, WriteFlags::default())?;
            }
        }
        self.books.becomes(self.host, name, Some(content.clone()));
        self.compare(ino, name, &content)
    }

    /// What a program reads of a file of its own is what it wrote.
    fn compare(&self, ino: Ino, name: &str, content: &[u8]) -> Done {
        if let Some(seen) = self.seen(ino)? {
            assert!(
                seen == content,
                "{name} is {} bytes on its host, not the {} that were written",
                seen.len(),
                content.len()
            );
        }
        Ok(())
    }

    fn close_own(&mut self, name: &str, sync: bool) -> Done {
        let at = self.programs.open.iter().position(|open| open.name == name);
        let Some(at) = at else {
            return Ok(());
        };
        let open = self.programs.open.swap_remove(at);
        let fs = Arc::clone(&self.member.fs);
        if sync {
            fs.fsync(open.ino, open.fh)?;
            self.books.handed_over(name);
            self.books.synced(self.host);
        }
        fs.flush(open.ino, open.fh)?;
        self.books.handed_over(name);
        fs.release(open.ino, open.fh)?;
        fs.forget(open.ino, 1);
        Ok(())
    }

    fn rename_own(&mut self, folder: Ino, name: &str) -> Done {
        self.close_own(name, false)?;
        self.programs.files += 1;
        let new = format!(
            "/own{}/{}-r{}",
            self.host,
            self.programs.files,
            self.below(1 << 32)
        );
        let (from, to) = ((folder, last(name)), (folder, last(&new)));
        self.member.fs.rename(from, to, RenameMode::Replace)?;
        self.books.renamed(self.host, name, &new);
        Ok(())
    }

    fn unlink_own(&mut self, folder: Ino, name: &str) -> Done {
        self.close_own(name, false)?;
        self.member.fs.unlink(folder, last(name))?;
        self.books.becomes(self.host, name, None);
        self.books.handed_over(name);
        Ok(())
    }

    /// Closes all that programs have open.
    pub(crate) fn close_all(&mut self) -> Done {
        while !self.programs.held.is_empty() {
            self.drop_held()?;
        }
        while let Some(open) = self.programs.open.first() {
            let name = open.name.clone();
            self.close_own(&name, false)?;
        }
        Ok(())
    }

    /// Checks the files of this host alone behind a start, those that can be read where chunks may rot.
    pub(crate) async fn check_own(&mut self, may_rot: bool) -> Result<(), String> {
        for name in self.books.files_of(self.host) {
            let folder = self.look(Ino::ROOT, format!("own{}", self.host).as_bytes());
            let looked = folder.and_then(|folder| self.look(folder.ino, last(&name)));
            let content = match looked {
                Ok(there) => match self.content(there.ino).await {
                    Ok(Some(content)) => Some(content),
                    Ok(None) if may_rot => continue,
                    Ok(None) => return Err(format!("{name} cannot be read behind a start")),
                    Err(error) => return Err(format!("{name} behind a start: {error}")),
                },
                Err(FsError::NotFound) => None,
                Err(error) => return Err(format!("{name} behind a start: {error}")),
            };
            self.books.found(&name, content)?;
        }
        Ok(())
    }
}
