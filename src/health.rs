//! Liveness and readiness, made of checks that the rooms register.

/// Registry of checks; see the impl for what a probe means.
#[derive(Default)]
pub struct Health {}
