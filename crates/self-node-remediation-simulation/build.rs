//! Lets every library find the simulation's `getrandom` before the C library's (see `src/random.rs`).
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg=-Wl,--export-dynamic-symbol=getrandom");
}
