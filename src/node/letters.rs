//! The letters of those who decide the records of the chain, from one to the other or by way of a third.
//!
//! Any letter may be lost: what matters is said again. One that has no session with whom it is for goes
//! to two members that have one with this peer, and those hand it on once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Node;
use super::chain::Judge;
use super::session::Session;
use super::transfer::Transfer;
use crate::base::{DeviceId, PeerId};
use crate::log::LogError;
use crate::log::chain::{Letter, Message, Outcome};
use crate::transport::Priority;
use crate::wire::limits::{LETTERS_MAX, LINKS_BATCH_BYTES};
use crate::wire::{LetterBytes, Request};

/// Most letters that wait for one device; the oldest are lost where there are more.
const WAITING_MAX: usize = 2 * LETTERS_MAX;

/// How long the sending of letters may make no progress: by then they are said again.
const LETTER_TIMEOUT: Duration = Duration::from_secs(4);

/// Letters that are on their way out, by whom they are for.
#[derive(Debug, Default)]
pub(super) struct Post {
    waiting: BTreeMap<DeviceId, VecDeque<Parcel>>,
}

/// A letter as it travels.
#[derive(Debug, Clone)]
struct Parcel {
    letter: LetterBytes,
    /// Whether others may be asked to hand it on.
    may_relay: bool,
}

impl Post {
    /// Takes a letter; says whether somebody has to carry those for this device, as none does yet.
    fn put(&mut self, to: DeviceId, parcel: Parcel) -> bool {
        let is_new = !self.waiting.contains_key(&to);
        let waiting = self.waiting.entry(to).or_default();
        waiting.push_back(parcel);
        if waiting.len() > WAITING_MAX {
            waiting.pop_front();
        }
        is_new
    }

    /// Takes the next letters for a device out, as many as one message takes; `None` where there are no
    /// more, and nobody carries them any longer.
    fn take(&mut self, to: DeviceId) -> Option<Vec<Parcel>> {
        let waiting = self.waiting.get_mut(&to)?;
        if waiting.is_empty() {
            self.waiting.remove(&to);
            return None;
        }
        let (mut parcels, mut bytes) = (Vec::new(), 0);
        while let Some(parcel) = waiting.front()
            && parcels.len() < LETTERS_MAX
            && (parcels.is_empty() || bytes + parcel.letter.len() <= LINKS_BATCH_BYTES)
        {
            bytes += parcel.letter.len();
            parcels.extend(waiting.pop_front());
        }
        Some(parcels)
    }
}

impl Node {
    /// Says something to another device that decides records.
    pub(super) fn post(self: &Arc<Self>, to: DeviceId, message: Message) {
        let letter = Letter::sign(&self.config.identity, self.volume, to, message);
        self.put_letter(to, letter.to_bytes(), true);
    }

    fn put_letter(self: &Arc<Self>, to: DeviceId, letter: Vec<u8>, may_relay: bool) {
        let Some(letter) = LetterBytes::new(letter) else {
            return;
        };
        let parcel = Parcel { letter, may_relay };
        if self.post.lock().put(to, parcel) {
            self.tasks.spawn(Arc::clone(self).carry(to));
        }
    }

    /// Carries the letters for a device until there are no more.
    async fn carry(self: Arc<Self>, to: DeviceId) {
        loop {
            let Some(parcels) = self.post.lock().take(to) else {
                return;
            };
            let direct = self.session_of(to);
            let (via, parcels) = match direct {
                Some(session) => ([Some(session), None], parcels),
                None => {
                    let mut parcels = parcels;
                    parcels.retain(|parcel| parcel.may_relay);
                    (self.relays(), parcels)
                }
            };
            if parcels.is_empty() {
                continue;
            }
            let letters: Vec<LetterBytes> =
                parcels.into_iter().map(|parcel| parcel.letter).collect();
            // Side by side: one that is gone keeps no other from handing them on.
            let [one, other] = via;
            tokio::join!(
                self.say(one, letters.clone()),
                self.say(other, letters.clone())
            );
        }
    }

    async fn say(self: &Arc<Self>, via: Option<Arc<Session>>, letters: Vec<LetterBytes>) {
        let Some(session) = via else {
            return;
        };
        let request = Request::Letters { letters };
        let transfer = Transfer::new(Priority::Log);
        let said = self.exchange(&session, request, Bytes::new(), LETTER_TIMEOUT, &transfer);
        // One that is lost is said again by whom it is from.
        if let Err(error) = said.await {
            tracing::debug!(peer = %session.peer().short(), %error, "letters are lost");
        }
    }

    /// Returns the session with a device that answers.
    fn session_of(&self, device: DeviceId) -> Option<Arc<Session>> {
        let id = self.roster().author(device)?.id;
        let table = self.table.lock();
        let peer = table.peers.get(&id).filter(|peer| peer.up)?;
        peer.session.clone()
    }

    /// Chooses two members, those that there are, by whom letters may reach whom this peer does not.
    fn relays(&self) -> [Option<Arc<Session>>; 2] {
        let table = self.table.lock();
        let up = table.peers.values().filter(|peer| peer.up);
        let mut sessions: Vec<Arc<Session>> = up.filter_map(|peer| peer.session.clone()).collect();
        drop(table);
        std::array::from_fn(|_| {
            let at = self.rng.below(sessions.len().max(1) as u64);
            let at = usize::try_from(at).unwrap_or(0);
            (at < sessions.len()).then(|| sessions.swap_remove(at))
        })
    }

    /// Takes letters of those who decide records, for this device or to be handed on.
    pub(super) async fn take_letters(
        self: &Arc<Self>,
        session: &Arc<Session>,
        letters: Vec<LetterBytes>,
    ) {
        for bytes in letters {
            let bytes = bytes.into_inner();
            let letter = match Letter::from_bytes(&bytes) {
                Ok(letter) => letter,
                // Who says it is a newer program, or hands on what one says.
                Err(LogError::UnknownMessage { .. } | LogError::RecordTooNew { .. }) => {
                    session.note_newer();
                    continue;
                }
                Err(_) => {
                    self.strike(session, 1);
                    return;
                }
            };
            let roster = self.roster();
            let is_member = |device: DeviceId| {
                let author = roster.author(device);
                author.is_some_and(|author| roster.member(&author.id).is_some())
            };
            // Rosters differ for a moment where somebody is removed.
            if !is_member(letter.from) || !is_member(letter.to) {
                continue;
            }
            if DeviceId::from(self.id) != letter.to {
                if self.session_of(letter.to).is_some() {
                    self.put_letter(letter.to, bytes.to_vec(), false);
                }
                continue;
            }
            if matches!(letter.message, Message::Lock(_)) {
                self.read_lock_letter(letter, session.peer());
                continue;
            }
            let node = Arc::clone(self);
            let relay = session.peer();
            let read = move |judge: &Judge<'_>| node.read_letter(letter, relay, judge);
            if let Err(error) = self.step_chain(read).await {
                tracing::warn!(%error, "what is agreed on cannot be kept");
            }
        }
    }

    /// Says whether a letter is from whom it says.
    fn is_genuine(&self, letter: &Letter, relay: PeerId) -> bool {
        let roster = self.roster();
        let author = roster.author(letter.from);
        let is_genuine = author.is_some_and(|author| letter.is_from(&author.identity, self.volume));
        if !is_genuine {
            tracing::debug!(peer = %relay.short(), "a letter is not from whom it says");
        }
        is_genuine
    }

    fn read_lock_letter(&self, letter: Letter, relay: PeerId) {
        if self.is_genuine(&letter, relay)
            && let Message::Lock(word) = letter.message
        {
            self.locks.put(letter.from, word);
        }
    }

    fn read_letter(
        self: &Arc<Self>,
        letter: Letter,
        relay: PeerId,
        judge: &Judge<'_>,
    ) -> Result<Outcome, LogError> {
        if !self.is_genuine(&letter, relay) {
            return Ok(Outcome::default());
        }
        self.chain
            .receive(letter.from, letter.message, self.now(), judge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(byte: u8, len: usize) -> Parcel {
        Parcel {
            letter: LetterBytes::new(vec![byte; len]).unwrap(),
            may_relay: true,
        }
    }

    #[test]
    fn letters_wait_in_order_and_the_oldest_are_lost_where_they_are_many() {
        let (mut post, to) = (Post::default(), DeviceId(7));
        assert!(post.put(to, parcel(0, 1)), "somebody has to carry it");
        for byte in 1..=WAITING_MAX {
            let byte = u8::try_from(byte).unwrap();
            assert!(!post.put(to, parcel(byte, 1)), "somebody does");
        }
        let first = |parcels: &[Parcel]| parcels[0].letter.to_vec();
        let parcels = post.take(to).unwrap();
        assert_eq!((first(&parcels), parcels.len()), (vec![1], LETTERS_MAX));
        assert_eq!(post.take(to).unwrap().len(), LETTERS_MAX);
        assert!(post.take(to).is_none());
        assert!(post.put(to, parcel(0, 1)), "nobody carries any more");
    }

    #[test]
    fn one_message_has_as_many_bytes_of_letters_as_it_takes_and_one_letter_always() {
        let (mut post, to) = (Post::default(), DeviceId(7));
        for byte in 0..5 {
            post.put(to, parcel(byte, LINKS_BATCH_BYTES / 4));
        }
        assert_eq!(post.take(to).unwrap().len(), 4);
        assert_eq!(post.take(to).unwrap().len(), 1);
    }
}
