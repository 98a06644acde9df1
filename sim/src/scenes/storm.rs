//! Power that goes while members agree on the order.

use super::*;

impl World {
    /// The power of one after the other goes as soon as it has said something of the order: what the others
    /// heard of that it knows behind its next start.
    pub(crate) async fn storm(&mut self) -> Option<String> {
        if self.rng.below(2) == 0 {
            // Three decide by then, where there are three.
            self.look_away(75).await;
        }
        let mut dark = Vec::new();
        for round in 0..4 {
            let fit: Vec<usize> = self
                .up()
                .into_iter()
                .filter(|host| self.can_act(*host))
                .collect();
            let Some(writer) = self.one_of(&fit).filter(|_| fit.len() > 1) else {
                break;
            };
            let name = format!("scene storm {writer}");
            let text = format!("{} {round}", self.scenes);
            // A member may only read.
            let _ = self
                .cluster
                .try_write(writer, name.as_bytes(), text.as_bytes());
            if let Some(host) = self.next_word(&fit).await {
                sleep(Duration::from_millis(self.rng.below(300))).await;
                self.look();
                self.went_dark(host).await;
                dark.push(host);
                self.look_away(10 * self.rng.below(4)).await;
                self.start(host).await;
            }
        }
        (!dark.is_empty()).then(|| format!("{dark:?}"))
    }

    /// Waits until one of some hosts has another newest record than before, or has promised something.
    async fn next_word(&mut self, hosts: &[usize]) -> Option<usize> {
        let word = |world: &Self, host: usize| {
            let chain = world.cluster.peer(host).node().chain();
            (chain.tip().number, chain.promised())
        };
        let before: Vec<_> = hosts
            .iter()
            .map(|host| (*host, word(self, *host)))
            .collect();
        for _ in 0..100 {
            sleep(Duration::from_millis(50)).await;
            self.notice().await;
            let spoke = before
                .iter()
                .filter(|(host, before)| self.cluster.is_up(*host) && word(self, *host) != *before);
            let spoke: Vec<usize> = spoke.map(|(host, _)| *host).collect();
            if let Some(host) = self.one_of(&spoke) {
                return Some(host);
            }
        }
        None
    }
}
