//! Lets every library find the simulation's `getrandom` before the C library's (see `src/random.rs`).
#![expect(
    clippy::print_stdout,
    reason = "a build script speaks to cargo that way"
)]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg=-Wl,--export-dynamic-symbol=getrandom");
}
