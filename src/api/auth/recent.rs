//! A bounded memory of what was seen lately.

use std::collections::HashMap;
use std::mem;

use parking_lot::RwLock;

/// SHA-256 of what is remembered: a token itself is not kept.
pub(super) type Digest = [u8; 32];

/// Remembers what was put in or asked for lately, and forgets the rest: two halves,
/// of which the older one goes when the younger one is full.
pub(super) struct Recent<V> {
    half_max: usize,
    halves: RwLock<(HashMap<Digest, V>, HashMap<Digest, V>)>,
}

impl<V: Clone> Recent<V> {
    /// At most this many values.
    pub(super) fn new(max: usize) -> Self {
        Self { half_max: (max / 2).max(1), halves: RwLock::default() }
    }

    /// What was put in under this digest.
    pub(super) fn get(&self, digest: &Digest) -> Option<V> {
        let halves = self.halves.read();
        if let Some(value) = halves.0.get(digest) {
            return Some(value.clone());
        }
        let value = halves.1.get(digest).cloned()?;
        drop(halves);
        self.put(*digest, value.clone());
        Some(value)
    }

    /// Remembers a value.
    pub(super) fn put(&self, digest: Digest, value: V) {
        let mut halves = self.halves.write();
        let (young, old) = &mut *halves;
        if young.len() >= self.half_max && !young.contains_key(&digest) {
            *old = mem::take(young);
        }
        young.insert(digest, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_is_forgotten() {
        let recent = Recent::new(8);
        recent.put([0; 32], 0);
        for n in 1..100_u8 {
            recent.put([n; 32], n);
            assert_eq!(recent.get(&[0; 32]), Some(0), "after {n}");
            let halves = recent.halves.read();
            assert!(halves.0.len() + halves.1.len() <= 8);
        }
        assert_eq!(recent.get(&[1; 32]), None);
    }
}
