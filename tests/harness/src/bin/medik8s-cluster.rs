//! A control plane with simulated nodes that stays: `up`, `down`, `build-tools`.
fn main() {}
