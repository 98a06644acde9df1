//! Programs that have files open while others write them, and machines that end in the middle of it.

use super::*;
use dfs::base::Rng;
use dfs::fs::{Caller, OpenFlags, ReadPlan, WriteFlags};

/// Adds to a file, as a log is written.
fn append(member: &Member, folder: Ino, name: &[u8], bytes: &[u8]) -> Played {
    let fs = &member.fs;
    let ino = fs.lookup(folder, name)?.attr.ino;
    let flags = OpenFlags {
        write: true,
        append: true,
        ..OpenFlags::default()
    };
    let fh = fs.open(Caller::default(), ino, flags)?.fh;
    let written = fs.write(ino, fh, 0, bytes, WriteFlags::default());
    let flushed = fs.flush(ino, fh);
    fs.release(ino, fh)?;
    fs.forget(ino, 1);
    written?;
    Ok(flushed?)
}

impl World {
    /// Writes into a file of the folder.
    pub(super) fn overwrite(
        &self,
        stage: &Stage,
        host: usize,
        name: &str,
        at: u64,
        bytes: &[u8],
    ) -> Played {
        let member = self.cluster.member(host);
        let fs = &member.fs;
        let folder = stage.folder(&member).ok_or(FsError::NotFound)?;
        let ino = fs.lookup(folder, name.as_bytes())?.attr.ino;
        let flags = OpenFlags {
            write: true,
            ..OpenFlags::default()
        };
        let fh = fs.open(Caller::default(), ino, flags)?.fh;
        let written = fs.write(ino, fh, at, bytes, WriteFlags::default());
        let flushed = fs.flush(ino, fh);
        fs.release(ino, fh)?;
        fs.forget(ino, 1);
        written?;
        Ok(flushed?)
    }

    /// A program finds in an open file what it wrote, whatever others made of the name meanwhile.
    pub(super) async fn held_open(&mut self, stage: &Stage) -> Played {
        let [a, b, c] = stage.cast;
        self.groups(stage, &[&[a, c], &[b]]);
        let is_first = self.rng.below(2) == 0;
        let of_b = stage.text("of another");
        if is_first {
            self.other_takes(stage, b, &of_b)?;
            self.moment().await;
        }
        let member = self.cluster.member(a);
        let fs = member.fs.clone();
        let folder = stage.folder(&member).ok_or(FsError::NotFound)?;
        let ino = fs.lookup(folder, b"base")?.attr.ino;
        let flags = OpenFlags {
            read: true,
            write: true,
            truncate: self.rng.below(2) == 0,
            ..OpenFlags::default()
        };
        let fh = fs.open(Caller::default(), ino, flags)?.fh;
        let read = || match fs.read(ino, fh, 0, 1 << 20) {
            Ok(ReadPlan::Ready(pieces)) => Some(pieces.concat()),
            _ => None,
        };
        let mut mine = if flags.truncate {
            Vec::new()
        } else {
            read().unwrap_or_default()
        };
        for round in 0..2 {
            let more = stage.text(&format!("held {round}"));
            fs.write(ino, fh, mine.len() as u64, &more, WriteFlags::default())?;
            mine.extend(more);
            if self.rng.below(2) == 0 || round == 1 {
                fs.flush(ino, fh)?;
            }
            self.moment().await;
        }
        if !is_first {
            self.other_takes(stage, b, &of_b)?;
        }
        self.sync(a)?;
        self.sync(b)?;
        self.groups(stage, &[&[a, b, c]]);
        self.until_there(stage, &[a], &[&of_b]).await?;
        for round in 0..3 {
            assert!(
                !self.cluster.members_up().contains(&a) || read().as_ref() == Some(&mine),
                "{}: host{a} finds {:?} in the file that it has open, not {:?}",
                stage.name,
                read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
                String::from_utf8_lossy(&mine)
            );
            let more = stage.text(&format!("held on {round}"));
            fs.write(ino, fh, mine.len() as u64, &more, WriteFlags::default())?;
            mine.extend(more);
            self.moment().await;
        }
        fs.flush(ino, fh)?;
        fs.release(ino, fh)?;
        fs.forget(ino, 1);
        self.sync(a)?;
        self.promise(stage, Owed::There(mine));
        self.promise(stage, Owed::There(of_b));
        Ok(())
    }

    /// Another member takes the name of a file: by its content, or with another file.
    fn other_takes(&self, stage: &Stage, host: usize, content: &[u8]) -> Played {
        if self.rng.below(2) == 0 {
            return self.put(stage, host, "base", content);
        }
        self.put(stage, host, "beside", content)?;
        let member = self.cluster.member(host);
        let folder = stage.folder(&member).ok_or(FsError::NotFound)?;
        let (from, to) = ((folder, &b"beside"[..]), (folder, &b"base"[..]));
        let mode = dfs::fs::RenameMode::Replace;
        Ok(member.fs.rename(from, to, mode)?)
    }

    /// What was synced is there behind a power cut.
    pub(super) async fn acknowledged(&mut self, stage: &Stage) -> Played {
        let host = stage.cast[0];
        let content = stage.text("synced");
        let member = self.cluster.member(host);
        let fs = member.fs.clone();
        let folder = stage.folder(&member).ok_or(FsError::NotFound)?;
        let flags = OpenFlags {
            write: true,
            ..OpenFlags::default()
        };
        let made = fs.create(Caller::default(), folder, b"synced", 0o644, flags)?;
        let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
        fs.write(ino, fh, 0, &content, WriteFlags::default())?;
        fs.fsync(ino, fh)?;
        drop((fs, member));
        self.went_dark(host).await;
        self.start(host).await;
        self.promise(stage, Owed::There(content));
        Ok(())
    }

    /// A folder is put back as it was while what its programs did was in the journal alone: the next start
    /// seals once more what others have by now.
    pub(super) async fn put_back_at_once(&mut self, stage: &Stage) -> Played {
        let host = match stage.cast[1] == self.cluster.admin() {
            true => stage.cast[2],
            false => stage.cast[1],
        };
        if self.was_put_back || self.copy.is_some() {
            return Err(Cut::Unheard("another copy"));
        }
        let count = 2 + self.rng.below(4) as usize;
        let mut made = Vec::new();
        for number in 0..count {
            let content = stage.text(&format!("copied {number}"));
            self.put(stage, host, &format!("copied {number}"), &content)?;
            made.push(content);
        }
        // What is done twice has another name, or is there twice.
        let member = self.cluster.member(host);
        let folder = stage.folder(&member).ok_or(FsError::NotFound)?;
        let added = stage.text("added");
        append(&member, folder, b"base", &added)?;
        made.push([&b"in the beginning"[..], &added].concat());
        let (from, to) = ((folder, &b"copied 0"[..]), (folder, &b"moved"[..]));
        member.fs.rename(from, to, dfs::fs::RenameMode::Replace)?;
        self.sync(host)?;
        let copy = self
            .cluster
            .copy_of(host, &Rng::from_seed(self.rng.below(u64::MAX)));
        let contents: Vec<&[u8]> = made.iter().map(Vec::as_slice).collect();
        self.until_there(stage, &[stage.cast[0]], &contents).await?;
        self.put_back(host, copy).await;
        self.promises.push(Promise {
            hosts: Vec::new(),
            scene: stage.name.clone(),
            owed: Owed::Names(1 + count),
        });
        self.promises
            .extend(made.into_iter().map(|content| Promise {
                hosts: Vec::new(),
                scene: stage.name.clone(),
                owed: Owed::There(content),
            }));
        Ok(())
    }
}
