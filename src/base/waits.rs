//! Threads on which others depend: something is done before such a thread waits for the disk.

use std::cell::RefCell;
use std::rc::Rc;

thread_local! {
    static BEFORE: RefCell<Option<Rc<dyn Fn()>>> = const { RefCell::new(None) };
}

/// Sets what this thread does before it waits for the disk.
pub fn set(before: impl Fn() + 'static) {
    BEFORE.set(Some(Rc::new(before)));
}

/// Tells whether this thread does something before it waits: whether it is worth finding out that
/// it would.
pub fn is_set() -> bool {
    BEFORE.with_borrow(Option::is_some)
}

/// Does what this thread does before it waits. To be called when the disk has its work already.
pub fn begin() {
    let before = BEFORE.with_borrow(Clone::clone);
    if let Some(before) = before {
        before();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::base::task;

    #[test]
    fn each_thread_does_its_own() {
        begin();
        let count = Rc::new(Cell::new(0));
        let counted = Rc::clone(&count);
        set(move || counted.set(counted.get() + 1));
        begin();
        begin();
        let other = task::thread("other", || {
            assert!(!is_set());
            begin();
        });
        other.unwrap().join().unwrap();
        assert!(is_set() && count.get() == 2);
    }
}
