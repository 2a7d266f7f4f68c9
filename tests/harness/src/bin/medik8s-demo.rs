//! The main story.
fn main() {}
