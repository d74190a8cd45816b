//! Panics of libraries, as errors: some give up by panicking on files that are not what they claim.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Calls of this thread whose panics are caught.
    static CAUGHT: Cell<usize> = const { Cell::new(0) };
}

/// What a call returns; where it panics on this thread, what it said, and nothing on the terminal.
///
/// For calls into libraries with content of files that come from outside. What the call has
/// changed before it panicked must not matter.
///
/// # Errors
/// The message of the panic.
pub fn contained<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if CAUGHT.get() == 0 {
                others(info);
            }
        }));
    });
    CAUGHT.set(CAUGHT.get() + 1);
    let ended = panic::catch_unwind(AssertUnwindSafe(call));
    CAUGHT.set(CAUGHT.get() - 1);
    ended.map_err(|said| message(said.as_ref()))
}

fn message(said: &(dyn Any + Send)) -> String {
    let text = said.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| said.downcast_ref::<&str>().copied());
    text.unwrap_or("it gave up").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_errors_and_the_next_call_runs() {
        let nested = contained(|| contained(|| panic!("inner {}", 1)).unwrap_err());
        assert_eq!(nested.unwrap(), "inner 1");
        assert_eq!(contained::<()>(|| panic!("plain")).unwrap_err(), "plain");
        assert_eq!(contained(|| 5).unwrap(), 5);
        assert_eq!(CAUGHT.get(), 0);
    }
}
