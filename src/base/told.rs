//! A value that many wait for, woken in the order in which they began to wait.
//!
//! `tokio::sync::watch` wakes its waiters in an order that is drawn anew by each process, and a simulation
//! under one seed has to replay exactly.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A value and those who wait for it to change.
#[derive(Debug, Default)]
pub struct Told<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T: Clone> Told<T> {
    /// Returns one that begins with a value.
    pub fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            changed: Notify::new(),
        }
    }

    /// Returns the value as it is now.
    pub fn get(&self) -> T {
        self.value.lock().clone()
    }

    /// Changes the value and wakes who waits.
    pub fn set(&self, value: T) {
        self.change(|old| *old = value);
    }

    /// Changes the value in its place and wakes who waits.
    pub fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut *self.value.lock());
        self.changed.notify_waiters();
    }

    /// Resolves with the value once it is one that is waited for.
    pub async fn wait_for(&self, is_it: impl Fn(&T) -> bool) -> T {
        loop {
            // From here on a change wakes, also before the first poll.
            let changed = self.changed.notified();
            let value = self.get();
            if is_it(&value) {
                return value;
            }
            changed.await;
        }
    }
}

/// One who waits for each change of a count of changes.
#[derive(Debug)]
pub struct Changes {
    count: Arc<Told<u64>>,
    seen: u64,
}

impl Changes {
    /// Returns one that has seen what was until now.
    pub fn of(count: &Arc<Told<u64>>) -> Self {
        Self {
            count: Arc::clone(count),
            seen: count.get(),
        }
    }

    /// Takes note of all changes until now.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.count.get();
    }

    /// Resolves when there is a change that was not seen.
    pub async fn changed(&mut self) {
        let seen = self.seen;
        self.seen = self.count.wait_for(|count| *count != seen).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::task::spawn;

    #[tokio::test]
    async fn waiters_wake_in_the_order_in_which_they_began() {
        let told = Arc::new(Told::new(0));
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiters: Vec<_> = (0..40)
            .map(|number| {
                let (told, order) = (Arc::clone(&told), Arc::clone(&order));
                spawn(async move {
                    assert_eq!(told.wait_for(|value| *value > 1).await, 2);
                    order.lock().push(number);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        told.set(1);
        tokio::task::yield_now().await;
        told.change(|value| *value += 1);
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(*order.lock(), (0..40).collect::<Vec<_>>());
        assert_eq!(told.wait_for(|value| *value == 2).await, told.get());
    }
}
