//! The front over a real connection.
