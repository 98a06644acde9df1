//! Checkpoints between peers: what members say of them is handed on by all, the same counts everywhere, and
//! a peer without keys lets go of what is below.
//!
//! A checkpoint counts when more than half of those said the same of it who can judge it: the members with
//! keys of which records up to it name anything. Who only came since
//! has nothing to say, as it may have nothing but that checkpoint. So it follows from the chain, the roster
//! and the words alone; and it stays what it is, whoever joins then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Node;
use super::error::NodeError;
use super::event::NodeEvent;
use super::roster::{Role, Roster};
use super::session::Session;
use super::sync::BATCH_TIMEOUT;
use crate::base::limits::RPC_TIMEOUT;
use crate::base::time::sleep;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::base::{DeviceId, PeerId};
use crate::log::LogError;
use crate::log::chain::Record;
use crate::log::checkpoint::{
    CHECKPOINT_DOMAIN, Checkpoint, LogStart, LogStarts, SignedCheckpoint, Tree,
};
use crate::log::checkpoints::Checkpoints;
use crate::wire::limits::CHECKPOINTS_MAX;
use crate::wire::{CheckpointBytes, RecordRef, Request, Response, StartsBytes};

/// How often it is looked at without news.
const LOOK_PAUSE: Duration = Duration::from_secs(10);

/// Longest pause after a list could not be had from anybody.
const FETCH_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How far a record may be dated ahead of the own clock that is signed: what goes for good by the time in it
/// does not go by a clock that is wrong.
const AHEAD_MAX_MS: u64 = 3_600_000;

/// The newest checkpoint that counts, and where those have its rows who say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Trees of its rows, each once. Who said one of them may be wrong about that.
    pub trees: Vec<Tree>,
}

/// What the node keeps of checkpoints.
pub(super) struct Pending {
    pub(super) words: Checkpoints,
    /// Whether it is to be judged again what counts.
    is_dirty: AtomicBool,
    /// Whether there are words on records that are not here yet.
    pub(super) is_open: AtomicBool,
    /// The newest record when a checkpoint was asked for here.
    asked: Mutex<Option<u64>>,
    /// Behind which checkpoint the logs begin here.
    started: Mutex<Option<Checkpoint>>,
    /// Lists that are wanted to judge what counts.
    wanted: Mutex<BTreeSet<[u8; 32]>>,
    pub(super) wake: Notify,
}

impl Pending {
    pub(super) fn new(words: Checkpoints) -> Self {
        Self {
            words,
            is_dirty: AtomicBool::new(true),
            is_open: AtomicBool::new(false),
            asked: Mutex::default(),
            started: Mutex::default(),
            wanted: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Says that what counts is to be judged again.
    pub(super) fn judge_again(&self) {
        self.is_dirty.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }
}

/// The worker that judges which checkpoint counts, and begins the logs there where there are no keys.
pub(super) struct Judging(pub(super) Arc<Node>);

impl Worker for Judging {
    fn job(&self) -> Job {
        Job::new("checkpoints", "judges from where on changes are needed")
            .again(LOOK_PAUSE, FETCH_PAUSE_MAX)
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        let node = &self.0;
        node.judge_checkpoints().await?;
        let wanted: Vec<[u8; 32]> = node.checkpoints.wanted.lock().iter().copied().collect();
        for hash in wanted {
            if node.starts_of(&hash).await.is_ok() {
                node.checkpoints.judge_again();
            }
        }
        node.judge_checkpoints().await?;
        let is_keyless = node.role() == Some(Role::Storage);
        if is_keyless && node.checkpoints.words.counted().is_some() {
            node.start_logs_at_checkpoint().await?;
        }
        Ok(Step::Idle("words on checkpoints"))
    }

    async fn wait(&mut self) {
        tokio::select! {
            biased;
            () = self.0.checkpoints.wake.notified() => {}
            () = sleep(LOOK_PAUSE) => {}
        }
    }
}

impl Node {
    /// Returns the newest checkpoint of this peer's chain that counts.
    pub fn checkpoint(&self) -> Option<Counted> {
        let checkpoint = self.checkpoints.words.counted()?;
        if !self.chain.has(checkpoint.record).unwrap_or(false) {
            return None;
        }
        let words = self.checkpoints.words.words().into_iter();
        let mut trees: Vec<Tree> = Vec::new();
        for word in words.filter(|word| word.checkpoint == checkpoint) {
            if !trees.contains(&word.tree) {
                trees.push(word.tree);
            }
        }
        Some(Counted { checkpoint, trees })
    }

    /// Returns where the logs go on behind that one.
    ///
    /// # Errors
    ///
    /// [`NodeError::NotConnected`] where none counts, or nobody is there who has the list; those of
    /// [`Node::start_logs_at_checkpoint`].
    pub async fn checkpoint_starts(self: &Arc<Self>) -> Result<LogStarts, NodeError> {
        let counted = self.checkpoint();
        let counted = counted.ok_or(NodeError::NotConnected { peer: self.id })?;
        self.starts_of(&counted.checkpoint.logs).await
    }

    /// Says whether this member is to make the checkpoint at a record: the newest of the chain, or one on
    /// which others have said something and that does not count yet. Who was away for long makes none of the
    /// many that it folds past.
    pub fn wants_checkpoint(&self, record: RecordRef) -> bool {
        let words = self.checkpoints.words.words();
        let counted = self.checkpoints.words.counted();
        let is_old = counted.is_some_and(|counted| counted.record.number >= record.number);
        let device = DeviceId::from(self.id);
        let mut of_it = words.iter().filter(|word| word.checkpoint.record == record);
        let is_said = of_it.clone().any(|word| word.device == device);
        let is_open = self.chain.marked() <= record.number || of_it.next().is_some();
        self.role().is_some_and(Role::reads) && !is_old && !is_said && is_open
    }

    /// Returns what members say of checkpoints, as far as it is kept.
    pub fn checkpoint_words(&self) -> Vec<SignedCheckpoint> {
        self.checkpoints.words.words()
    }

    /// Says to all, for good, that this member has the rows of a checkpoint, where they lie, and where the
    /// logs go on behind it. Durable on return. Says whether it did: not of a record that is none, or of
    /// another chain, or dated an hour ahead of this clock; nor against what it said before.
    ///
    /// # Errors
    ///
    /// Those of the store, and [`LogError::MalformedRecord`] where the list is not that of the checkpoint.
    pub fn sign_checkpoint(
        &self,
        checkpoint: Checkpoint,
        tree: Tree,
        starts: &LogStarts,
    ) -> Result<bool, NodeError> {
        if starts.hash() != checkpoint.logs {
            let what = "the starts of logs, which are not those of the checkpoint";
            return Err(LogError::MalformedRecord { what }.into());
        }
        let number = checkpoint.record.number;
        let record = self.chain.get(number)?;
        let is_ours = |record: &Record| {
            let latest = self.clock.wall_ms().saturating_add(AHEAD_MAX_MS);
            record.reference() == checkpoint.record
                && record.is_checkpoint
                && record.time_ms <= latest
        };
        let device = DeviceId::from(self.id);
        let reads = self.role().is_some_and(Role::reads);
        if !record.as_ref().is_some_and(is_ours) || !reads {
            return Ok(false);
        }
        let words = &self.checkpoints.words;
        let before = words.words().into_iter();
        let mut before =
            before.filter(|word| word.device == device && word.checkpoint.record.number == number);
        if let Some(before) = before.next() {
            return Ok(before.checkpoint == checkpoint);
        }
        let signed = SignedCheckpoint::signed_bytes(self.volume, device, &checkpoint, &tree);
        let signature = self.config.identity.sign(CHECKPOINT_DOMAIN, &signed);
        words.put_starts(starts)?;
        words.add(vec![SignedCheckpoint {
            device,
            checkpoint,
            tree,
            signature,
        }])?;
        self.tell_checkpoints();
        Ok(true)
    }

    /// Asks whoever leads to make a record that is a checkpoint, soon; where the newest is one, once there
    /// is another behind it.
    pub fn ask_checkpoint(&self) {
        *self.checkpoints.asked.lock() = Some(self.chain.tip().number);
        self.chain_wake.notify_one();
        for session in self.table.lock().sessions() {
            session.pulse_wake.notify_one();
        }
    }

    /// Says whether the newest record is a checkpoint: there is nothing behind it for another one.
    pub fn is_at_checkpoint(&self) -> bool {
        self.chain.marked() == self.chain.tip().number
    }

    /// Says whether this peer waits for a checkpoint that it asked for.
    pub(super) fn asks_checkpoint(&self) -> bool {
        let mut asked = self.checkpoints.asked.lock();
        *asked = asked.filter(|tip| self.chain.marked() <= *tip);
        asked.is_some()
    }

    /// Says whether any peer that is here waits for one.
    pub(super) fn is_checkpoint_asked(&self) -> bool {
        let table = self.table.lock();
        let mut up = table.peers.values().filter(|peer| peer.up);
        let is_asked = up.any(|peer| peer.asks_checkpoint);
        drop(table);
        is_asked || self.asks_checkpoint()
    }

    /// Returns the newest checkpoint of which members say different things, and who does: one of them has
    /// other rows than all should have, or runs another program.
    pub fn checkpoints_differ(&self) -> Option<(u64, Vec<DeviceId>)> {
        let roster = self.roster();
        let mut said: BTreeMap<u64, BTreeMap<Checkpoint, Vec<DeviceId>>> = BTreeMap::new();
        for word in self.checkpoints.words.words() {
            let record = word.checkpoint.record;
            let is_ours = self.chain.has(record).unwrap_or(false);
            if is_ours && reads(&roster, word.device) {
                let said = said.entry(record.number).or_default();
                said.entry(word.checkpoint).or_default().push(word.device);
            }
        }
        let differing = said.into_iter().rev().find(|(_, said)| said.len() > 1);
        let (number, said) = differing?;
        Some((number, said.into_values().flatten().collect()))
    }

    /// Lets the logs begin here behind the newest checkpoint that counts, as soon as the list is here; says
    /// whether they do. A member that has a key calls it only once it has folded that, or is about to take
    /// the rows over.
    ///
    /// # Errors
    ///
    /// [`NodeError::NotConnected`] or [`NodeError::NoAnswer`] where nobody hands the list over, and those of
    /// the store.
    pub async fn start_logs_at_checkpoint(self: &Arc<Self>) -> Result<bool, NodeError> {
        let Some(Counted { checkpoint, .. }) = self.checkpoint() else {
            return Ok(false);
        };
        if *self.checkpoints.started.lock() == Some(checkpoint) {
            return Ok(true);
        }
        let starts = self.starts_of(&checkpoint.logs).await?;
        let node = Arc::clone(self);
        let start = move || {
            // Whatever was signed: what goes is what the chain names.
            let mut named = node.chain.named_at(checkpoint.record.number)?;
            let mut with_segments = starts.iter().filter(|start| start.seg_no > 0);
            let mut is_named = |start: &LogStart| named.remove(&start.log) == Some(start.seg_no);
            if !with_segments.all(&mut is_named) || !named.is_empty() {
                let what = "the starts of logs, which are not those that the chain names";
                return Err(LogError::MalformedRecord { what });
            }
            node.log.start_at(&starts)?;
            node.chain.hold()
        };
        let started = self.config.pool.call(start).await;
        started.ok_or(NodeError::ShutDown)??;
        *self.checkpoints.started.lock() = Some(checkpoint);
        // What lies behind can be pulled now, and is told of.
        self.chain_grew();
        for session in self.table.lock().sessions() {
            session.log_wake.notify_one();
        }
        Ok(true)
    }

    /// Returns the list of a hash, from here or from whoever has it.
    async fn starts_of(self: &Arc<Self>, hash: &[u8; 32]) -> Result<LogStarts, NodeError> {
        if let Some(starts) = self.checkpoints.words.starts(hash)? {
            return Ok(starts);
        }
        let mut failed = NodeError::NotConnected { peer: self.id };
        for peer in self.connected() {
            match self.ask_starts(peer, hash).await {
                Ok(Some(starts)) => {
                    self.checkpoints.words.put_starts(&starts)?;
                    return Ok(starts);
                }
                Ok(None) => failed = NodeError::NoAnswer { peer },
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn ask_starts(
        self: &Arc<Self>,
        peer: PeerId,
        hash: &[u8; 32],
    ) -> Result<Option<LogStarts>, NodeError> {
        let request = Request::Starts { hash: *hash };
        let (response, _) = self
            .request(peer, request, Bytes::new(), BATCH_TIMEOUT)
            .await?;
        let Response::Starts { starts } = response else {
            return Err(NodeError::Protocol { peer });
        };
        let starts = starts.map(|starts| LogStarts::from_bytes(&starts));
        match starts.transpose() {
            Ok(starts) if starts.as_ref().is_none_or(|of| of.hash() == *hash) => Ok(starts),
            _ => Err(NodeError::Protocol { peer }),
        }
    }

    /// Returns the list of a hash, where it is here.
    pub(super) async fn answer_starts(self: &Arc<Self>, hash: [u8; 32]) -> Response {
        let node = Arc::clone(self);
        let read = move || node.checkpoints.words.starts(&hash);
        let starts = match self.config.pool.call(read).await {
            Some(Ok(starts)) => starts,
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot read where logs begin");
                None
            }
            None => None,
        };
        let starts = starts.and_then(|starts| StartsBytes::new(starts.to_bytes()));
        Response::Starts { starts }
    }

    /// Hands over all words to a peer that knows others, and takes its own.
    pub(super) async fn exchange_words(self: &Arc<Self>, session: &Arc<Session>) {
        let words = self.encoded_words();
        let request = Request::Checkpoints { words };
        let answer = session.request(&request, Bytes::new(), RPC_TIMEOUT).await;
        if let Ok((Response::Checkpoints { words }, _)) = answer {
            self.take_words(session, words).await;
        }
    }

    /// Takes the words of a peer, and answers with those that are here.
    pub(super) async fn answer_words(
        self: &Arc<Self>,
        session: &Arc<Session>,
        words: Vec<CheckpointBytes>,
    ) -> Response {
        self.take_words(session, words).await;
        let words = self.encoded_words();
        Response::Checkpoints { words }
    }

    fn encoded_words(&self) -> Vec<CheckpointBytes> {
        let mut words = self.checkpoints.words.words();
        words.sort_by_key(|word| std::cmp::Reverse(word.checkpoint.record.number));
        let words = words.into_iter().take(CHECKPOINTS_MAX);
        words
            .filter_map(|word| CheckpointBytes::new(word.to_bytes()))
            .collect()
    }

    async fn take_words(self: &Arc<Self>, session: &Arc<Session>, words: Vec<CheckpointBytes>) {
        let node = Arc::clone(self);
        let take = move || {
            let roster = node.roster();
            let mut taken = Taken::default();
            let mut good = Vec::new();
            for bytes in words {
                match SignedCheckpoint::from_bytes(&bytes) {
                    Ok(word) if node.checkpoints.words.knows(&word) => {}
                    // Who is no member any more, or not known as one yet: no offence.
                    Ok(word) if !reads(&roster, word.device) => {}
                    Ok(word) if is_signed(&roster, node.volume, &word) => good.push(word),
                    Err(LogError::RecordTooNew { .. }) => taken.is_newer = true,
                    Ok(_) | Err(_) => taken.is_bad = true,
                }
            }
            taken.any = node.checkpoints.words.add(good)?;
            Ok::<_, LogError>(taken)
        };
        match self.config.pool.call(take).await {
            Some(Ok(taken)) => {
                if taken.is_bad {
                    self.strike(session, 1);
                }
                if taken.is_newer {
                    session.note_newer();
                }
                if taken.any {
                    self.tell_checkpoints();
                }
            }
            Some(Err(error)) => tracing::warn!(%error, "words on checkpoints cannot be kept"),
            None => {}
        }
    }

    /// Judges what counts again, and tells others of new words.
    fn tell_checkpoints(&self) {
        self.checkpoints.judge_again();
        for session in self.table.lock().sessions() {
            session.pulse_wake.notify_one();
        }
    }

    /// Judges which checkpoint counts, where anything is new since it was.
    async fn judge_checkpoints(self: &Arc<Self>) -> Result<(), NodeError> {
        if !self.checkpoints.is_dirty.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let node = Arc::clone(self);
        let judged = self.config.pool.call(move || node.judge_words()).await;
        if let Err(error) = judged.ok_or(NodeError::ShutDown)? {
            self.checkpoints.is_dirty.store(true, Ordering::Relaxed);
            return Err(error.into());
        }
        Ok(())
    }

    fn judge_words(&self) -> Result<(), LogError> {
        let roster = self.roster();
        let words = &self.checkpoints.words;
        words.keep_of(&|device| reads(&roster, device))?;
        let mut counted = words.counted();
        if let Some(lost) = counted
            && !self.chain.has(lost.record)?
            && self.chain.tip().number >= lost.record.number
        {
            // It was counted on a chain that this peer has left since.
            words.count_none()?;
            counted = None;
        }
        let begin = counted.map_or(0, |counted| counted.record.number);
        let mut said: BTreeMap<Checkpoint, BTreeSet<DeviceId>> = BTreeMap::new();
        let mut is_open = false;
        for word in words.words() {
            let number = word.checkpoint.record.number;
            if number <= begin {
                continue;
            }
            let record = self.chain.get(number)?;
            let is_mark = |record: &Record| {
                record.is_checkpoint && record.reference() == word.checkpoint.record
            };
            match record {
                Some(record) if is_mark(&record) => {
                    said.entry(word.checkpoint).or_default().insert(word.device);
                }
                Some(_) => {}
                None => is_open = true,
            }
        }
        let mut wanted = BTreeSet::new();
        let mut newest = None;
        for (checkpoint, signers) in &said {
            let who = self.judges_of(checkpoint, &roster)?;
            let Some(who) = who else {
                // One that is here and does not say it will not say it another time.
                if words.starts(&checkpoint.logs)?.is_none() {
                    wanted.insert(checkpoint.logs);
                }
                continue;
            };
            // Who wrote nothing has no say: else who may only read took from all what led there.
            let signed = signers.intersection(&who).count();
            let is_newest = |of: &&Checkpoint| of.record.number < checkpoint.record.number;
            if signed > who.len() / 2 && newest.as_ref().is_none_or(is_newest) {
                newest = Some(checkpoint);
            }
        }
        *self.checkpoints.wanted.lock() = wanted;
        self.checkpoints.is_open.store(is_open, Ordering::Relaxed);
        if let Some(newest) = newest {
            let number = newest.record.number;
            tracing::info!(number, "a checkpoint counts");
            words.count(*newest)?;
            self.chain.settle_at(number);
            self.emit(NodeEvent::Checkpoint { number });
            for session in self.table.lock().sessions() {
                session.pulse_wake.notify_one();
            }
        }
        Ok(())
    }

    /// Returns the members with keys of which records up to a checkpoint name anything, `None` where it is
    /// not known of a log whose it is.
    fn judges_of(
        &self,
        checkpoint: &Checkpoint,
        roster: &Roster,
    ) -> Result<Option<BTreeSet<DeviceId>>, LogError> {
        let mut starts = None;
        let mut judges = BTreeSet::new();
        for log in self.chain.named_at(checkpoint.record.number)?.into_keys() {
            let mut author = self.log.author(log);
            if author.is_none() {
                if starts.is_none() {
                    starts = self.checkpoints.words.starts(&checkpoint.logs)?;
                }
                // The name of a log proves whose it is.
                let known = starts.iter().flat_map(|starts| starts.iter());
                author = known.clone().find(|of| of.log == log).map(|of| of.device);
            }
            match author {
                Some(author) if reads(roster, author) => {
                    judges.insert(author);
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
        Ok(Some(judges))
    }

    /// Says whether all members that can judge a record of another chain at all say that it is a checkpoint.
    pub(super) fn counts_elsewhere(&self, record: &Record, roster: &Roster) -> bool {
        if !record.is_checkpoint {
            return false;
        }
        let mut said: BTreeMap<Checkpoint, usize> = BTreeMap::new();
        for word in self.checkpoints.words.words() {
            if word.checkpoint.record == record.reference() && reads(roster, word.device) {
                *said.entry(word.checkpoint).or_default() += 1;
            }
        }
        let with_keys = roster.members().filter(|member| member.role.reads());
        let most = said.into_values().max().unwrap_or(0);
        most > with_keys.count() / 2
    }
}

/// What came of words that a peer handed over.
#[derive(Default)]
struct Taken {
    any: bool,
    is_bad: bool,
    is_newer: bool,
}

/// Says whether a device is a member that has the keys.
fn reads(roster: &Roster, device: DeviceId) -> bool {
    let member = roster.author(device);
    let role = member.and_then(|member| roster.role_of(&member.id));
    role.is_some_and(Role::reads)
}

fn is_signed(roster: &Roster, volume: crate::base::VolumeId, word: &SignedCheckpoint) -> bool {
    let signed = SignedCheckpoint::signed_bytes(volume, word.device, &word.checkpoint, &word.tree);
    let member = roster.author(word.device);
    member.is_some_and(|member| {
        let identity = &member.identity;
        identity
            .verify(CHECKPOINT_DOMAIN, &signed, &word.signature)
            .is_ok()
    })
}
