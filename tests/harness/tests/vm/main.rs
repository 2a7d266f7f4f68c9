//! The fencing rules on real machines: QEMU guests with a Debian kernel, the i6300esb and softdog,
//! `nowayout` 0 and 1, the release agent, and the control plane of the harness.
//!
//! Four guests run at once. Together they stay up through what must reset nobody; then each goes through
//! a list of its own of what must reset it, within the bound that its agent has announced, and of what
//! must not. `-- NAME` runs only the scenarios whose name contains NAME.
//!
//! # What is checked
//! * Bounds are computed from the announcement on the Node: `span`, the permit's length, and `wd`, the
//!   watchdog's timeout. The reset must come within the bound, and not before the cause allows it: so
//!   that it was this rule which reset the guest.
//! * Every reset that QEMU reports is one that a scenario waited for.
//! * An ordered node's workload is not freed before its reset.

#![expect(
    clippy::disallowed_methods,
    reason = "plays the user and the hardware: its clock and its writes are not the product's"
)]
#![expect(
    clippy::print_stdout,
    reason = "a test without the standard runner reports by itself"
)]

mod lab;
mod resets;
mod stays;
mod table;

use std::{pin::Pin, process::ExitCode, time::Instant};

use futures::future::join_all;
use medik8s_harness::{
    child,
    vm::{self, Driver, Hardware, Parts},
};

use lab::{Lab, Machine};
use table::Table;

type Scenario<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;
/// Name, and what to do with a guest.
type Entry = (
    &'static str,
    for<'a> fn(&'a Lab, &'a Machine, &'a Table) -> Scenario<'a>,
);
/// Of all guests at once.
type Together = (&'static str, for<'a> fn(&'a Lab, &'a Table) -> Scenario<'a>);

macro_rules! scenario {
    ($name:literal, $function:path) => {
        ($name, |lab, machine, table| {
            Box::pin($function(lab, machine, table))
        })
    };
}

macro_rules! together {
    ($name:literal, $function:path) => {
        ($name, |lab, table| Box::pin($function(lab, table)))
    };
}

/// One after the other, on all guests.
const TOGETHER: &[Together] = &[
    together!("quiet", stays::quiet),
    together!("roll-out", stays::roll_out),
    together!("API server away for all", stays::api_away_for_all),
];

/// A guest and what it goes through.
struct Plan {
    name: &'static str,
    driver: Driver,
    nowayout: bool,
    scenarios: &'static [Entry],
}

const PLANS: [Plan; 4] = [
    Plan {
        name: "esb",
        driver: Driver::I6300esb,
        nowayout: false,
        scenarios: &[
            scenario!("cut off under an order", resets::cut_off_under_an_order),
            scenario!("killed", resets::killed),
            scenario!("stopped", resets::stopped),
            scenario!("hung loop", resets::hung_loop),
            scenario!("killed just before", resets::killed_just_before_the_reset),
            scenario!("orderly end", stays::orderly_end),
            scenario!("ended by a signal", resets::ended_by_a_signal),
        ],
    },
    Plan {
        name: "esb-nowayout",
        driver: Driver::I6300esb,
        nowayout: true,
        scenarios: &[
            scenario!("ordered", resets::ordered),
            scenario!("killed and restarted", stays::killed_and_restarted),
            scenario!("restarted while cut off", resets::restarted_while_cut_off),
            scenario!(
                "orderly end with nowayout",
                resets::orderly_end_with_nowayout
            ),
            scenario!("device held", resets::device_held_by_another),
        ],
    },
    Plan {
        name: "softdog",
        driver: Driver::Softdog,
        nowayout: false,
        scenarios: &[
            scenario!("cut off", resets::cut_off),
            scenario!("killed", resets::killed),
            scenario!("stopped", resets::stopped),
            scenario!("hung loop", resets::hung_loop),
            scenario!("killed just before", resets::killed_just_before_the_reset),
            scenario!("orderly end", stays::orderly_end),
        ],
    },
    Plan {
        name: "softdog-nowayout",
        driver: Driver::Softdog,
        nowayout: true,
        scenarios: &[
            scenario!("ordered", resets::ordered),
            scenario!("killed and restarted", stays::killed_and_restarted),
            scenario!("restarted while cut off", resets::restarted_while_cut_off),
            scenario!(
                "orderly end with nowayout",
                resets::orderly_end_with_nowayout
            ),
            scenario!("cut off", resets::cut_off),
        ],
    },
];

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    // Before the network of the harness is entered: a kernel may have to be fetched.
    let kernel = match vm::able() {
        Ok(kernel) => kernel,
        Err(reason) => return skip(&reason),
    };
    medik8s_harness::run(async || {
        let parts = Parts::with(kernel.clone())?;
        let begin = Instant::now();
        let mut lab = Lab::start(&parts, PLANS.iter().map(hardware).collect()).await?;
        println!(
            "{} guests with Linux {} armed after {:.0?}",
            PLANS.len(),
            parts.kernel.release()?,
            begin.elapsed()
        );
        let table = Table::default();
        run(&lab, &table, &wanted).await;
        lab.nothing_else_was_reset(&table);
        table.print(begin.elapsed());
        let done = table.verdict();
        if done.is_err() {
            println!("logs: {}", lab.cluster.keep_files().display());
        }
        lab.stop().await;
        done
    })
}

fn hardware(plan: &Plan) -> Hardware {
    Hardware {
        name: plan.name.to_owned(),
        driver: plan.driver,
        nowayout: plan.nowayout,
    }
}

async fn run(lab: &Lab, table: &Table, wanted: &[String]) {
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word));
    for (name, scenario) in TOGETHER.iter().filter(|(name, _)| is_wanted(name)) {
        let since = Instant::now();
        table.done(name, "all", since, &scenario(lab, table).await);
    }
    let each = PLANS
        .iter()
        .zip(&lab.machines)
        .map(async |(plan, machine)| {
            for (name, scenario) in plan.scenarios.iter().filter(|(name, _)| is_wanted(name)) {
                let since = Instant::now();
                let outcome = scenario(lab, machine, table).await;
                table.done(name, plan.name, since, &outcome);
                // The next one begins with a guest that is up and armed, whatever this one left.
                if outcome.is_err()
                    && let Err(error) = machine.recover(lab).await
                {
                    table.failed(&format!("{}: {error:#}", plan.name));
                    return;
                }
            }
        });
    join_all(each).await;
}

/// Nothing was tested, and it must be seen.
fn skip(reason: &anyhow::Error) -> ExitCode {
    let lists = PLANS.iter().map(|plan| plan.scenarios.len()).sum::<usize>();
    println!("SKIPPED: no machine is tested here: {reason:#}");
    println!("vm: 0 passed, 0 failed, {} skipped", lists + TOGETHER.len());
    ExitCode::SUCCESS
}
