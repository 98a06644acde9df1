//! Merges of several slices, that power cuts end in the middle.

use super::*;

/// A little more than a slice of a merge takes.
const OVER_A_SLICE: u64 = 560;

impl World {
    /// One makes more files than one slice of a merge takes; the power of another goes while it folds them.
    pub(super) async fn merged_in_pieces(&mut self, stage: &Stage) -> Played {
        let [a, b, c] = stage.cast;
        self.groups(stage, &[&[a], &[b, c]]);
        let member = self.cluster.member(a);
        let folder = stage.folder(&member).ok_or(FsError::NotFound)?;
        for number in 0..OVER_A_SLICE {
            let name = format!("{number}");
            let made =
                member
                    .fs
                    .mknod(Default::default(), folder, name.as_bytes(), 0o100_644, 0)?;
            member.fs.forget(made.attr.ino, 1);
        }
        self.sync(a)?;
        // Something that crosses.
        self.put(stage, b, "7", &stage.text("crosses"))?;
        self.sync(b)?;
        sleep(LOOK_PAUSE * 8).await;
        self.promise(stage, Owed::There(stage.text("crosses")));
        self.groups(stage, &[&[a, b, c]]);
        for _ in 0..3 {
            if !self.cluster.is_up(b) {
                break;
            }
            match self.rng.below(3) {
                0 => self.cluster.cut_power_after(b, 4 + self.rng.below(14)),
                _ => self.cluster.end_behind(b, 200),
            }
            sleep(LOOK_PAUSE * 8).await;
            if !self.cluster.is_dark(b) {
                break;
            }
            self.went_dark(b).await;
            self.start(b).await;
        }
        if self.cluster.is_up(b) {
            self.cluster.cut_power_after(b, u64::MAX);
        }
        Ok(())
    }
}
