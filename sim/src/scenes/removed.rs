//! Members that are removed, and go on for a while.

use super::*;

impl World {
    /// Some are away from those who decide, and an admin among them removes another: what that one wrote
    /// last nobody else has, and those who decide hear of the removal when the admin is back.
    pub(super) async fn removed_elsewhere(&mut self, stage: &Stage) -> Played {
        let home = self.cluster.admin();
        if !self.removed.is_empty() || !self.can_act(home) {
            return Err(Cut::Unheard("nobody to remove"));
        }
        let others = stage.cast.into_iter().filter(|host| *host != home);
        let others: Vec<usize> = others.collect();
        let (by, gone) = (others[0], others[1]);
        self.cluster.heal();
        if !self.make_admin(by).await {
            return Err(Cut::Unheard("another admin"));
        }
        let (mut away, mut at_home) = (vec![by, gone], vec![home]);
        for host in (0..self.cluster.host_count()).filter(|host| ![by, gone, home].contains(host)) {
            match at_home.len() > 1 && self.rng.below(2) == 0 {
                true => away.push(host),
                false => at_home.push(host),
            }
        }
        self.cluster.partition(&at_home, &away);
        let last = stage.text("the last of the removed");
        self.put(stage, gone, "last", &last)?;
        self.sync(gone)?;
        self.until_there(stage, &[by], &[&last]).await?;
        for round in 0..1 + self.rng.below(3) {
            let text = stage.text(&format!("at home {round}"));
            self.put(stage, home, "home", &text)?;
            self.moment().await;
        }
        self.cluster.try_remove(by, gone).await;
        self.is_gone(gone);
        self.moment().await;
        if self.rng.below(3) > 0 {
            // Others come with what was decided at home by then, and those who decide are not there.
            self.cluster.heal();
            at_home.retain(|host| *host == home);
            let all = 0..self.cluster.host_count();
            let away: Vec<usize> = all.filter(|host| *host != home).collect();
            self.cluster.partition(&at_home, &away);
            self.look_away(20).await;
        }
        let back = stage.text("of who is back");
        let built = match self.rng.below(3) {
            // Nobody has anything from the removed but by who built on it.
            0 => [last, back].concat(),
            _ => back,
        };
        let name = if self.rng.below(2) == 0 {
            "last"
        } else {
            "back"
        };
        self.put(stage, by, name, &built)?;
        self.sync(by)?;
        self.cluster.heal();
        self.cluster.partition(&at_home, &[gone]);
        self.promises.push(Promise {
            hosts: vec![by],
            scene: stage.name.clone(),
            owed: Owed::There(built),
        });
        Ok(())
    }

    /// Who was removed goes on for a while, and somebody who has not heard of it builds on that.
    pub(super) async fn built_on_the_removed(&mut self, stage: &Stage) -> Played {
        let admin = self.cluster.admin();
        if !self.removed.is_empty() || !self.can_act(admin) {
            return Err(Cut::Unheard("nobody to remove"));
        }
        let others: Vec<usize> = stage
            .cast
            .into_iter()
            .filter(|host| *host != admin)
            .collect();
        let (gone, other) = (others[0], others[1]);
        // Three decide by then, where there are three.
        self.look_away(75).await;
        let mut side = vec![admin];
        side.extend(others.get(2));
        self.groups(stage, &[&side, &[gone, other]]);
        let first = stage.text("of the removed");
        self.put(stage, gone, "first", &first)?;
        self.until_there(stage, &[other], &[&first]).await?;
        let built = [first, stage.text("and more")].concat();
        if self.rng.below(2) == 0 {
            self.put(stage, other, "first", &built)?;
            self.sync(other)?;
        }
        if self.rng.below(2) == 0 {
            self.look_away(20).await;
        }
        let is_removed = self.cluster.try_remove(admin, gone).await.is_some();
        if is_removed {
            self.is_gone(gone);
        }
        for round in 0..3 {
            let text = stage.text(&format!("late {round}"));
            self.put(stage, gone, "late", &text)?;
            self.moment().await;
            if self.rng.below(3) == 0 {
                let content = stage.text(&format!("of one that stays {round}"));
                let name = if self.rng.below(2) == 0 {
                    "late"
                } else {
                    "own"
                };
                self.put(stage, other, name, &content)?;
                self.sync(other)?;
            }
        }
        // Some hear of what was relayed before they hear of the removal, others behind it.
        let rest = self.up();
        let rest: Vec<usize> = rest
            .into_iter()
            .filter(|host| !stage.cast.contains(host))
            .collect();
        self.cluster.heal();
        self.cluster.partition(&[admin], &[gone, other]);
        if let Some(third) = rest.first() {
            self.cluster.partition(&[admin], &[*third]);
            self.moment().await;
            self.moment().await;
        }
        let last = stage.text("the last of one that stays");
        self.put(stage, other, "last", &last)?;
        self.sync(other)?;
        self.promises.push(Promise {
            hosts: vec![other],
            scene: stage.name.clone(),
            owed: Owed::There(last),
        });
        Ok(())
    }
}
