//! The demo's own scenario, with its asserts, as a test.

#![expect(
    clippy::print_stdout,
    reason = "a test without the standard runner reports by itself"
)]

use std::process::ExitCode;

use medik8s_harness::{
    child,
    story::{self, Narrator, Telling},
};

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    medik8s_harness::run(async || {
        let mut cluster = story::cluster(None).await?;
        let told = story::tell(&cluster, &Telling::default(), &Narrator::new()).await;
        match &told {
            Ok(phases) => phases.print(),
            Err(_) => println!("logs: {}/logs", cluster.keep_files().display()),
        }
        cluster.stop().await;
        told.map(drop)
    })
}
