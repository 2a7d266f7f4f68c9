//! The main story, told: `make demo`.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use medik8s_harness::{
    child,
    relay::Door,
    standing,
    story::{self, Chapter, Narrator, Telling},
};

/// A node is lost and fenced, its workload comes back elsewhere, an outage fences nobody, a node is
/// drained and given back: on a real Kubernetes control plane with simulated nodes.
#[derive(Debug, Parser)]
#[command(name = "medik8s-demo")]
struct Args {
    /// Control run: give the manager a safe time that is too short. Must end in DEMO FAILED.
    #[arg(long)]
    broken: bool,
    /// Kill each manager (`kill -9`) at a random moment.
    #[arg(long)]
    chaos: bool,
    /// Leave the cluster up at the end, until it is interrupted.
    #[arg(long)]
    keep: bool,
    /// Tell only these parts, after the installation.
    #[arg(long)]
    only: Vec<Chapter>,
}

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    let args = Args::parse();
    let prepared = tempfile::Builder::new()
        .prefix("medik8s-")
        .tempdir()
        .map_err(anyhow::Error::from);
    let prepared = prepared.and_then(|folder| Ok((Door::open(folder.path())?, folder)));
    let (door, folder) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return medik8s_harness::finish(Err(error)),
    };
    let telling = Telling {
        broken: args.broken,
        chaos: args.chaos,
        only: args.only,
    };
    medik8s_harness::run(async || {
        let told = demo(&telling, args.keep, &door, folder.path().to_owned()).await;
        if told.is_err() {
            say(&format!(
                "\nLogs, until the next run: {}/logs",
                folder.keep().display()
            ));
        }
        say(&match &told {
            Ok(passed) => passed.clone(),
            Err(error) => format!("DEMO FAILED {error:#}"),
        });
        told.map(drop)
    })
}

/// Tells the story; the last line of a good end.
async fn demo(
    telling: &Telling,
    keep: bool,
    door: &Door,
    folder: PathBuf,
) -> anyhow::Result<String> {
    let cluster = story::cluster(Some(folder)).await?;
    let told = story::tell(&cluster, telling, &Narrator::new()).await;
    if let Ok(phases) = &told {
        phases.print();
    }
    if keep {
        let kubeconfig = cluster.kubeconfig_outside(door.address)?;
        if let Err(error) = &told {
            say(&format!("\nIt went wrong: {error:#}"));
        }
        say(&format!(
            "\nThe cluster stays until you press Ctrl-C:\n\n\texport KUBECONFIG={}\n\texport PATH={}:$PATH\n\tkubectl get nodes\n",
            kubeconfig.display(),
            cluster.tools().folder().display()
        ));
        tokio::select! {
            served = door.serve(cluster.api_address()) => served?,
            () = standing::interrupted() => {}
        }
    }
    cluster.stop().await;
    Ok(told?.passed())
}

#[expect(clippy::print_stdout, reason = "the demo is its output")]
fn say(text: &str) {
    println!("{text}");
}
