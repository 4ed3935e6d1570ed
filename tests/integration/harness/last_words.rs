//! Why a test failed, said once more at the end: the logs of its processes come after the
//! panic's own message, and whoever sees the end alone would not know.

use std::cell::RefCell;
use std::sync::Once;

/// Longest reason that is repeated.
const CHARACTERS_MAX: usize = 2_000;

thread_local! {
    static REASON: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the first panic of every thread from now on.
pub(super) fn keep() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let reason: String = panic.to_string().chars().take(CHARACTERS_MAX).collect();
            REASON.with_borrow_mut(|kept| {
                kept.get_or_insert(reason);
            });
            before(panic);
        }));
    });
}

/// Prints this thread's reason while it unwinds.
pub(super) fn repeat() {
    if std::thread::panicking() {
        REASON.with_borrow(|kept| {
            if let Some(reason) = kept {
                eprintln!("--- the test failed because: {reason}");
            }
        });
    }
}
