//! Generates and checks what is derived from the sources: `config/`, `deploy/`, `bundle/` and parts of
//! `docs/`.
#![expect(
    clippy::print_stdout,
    reason = "a command line tool reports on standard output"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[expect(
    clippy::indexing_slicing,
    reason = "the JSON that is indexed is an object made a few lines above"
)]
mod bundle;
#[expect(
    clippy::indexing_slicing,
    reason = "the JSON that is indexed is an object made a few lines above"
)]
mod chart;
mod crds;
#[expect(
    clippy::indexing_slicing,
    reason = "the JSON that is indexed is an object made a few lines above"
)]
mod manifests;
mod operators;
mod purity;
mod reference;
mod rights;
mod runbook;
mod tree;
mod yaml;

/// Generates and checks what is derived from the sources of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes config/, deploy/, bundle/ and parts of docs/ from the types and rule tables.
    Generate {
        /// Writes nothing; fails and names the files that are not up to date.
        #[arg(long)]
        check: bool,
    },
    /// Compares the CRDs in DIR with the generated ones; fails on any difference that is not
    /// wanted.
    CrdDiff {
        /// Folder with YAML files.
        dir: PathBuf,
    },
    /// Prints the surface of the CRDs in DIR, in the form of crates/medik8s-api/tests/parity.txt.
    CrdTable {
        /// Folder with YAML files.
        dir: PathBuf,
    },
    /// Writes the OLM bundles and catalogs of one release into a folder.
    Bundle {
        /// Folder that gets `bundle/`.
        #[arg(long)]
        out: PathBuf,
        /// What is released.
        #[command(flatten)]
        release: bundle::Release,
    },
    /// Compares the rules of the accounts with what the suites on a real control plane used of them;
    /// fails when one is needed by nobody and does not say why it is there.
    Rights,
    /// Refuses async, API clients, clocks, environment and chance in the modules that decide.
    Purity,
}

fn main() -> Result<ExitCode> {
    let well = match Cli::parse().command {
        Command::Generate { check } => {
            let tree = generated()?;
            if check {
                tree.check(&root())?;
            } else {
                tree.write(&root())?;
            }
            true
        }
        Command::CrdDiff { dir } => {
            let (report, well) = crds::diff(&dir)?;
            println!("{report}");
            well
        }
        Command::CrdTable { dir } => {
            print!("{}", crds::table(&dir)?);
            true
        }
        Command::Bundle { out, release } => {
            let mut tree = tree::Tree::default();
            bundle::generate(&mut tree, &root(), &release)?;
            tree.write(&out)?;
            true
        }
        Command::Rights => {
            let problems = rights::problems(&root().join("target/rights"))?;
            for line in &problems {
                println!("{line}");
            }
            problems.is_empty()
        }
        Command::Purity => {
            let violations = purity::violations(&root())?;
            for line in &violations {
                println!("{line}");
            }
            violations.is_empty()
        }
    };
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The root of the repository.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .ancestors()
        .nth(2)
        .unwrap_or(manifest)
        .to_path_buf()
}

/// Everything that is generated.
fn generated() -> Result<tree::Tree> {
    let mut tree = tree::Tree::default();
    crds::generate(&mut tree)?;
    manifests::generate(&mut tree)?;
    chart::generate(&mut tree)?;
    bundle::generate(&mut tree, &root(), &bundle::Release::default())?;
    reference::generate(&mut tree)?;
    runbook::generate(&mut tree);
    rights::generate(&mut tree);
    Ok(tree)
}

#[cfg(test)]
mod tests;
