//! Ports that a test gives away before somebody listens on them.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which Linux takes ports by itself (for `port 0` and for the
/// near ends of connections), so that nobody takes one between now and its use, or
/// while a proxy is cut; and apart from the stack's own.
const FIRST: u16 = 10_000;
const COUNT: u16 = 8_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that nobody listens on, and that no other test of this run is given.
pub fn free_port() -> u16 {
    // Another run beside this one begins elsewhere.
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).expect("below COUNT");
    (0..COUNT)
        .map(|_| FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// The same as an address, `127.0.0.1:port`.
pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}
