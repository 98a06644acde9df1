//! Empty tables that are filled while nobody sees it: each row is written once, where it stays.
//!
//! What few rows the tables have lies in the layer meanwhile, and all others go on with that. One small batch says
//! that it is over, and what was filled in counts from there on. A crash before, or giving up, leaves what lay in
//! the layer, back in its tables.

use super::*;

/// The row that says that tables are filled, and which: their tags. No table has the tag of its key.
pub(super) const FILL_KEY: &[u8] = &[0, 1];

/// Rows that others see meanwhile, in order.
type Seen = Vec<(Vec<u8>, Vec<u8>)>;

/// Tables with more rows than that are not filled.
const FEW: usize = 64;

/// Bytes of keys that go in a step where the disk is full.
const SMALL_STEP_BYTES: usize = 1 << 10;

/// Tables that are filled.
#[derive(Debug)]
pub struct Filling {
    rows: Arc<LayeredRows>,
}

impl LayeredRows {
    /// Begins to fill tables; `None` where they have more than a few rows, or rows lie in a layer.
    pub fn fill(self: &Arc<Self>, tables: &[Table]) -> Result<Option<Filling>, StoreError> {
        // What one that broke off left takes room that this one needs.
        if self.is_filling() {
            self.give_up_filling()?;
        }
        if self.mode.load(Ordering::SeqCst) != IDLE {
            return Ok(None);
        }
        self.clear()?;
        let _order = self.order.write();
        let (mut begin, mut taken) = (Batch::new(), Batch::new());
        for table in tables.iter().copied() {
            let mut visit = |key: &[u8], value: &[u8]| {
                if (self.is_layered)(table, key) {
                    begin.put(Table::Layer, stored_key(table, key), encoded(Some(value)));
                    taken.delete(table, key);
                }
                match begin.len() > FEW {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            self.inner.scan(table, &[], None, &mut visit)?;
        }
        if begin.len() > FEW {
            return Ok(None);
        }
        let tags: Vec<u8> = tables.iter().map(|table| table.tag()).collect();
        begin.put(Table::Layer, FILL_KEY, tags);
        self.inner.commit(begin)?;
        // Whoever looks meanwhile finds them here or there.
        self.mode.store(FILLED, Ordering::SeqCst);
        self.inner.commit(taken)?;
        let rows = Arc::clone(self);
        Ok(Some(Filling { rows }))
    }

    /// Says whether tables are being filled, or were when it broke off.
    pub(super) fn is_filling(&self) -> bool {
        self.mode.load(Ordering::SeqCst) == FILLED
    }

    /// Empties the tables that were filled, some rows at a time, and brings back what they had.
    pub(super) fn give_up_filling(&self) -> Result<(), StoreError> {
        let tags = self.inner.get(Table::Layer, FILL_KEY)?;
        for table in tags
            .iter()
            .flatten()
            .filter_map(|tag| Table::from_tag(*tag))
        {
            let mut from = Vec::new();
            let mut most = STEP_BYTES;
            loop {
                let (mut step, mut bytes, mut next) = (Batch::new(), 0, None);
                let mut visit = |key: &[u8]| {
                    if bytes >= most {
                        next = Some(key.to_vec());
                        return ControlFlow::Break(());
                    }
                    if (self.is_layered)(table, key) {
                        bytes += key.len();
                        step.delete(table, key);
                    }
                    ControlFlow::Continue(())
                };
                self.inner.scan_keys(table, &from, None, &mut visit)?;
                match self.inner.commit(step) {
                    // A full disk takes what is small.
                    Err(StoreError::Full) if most > SMALL_STEP_BYTES => most = SMALL_STEP_BYTES,
                    done => {
                        done?;
                        match next {
                            Some(next) => from = next,
                            None => break,
                        }
                    }
                }
            }
        }
        let order = self.order.write();
        let mut back = Batch::new();
        let mut visit = |stored: &[u8], value: &[u8]| {
            if let Some((table, key)) = parted(stored)
                && let Some(value) = decoded(value)
            {
                back.put(table, key, value);
            }
            ControlFlow::Continue(())
        };
        self.inner.scan(Table::Layer, FIRST_KEY, None, &mut visit)?;
        self.end_filling(back)?;
        drop(order);
        self.clear()
    }

    /// Says in a batch that tables are filled no more. What lies in the layer goes only when nobody looks there any
    /// more.
    fn end_filling(&self, mut batch: Batch) -> Result<(), StoreError> {
        batch.delete(Table::Layer, FILL_KEY);
        self.inner.commit(batch)?;
        self.mode.store(IDLE, Ordering::SeqCst);
        Ok(())
    }

    /// Returns what others see of a row meanwhile: `None` where tables are filled no more.
    pub(super) fn get_beside_filling(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<Option<Vec<u8>>>, StoreError> {
        let value = self.layer(table, key)?.flatten();
        Ok(self.is_filling().then_some(value))
    }

    /// Returns the rows that others see of a range meanwhile, in order: `None` where tables are filled no more.
    pub(super) fn rows_beside_filling(
        &self,
        (table, start, end): (Table, &[u8], Option<&[u8]>),
    ) -> Result<Option<Seen>, StoreError> {
        let mut found = Vec::new();
        let mut below = |key: &[u8], value: &[u8]| {
            if !(self.is_layered)(table, key) {
                found.push((key.to_vec(), value.to_vec()));
            }
            ControlFlow::Continue(())
        };
        self.inner.scan(table, start, end, &mut below)?;
        let (from, to) = super::super::batch::stored_range(table, start, end);
        let mut above = |stored: &[u8], value: &[u8]| {
            if let (Some((_, key)), Some(value)) = (parted(stored), decoded(value)) {
                found.push((key.to_vec(), value.to_vec()));
            }
            ControlFlow::Continue(())
        };
        self.inner
            .scan(Table::Layer, &from, Some(&to), &mut above)?;
        found.sort_unstable();
        Ok(self.is_filling().then_some(found))
    }

    /// Returns a batch of others as it goes to what they see.
    pub(super) fn batch_beside_filling(&self, batch: &Batch) -> Batch {
        let mut beside = Batch::new();
        for (table, key, value) in batch.iter() {
            let is_layered = (self.is_layered)(table, key);
            match value {
                Some(value) if is_layered => {
                    beside.put(Table::Layer, stored_key(table, key), encoded(Some(value)));
                }
                None if is_layered => beside.delete(Table::Layer, stored_key(table, key)),
                Some(value) => beside.put(table, key, value),
                None => beside.delete(table, key),
            }
        }
        beside
    }
}

impl Filling {
    /// Returns where to put the rows.
    pub fn rows(&self) -> &dyn Rows {
        &*self.rows.inner
    }

    /// Says that what was put there counts, in the place of all that was there.
    pub fn end(self) -> Result<(), StoreError> {
        let order = self.rows.order.write();
        self.rows.end_filling(Batch::new())?;
        drop(order);
        if let Err(error) = self.rows.clear() {
            tracing::warn!(%error, "what others saw meanwhile goes at the next opening");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::Rng;
    use crate::store::memory::MemoryDisk;

    const TABLES: &[Table] = &[Table::Inode, Table::Dirent];

    /// Rows of these tables, but those with a key of one byte.
    fn open(disk: &MemoryDisk) -> Arc<LayeredRows> {
        let is_layered = |table, key: &[u8]| TABLES.contains(&table) && key.len() > 1;
        let rows = LayeredRows::open(disk.store().rows, is_layered).unwrap();
        if !rows.is_turned() {
            let _ = rows.abandon();
        }
        Arc::new(rows)
    }

    type Model = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

    fn put(rows: &dyn Rows, model: &mut Model, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        for table in TABLES {
            batch.put(*table, key, value);
            model.insert((table.tag(), key.to_vec()), value.to_vec());
        }
        rows.commit(batch)
    }

    fn seen(rows: &dyn Rows) -> Model {
        let mut model = Model::new();
        for table in TABLES {
            let (mut there, mut back, mut keys) = (Vec::new(), Vec::new(), Vec::new());
            let list = |list: &mut Vec<_>, key: &[u8], value: &[u8]| {
                list.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            };
            rows.scan(*table, &[], None, &mut |key, value| {
                list(&mut there, key, value)
            })
            .unwrap();
            rows.scan_rev(*table, &[], None, &mut |key, value| {
                list(&mut back, key, value)
            })
            .unwrap();
            rows.scan_keys(*table, &[], None, &mut |key| list(&mut keys, key, &[]))
                .unwrap();
            back.reverse();
            assert_eq!(there, back);
            assert!(
                there
                    .iter()
                    .map(|(key, _)| key)
                    .eq(keys.iter().map(|(key, _)| key))
            );
            for (key, value) in there {
                assert_eq!(rows.get(*table, &key).unwrap().as_ref(), Some(&value));
                model.insert((table.tag(), key), value);
            }
        }
        model
    }

    /// Fills tables while others work; returns what others have then, or what was filled in.
    fn script(
        rows: &Arc<LayeredRows>,
        used: &mut Model,
        filled: &mut Model,
    ) -> Result<(), StoreError> {
        put(&**rows, used, b"own", b"first")?;
        put(&**rows, used, b"gone", b"first")?;
        put(&**rows, used, b"p", b"apart")?;
        let filling = rows.fill(TABLES)?.unwrap();
        for n in 0..40u32 {
            put(filling.rows(), filled, &n.to_be_bytes(), &[n as u8; 6000])?;
            if n == 10 {
                put(&**rows, used, b"own", b"second")?;
                put(&**rows, used, b"q", b"apart")?;
                let mut batch = Batch::new();
                TABLES
                    .iter()
                    .for_each(|table| batch.delete(*table, b"gone"));
                rows.commit(batch)?;
                used.retain(|(_, key), _| key != b"gone");
            }
            if n % 10 == 0 {
                assert_eq!(seen(&**rows), *used);
            }
        }
        for table in TABLES {
            assert_eq!(rows.get(*table, &7u32.to_be_bytes())?, None);
            assert_eq!(rows.get(*table, b"gone")?, None);
        }
        filling.end()
    }

    #[test]
    fn what_is_filled_in_counts_as_one_and_nobody_sees_it_before() {
        let (disk, mut used, mut filled) = (MemoryDisk::new(), Model::new(), Model::new());
        let rows = open(&disk);
        script(&rows, &mut used, &mut filled).unwrap();
        used.retain(|(_, key), _| key.len() == 1);
        filled.append(&mut used);
        assert_eq!(seen(&*rows), filled);
        assert!(rows.fill(TABLES).unwrap().is_none(), "they are not empty");
        assert_eq!(seen(&*open(&disk)), filled);
    }

    #[test]
    fn a_power_cut_anywhere_leaves_what_was_there_or_what_was_filled_in() {
        let mut outcomes = [0, 0];
        for seed in 0..400 {
            let rng = Rng::from_seed(seed);
            let (disk, mut used, mut filled) = (MemoryDisk::new(), Model::new(), Model::new());
            disk.set_writes_left(Some(3 + seed / 8));
            let ended = script(&open(&disk), &mut used, &mut filled);
            disk.set_writes_left(None);
            let mut disk = disk.crash(&rng);
            // The next opening is cut short, too.
            disk.set_writes_left(Some(rng.below(4)));
            drop(open(&disk));
            disk.set_writes_left(None);
            disk = disk.crash(&rng);
            let found = seen(&*open(&disk));
            let is_filled = found.contains_key(&(Table::Inode.tag(), 39u32.to_be_bytes().to_vec()));
            outcomes[usize::from(is_filled)] += 1;
            assert!(ended.is_ok() || !is_filled, "seed {seed}");
            if is_filled {
                used.retain(|(_, key), _| key.len() == 1);
                filled.append(&mut used);
                assert_eq!(found, filled, "seed {seed}");
            } else {
                let is_known =
                    |(_, key): &(u8, Vec<u8>)| key.len() == 1 || key == b"own" || key == b"gone";
                assert!(
                    found.keys().all(is_known),
                    "seed {seed}: {:?}",
                    found.keys()
                );
            }
        }
        assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
    }

    #[test]
    fn who_gives_up_filling_leaves_what_the_others_have() {
        let (disk, mut used, mut filled) = (MemoryDisk::new(), Model::new(), Model::new());
        let rows = open(&disk);
        put(&*rows, &mut used, b"own", b"first").unwrap();
        let filling = rows.fill(TABLES).unwrap().unwrap();
        for n in 0..100u32 {
            put(filling.rows(), &mut filled, &n.to_be_bytes(), &[1; 4000]).unwrap();
        }
        put(&*rows, &mut used, b"own", b"second").unwrap();
        rows.abandon().unwrap();
        assert_eq!(seen(&*rows), used);
        assert_eq!(seen(&*disk.store().rows), used);
    }
}
