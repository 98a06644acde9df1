//! Members that write without having seen each other.

use super::*;
use dfs::fs::RenameMode;

impl World {
    /// Two meet, one does something with the conflict file, and a third arrives that had written, too.
    pub(super) async fn third_arrives(&mut self, stage: &Stage) -> Played {
        let [a, b, c] = stage.cast;
        self.groups(stage, &[&[a], &[b], &[c]]);
        let mut order = vec![a, b, c];
        while !order.is_empty() {
            let host = order.swap_remove(self.rng.below(order.len() as u64) as usize);
            self.put(stage, host, "base", &stage.text(&format!("of {host}")))?;
            self.moment().await;
        }
        let [of_a, of_b, of_c] = stage.cast.map(|host| stage.text(&format!("of {host}")));
        self.groups(stage, &[&[a, b], &[c]]);
        self.until_there(stage, &[a, b], &[&of_a, &of_b]).await?;
        let files = self.files(stage, a);
        let aside = files.into_iter().find(|(name, _)| name != b"base");
        let Some((name, (_, lost))) = aside else {
            return Err(Cut::Unheard("no conflict file"));
        };
        let winner = if lost == of_a { of_b } else { of_a };
        let by = [a, b][self.rng.below(2) as usize];
        let member = self.cluster.member(by);
        let folder = stage.folder(&member).ok_or(FsError::NotFound)?;
        match self.rng.below(4) {
            0 => {
                let (from, to) = ((folder, &name[..]), (folder, &b"kept"[..]));
                member.fs.rename(from, to, RenameMode::Replace)?;
                self.promise(stage, Owed::Named("kept", lost));
                self.promise(stage, Owed::Names(3));
            }
            1 => {
                member.fs.unlink(folder, &name)?;
                self.promise(stage, Owed::Gone(lost));
                self.promise(stage, Owed::Names(2));
            }
            2 => {
                let edited = stage.text("edited");
                write(&member, folder, &name, &edited)?;
                self.promise(stage, Owed::There(edited));
                self.promise(stage, Owed::Gone(lost));
                self.promise(stage, Owed::Names(3));
            }
            _ => {
                self.promise(stage, Owed::There(lost));
                self.promise(stage, Owed::Names(3));
            }
        }
        self.sync(by)?;
        self.promise(stage, Owed::There(winner));
        self.promise(stage, Owed::There(of_c));
        for host in stage.cast {
            self.sync(host)?;
        }
        Ok(())
    }

    /// Two make one file of one content each, and somebody who saw one of them, or both, removes it.
    pub(super) async fn equal(&mut self, stage: &Stage) -> Played {
        let [a, b, c] = stage.cast;
        let same = stage.text("the same");
        self.groups(stage, &[&[a, c], &[b]]);
        // Of one file that both had, or of two.
        let (name, others) = match self.rng.below(2) {
            0 => ("base", 0),
            _ => ("equal", 1),
        };
        let mut makers = [a, b];
        if self.rng.below(2) == 0 {
            makers.swap(0, 1);
        }
        for host in makers {
            self.put(stage, host, name, &same)?;
            self.sync(host)?;
            self.moment().await;
        }
        self.until_there(stage, &[c], &[&same]).await?;
        let member = self.cluster.member(c);
        let folder = stage.folder(&member).ok_or(FsError::NotFound)?;
        match self.rng.below(4) {
            0 => {
                // What is equal never conflicts.
                self.promise(stage, Owed::Named(name, same));
                self.promise(stage, Owed::Names(others + 1));
            }
            1 => {
                self.groups(stage, &[&[a, b, c]]);
                let both = |cluster: &Cluster| cluster.is_level(c, a) && cluster.is_level(c, b);
                for _ in 0..160 {
                    if both(&self.cluster) {
                        break;
                    }
                    sleep(LOOK_PAUSE).await;
                }
                sleep(LOOK_PAUSE * 4).await;
                if !both(&self.cluster) {
                    return Err(Cut::Unheard("the other maker"));
                }
                member.fs.unlink(folder, name.as_bytes())?;
                self.promise(stage, Owed::Gone(same));
                self.promise(stage, Owed::Names(others));
            }
            2 => {
                member.fs.unlink(folder, name.as_bytes())?;
                self.promise(stage, Owed::There(same));
            }
            _ => {
                let other = stage.text("another");
                write(&member, folder, b"other", &other)?;
                let (from, to) = ((folder, &b"other"[..]), (folder, name.as_bytes()));
                member.fs.rename(from, to, RenameMode::Replace)?;
                self.promise(stage, Owed::There(same));
                self.promise(stage, Owed::There(other));
            }
        }
        self.sync(c)
    }

    /// One is away for so long that nobody looks back any more to what it built on, unless it is waited for.
    pub(super) async fn long_apart(&mut self, stage: &Stage) -> Played {
        let [a, b, c] = stage.cast;
        let base = stage.text("base").repeat(30);
        self.put(stage, a, "base", &base)?;
        self.until_there(stage, &[b, c], &[&base]).await?;
        self.groups(stage, &[&[a, b], &[c]]);
        let mut built = base.clone();
        let patch = stage.text("built");
        built[100..100 + patch.len()].copy_from_slice(&patch);
        self.overwrite(stage, c, "base", 100, &patch)?;
        self.sync(c)?;
        let over = stage.text("over");
        self.put(stage, b, "base", &over)?;
        self.sync(b)?;
        // Records go on meanwhile.
        for round in 0..6u64 {
            self.put(stage, a, "more", &stage.text(&format!("round {round}")))?;
            self.look_away(30).await;
        }
        self.promise(stage, Owed::There(built));
        self.promise(stage, Owed::There(over));
        Ok(())
    }
}
