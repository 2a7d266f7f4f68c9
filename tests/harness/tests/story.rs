//! The demo's own scenario, with its asserts, as a test.

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
        let cluster = story::cluster(None).await?;
        let told = story::tell(&cluster, Telling::default(), &Narrator::new()).await;
        if let Ok(phases) = &told {
            phases.print();
        }
        cluster.stop().await;
        told.map(drop)
    })
}
