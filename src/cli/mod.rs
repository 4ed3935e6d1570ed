//! What an operator types beside the deployments.

use std::io::{self, Write};

pub mod produce;
pub mod schemas;
pub mod topics;

/// Writes to stdout. A reader that has gone (`| head`) is no error.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
