//! Health information stays where it belongs.
