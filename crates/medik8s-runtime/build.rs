//! Records which compiler built the program, for `--version` and the start banner.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=MEDIK8S_COMMIT");
    println!("cargo::rerun-if-env-changed=MEDIK8S_BUILD_DATE");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(
            || "rustc (unknown)".to_owned(),
            |text| text.trim().to_owned(),
        );
    println!("cargo::rustc-env=MEDIK8S_RUSTC={version}");
}
