//! Panics: mistakes of the program, each the end of what ran into it alone. A daemon notes those that nobody
//! else tells of, whichever thread or task they end, so that nothing stops silently.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};

use parking_lot::Mutex;

/// What is known of those that were noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panics {
    /// How many there were.
    pub count: u64,
    /// When the first one was, milliseconds since 1970.
    pub first_ms: u64,
    /// What the last one said, and where.
    pub last: String,
}

static NOTED: Mutex<Option<Panics>> = Mutex::new(None);

thread_local! {
    /// True while a panic on this thread is told by who catches it.
    static IS_TOLD: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic for a caller who tells what it said.
pub fn caught<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    let before = IS_TOLD.replace(true);
    let done = catch_unwind(AssertUnwindSafe(body));
    IS_TOLD.set(before);
    done.map_err(|panic| words_of(&*panic))
}

/// Notes a panic of this process, unless who catches it tells of it; for the panic hook of a daemon.
pub fn note(panic: &PanicHookInfo<'_>, now_ms: u64) {
    if IS_TOLD.get() {
        return;
    }
    let place = panic.location().map(|place| format!(", at {place}"));
    let last = format!("{}{}", words_of(panic.payload()), place.unwrap_or_default());
    let mut noted = NOTED.lock();
    let before = noted.take();
    *noted = Some(Panics {
        count: before.as_ref().map_or(0, |before| before.count) + 1,
        first_ms: before.map_or(now_ms, |before| before.first_ms),
        last,
    });
}

/// Returns those that were noted in this process.
pub fn noted() -> Option<Panics> {
    NOTED.lock().clone()
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    let words = owned.or_else(|| panic.downcast_ref::<&str>().copied());
    words.unwrap_or("it said nothing").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::task;

    #[test]
    fn a_panic_that_nobody_tells_of_is_noted_whatever_it_ends() {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // Other tests fail beside.
            let is_own = words_of(panic.payload()).starts_with("trial");
            match is_own {
                true => note(panic, 7),
                false => before(panic),
            }
        }));
        assert_eq!(
            caught(|| panic!("trial {}", 0)),
            Err::<(), _>("trial 0".to_owned())
        );
        assert_eq!(noted(), None);
        let thread = task::thread("trial", || panic!("trial 1")).unwrap();
        assert!(thread.join().is_err());
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let one_off = async { task::spawn(async { panic!("trial 2") }).await };
        let ended: Result<(), _> = runtime.unwrap().block_on(one_off);
        assert!(ended.is_err());
        let noted = noted().unwrap();
        assert_eq!((noted.count, noted.first_ms), (2, 7));
        assert!(
            noted.last.starts_with("trial 2, at src/base/panics.rs:"),
            "{noted:?}"
        );
    }
}
