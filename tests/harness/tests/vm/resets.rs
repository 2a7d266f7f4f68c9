//! What must reset a machine, and when.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use medik8s_harness::{bench, vm::Driver, wait};
use nix::sys::signal::Signal;
use tokio::{time::sleep, try_join};

use crate::{
    Table,
    lab::{Bounds, CHECK, Lab, Machine, SHORTEST, Window},
};

/// What the manager keeps beside the bound, and what a release may take longer.
const RESERVE: Duration = Duration::from_secs(30);
/// A cut-off agent is killed after this time and restarted by its kubelet.
const FIRST_LIFE: Duration = Duration::from_secs(10);

impl Bounds {
    /// After the agent lost its proof: the rest of its permit, then the watchdog. Its last proof is at
    /// most one check old, its last feed at most a third of the timeout.
    fn permit(self) -> Window {
        Window {
            from: self.span.saturating_sub(CHECK) + self.wd * 2 / 3,
            to: self.span + self.wd,
            text: format!(
                "span {} + wd {} = {} s",
                self.span.as_secs(),
                self.wd.as_secs(),
                (self.span + self.wd).as_secs()
            ),
        }
    }

    /// After the process that feeds is gone.
    fn timeout(self, from: Duration) -> Window {
        Window {
            from,
            to: self.wd,
            text: format!("wd {} s", self.wd.as_secs()),
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn row(table: &Table, machine: &Machine, what: &str, window: &Window, took: Duration) {
    table.row(what, machine.name(), window.text.clone(), seconds(took));
}

/// The cable is out; nothing is ordered.
pub(crate) async fn cut_off(lab: &Lab, machine: &Machine, table: &Table) -> anyhow::Result<()> {
    let bounds = machine.armed(lab).await?;
    let window = bounds.permit();
    let (happenings, cut) = (machine.guest.happenings(), Instant::now());
    machine.guest.set_link(false).await?;
    let reset = machine.reset(happenings, cut, &window).await?;
    let what = "network cut → reset";
    row(table, machine, what, &window, reset - cut);
    back(lab, machine).await
}

async fn back(lab: &Lab, machine: &Machine) -> anyhow::Result<()> {
    machine.guest.set_link(true).await?;
    machine.armed(lab).await.map(drop)
}

/// The cable is out, the manager orders, and frees after its safe time; the node is still cut off then.
pub(crate) async fn cut_off_under_an_order(
    lab: &Lab,
    machine: &Machine,
    table: &Table,
) -> anyhow::Result<()> {
    let bounds = machine.armed(lab).await?;
    let window = bounds.permit();
    let (happenings, cut) = (machine.guest.happenings(), Instant::now());
    machine.guest.set_link(false).await?;
    bench::remediate(&lab.cluster, machine.name(), "ResourceDeletion").await?;
    // Order to release: the bound, then max(K, wd + 10).
    let safe = bounds.span + bounds.wd + RESERVE.max(bounds.wd + Duration::from_secs(10));
    let (reset, freed) = try_join!(
        machine.reset(happenings, cut, &window),
        freed(lab, machine, safe + RESERVE)
    )?;
    let what = "network cut under an order → reset";
    row(table, machine, what, &window, reset - cut);
    ensure!(reset < freed.at, "the workload was freed before the reset");
    ensure!(
        freed.after >= safe.as_secs_f64(),
        "freed {:.1} s after the order, before the safe time",
        freed.after
    );
    table.row(
        "order → workload freed, node cut off",
        machine.name(),
        format!("span + wd + 30 = {} s, after the reset", safe.as_secs()),
        format!(
            "{:.1} s, {} after the reset (by {})",
            freed.after,
            seconds(freed.at - reset),
            freed.by
        ),
    );
    machine.guest.set_link(true).await?;
    machine.withdraw(lab).await?;
    machine.armed(lab).await.map(drop)
}

/// When the workload was freed.
struct Freed {
    at: Instant,
    /// Seconds since the order.
    after: f64,
    by: String,
}

async fn freed(lab: &Lab, machine: &Machine, limit: Duration) -> anyhow::Result<Freed> {
    let courses = bench::follow(&lab.cluster, &[machine.name()], limit).await?;
    let course = courses.into_iter().next().context("no course")?;
    let after = course.seconds().with_context(|| format!("{course:?}"))?;
    let freed = course.freed.context("not freed")?;
    let ago = Duration::try_from(Timestamp::now().duration_since(freed)).unwrap_or_default();
    Ok(Freed {
        at: Instant::now()
            .checked_sub(ago)
            .context("a clock went back")?,
        after,
        by: course.by,
    })
}

/// An order that the agent reads itself: last words, the shortest timeout, and an early release.
pub(crate) async fn ordered(lab: &Lab, machine: &Machine, table: &Table) -> anyhow::Result<()> {
    machine.armed(lab).await?;
    let window = Window {
        from: SHORTEST,
        to: CHECK + SHORTEST,
        text: format!(
            "check {} + shortened wd {} = {} s",
            CHECK.as_secs(),
            SHORTEST.as_secs(),
            (CHECK + SHORTEST).as_secs()
        ),
    };
    let (happenings, begin) = (machine.guest.happenings(), Instant::now());
    bench::remediate(&lab.cluster, machine.name(), "ResourceDeletion").await?;
    let (reset, freed) = try_join!(
        machine.reset(happenings, begin, &window),
        freed(lab, machine, Duration::from_mins(2))
    )?;
    row(
        table,
        machine,
        "remediation created → reset",
        &window,
        reset - begin,
    );
    ensure!(reset < freed.at, "the workload was freed before the reset");
    table.row(
        "order → workload freed, node reaches the API",
        machine.name(),
        "after the reset".to_owned(),
        format!(
            "{:.1} s, {} after the reset (by {})",
            freed.after,
            seconds(freed.at - reset),
            freed.by
        ),
    );
    machine.withdraw(lab).await?;
    machine.armed(lab).await.map(drop)
}

/// `kill -9`, and nobody starts the agent again. The kernel pings when it closes the device.
pub(crate) async fn killed(lab: &Lab, machine: &Machine, table: &Table) -> anyhow::Result<()> {
    let bounds = machine.armed(lab).await?;
    let window = bounds.timeout(bounds.wd);
    let agent = machine.guest.agent()?;
    machine.guest.set_kubelet(false);
    let (happenings, begin) = (machine.guest.happenings(), Instant::now());
    machine.guest.signal(&agent, Signal::SIGKILL).await?;
    let reset = machine.reset(happenings, begin, &window).await?;
    row(
        table,
        machine,
        "agent kill -9 → reset",
        &window,
        reset - begin,
    );
    back(lab, machine).await
}

/// All threads stop, also the one that feeds: up to a third of the timeout after its last feed.
pub(crate) async fn stopped(lab: &Lab, machine: &Machine, table: &Table) -> anyhow::Result<()> {
    let bounds = machine.armed(lab).await?;
    let window = bounds.timeout(bounds.wd * 2 / 3);
    let agent = machine.guest.agent()?;
    let (happenings, begin) = (machine.guest.happenings(), Instant::now());
    machine.guest.signal(&agent, Signal::SIGSTOP).await?;
    let reset = machine.reset(happenings, begin, &window).await?;
    row(
        table,
        machine,
        "agent SIGSTOP → reset",
        &window,
        reset - begin,
    );
    back(lab, machine).await
}

/// The thread with all decisions is frozen, the one that feeds goes on until the permit ends.
pub(crate) async fn hung_loop(lab: &Lab, machine: &Machine, table: &Table) -> anyhow::Result<()> {
    let bounds = machine.armed(lab).await?;
    let window = bounds.permit();
    let agent = machine.guest.agent()?;
    let (happenings, begin) = (machine.guest.happenings(), Instant::now());
    machine.guest.freeze_main_thread(&agent).await?;
    let reset = machine.reset(happenings, begin, &window).await?;
    let what = "decision loop frozen, feeder alive → reset";
    row(table, machine, what, &window, reset - begin);
    back(lab, machine).await
}

/// The agent has stopped feeding and is killed shortly before the watchdog fires: the kernel pings once
/// more. The kubelet restarts it, and it must not open the device again.
pub(crate) async fn killed_just_before_the_reset(
    lab: &Lab,
    machine: &Machine,
    table: &Table,
) -> anyhow::Result<()> {
    let bounds = machine.armed(lab).await?;
    let (mark, agent) = (machine.guest.mark(), machine.guest.agent()?);
    let (happenings, cut) = (machine.guest.happenings(), Instant::now());
    machine.guest.set_link(false).await?;
    wait::until(
        "the agent to stop feeding",
        bounds.span + bounds.wd,
        async || {
            let said = machine.guest.said_since(mark)?;
            Ok(said
                .contains("the watchdog is not fed any more")
                .then_some(()))
        },
    )
    .await?;
    // Its last feed was at most a third of the timeout ago: this is not later than the reset.
    sleep(bounds.wd * 11 / 20).await;
    ensure!(
        machine.guest.boot().is_some(),
        "the reset was too early to be met"
    );
    let kill = Instant::now();
    machine.guest.signal(&agent, Signal::SIGKILL).await?;
    let window = Window {
        from: kill + bounds.wd - cut,
        to: bounds.span + bounds.wd * 2,
        text: format!(
            "span {} + 2 wd {} = {} s",
            bounds.span.as_secs(),
            2 * bounds.wd.as_secs(),
            (bounds.span + bounds.wd * 2).as_secs()
        ),
    };
    let reset = machine.reset(happenings, cut, &window).await?;
    ensure!(
        reset - kill <= bounds.wd + Duration::from_secs(1),
        "reset {} after the kill: somebody has fed again",
        seconds(reset - kill)
    );
    let what = "network cut, agent kill -9 just before the reset, restarted → reset";
    table.row(
        what,
        machine.name(),
        window.text,
        format!(
            "{}, {} after the kill",
            seconds(reset - cut),
            seconds(reset - kill)
        ),
    );
    back(lab, machine).await
}

/// Killed while cut off and restarted at once: the successor goes on with the recorded permit, it does not
/// begin a new one.
pub(crate) async fn restarted_while_cut_off(
    lab: &Lab,
    machine: &Machine,
    table: &Table,
) -> anyhow::Result<()> {
    let bounds = machine.armed(lab).await?;
    let window = bounds.permit();
    let (mark, agent) = (machine.guest.mark(), machine.guest.agent()?);
    let (happenings, cut) = (machine.guest.happenings(), Instant::now());
    machine.guest.set_link(false).await?;
    sleep(FIRST_LIFE).await;
    machine.guest.signal(&agent, Signal::SIGKILL).await?;
    let reset = machine.reset(happenings, cut, &window).await?;
    let starts = machine
        .guest
        .said_since(mark)?
        .matches("agent starts")
        .count();
    ensure!(
        starts == 1,
        "the agent was started {starts} times meanwhile"
    );
    let what = "network cut, agent killed and restarted → reset, counted from the cut";
    row(table, machine, what, &window, reset - cut);
    back(lab, machine).await
}

/// SIGTERM although nobody deletes the pod: the agent leaves the watchdog armed.
pub(crate) async fn ended_by_a_signal(
    lab: &Lab,
    machine: &Machine,
    table: &Table,
) -> anyhow::Result<()> {
    let bounds = machine.armed(lab).await?;
    let agent = machine.guest.agent()?;
    machine.guest.set_kubelet(false);
    let what = "agent ended by SIGTERM, its pod not deleted → reset";
    let happenings = machine.guest.happenings();
    machine.guest.signal(&agent, Signal::SIGTERM).await?;
    let ended = gone(machine).await?;
    let window = bounds.timeout(bounds.wd);
    let reset = machine.reset(happenings, ended, &window).await?;
    row(table, machine, what, &window, reset - ended);
    back(lab, machine).await
}

/// Waits for the end of the agent.
async fn gone(machine: &Machine) -> anyhow::Result<Instant> {
    wait::until("the agent to end", Duration::from_secs(20), async || {
        Ok(machine.guest.agents().is_empty().then(Instant::now))
    })
    .await
}

/// An orderly end, but the driver does not let itself be stopped.
pub(crate) async fn orderly_end_with_nowayout(
    lab: &Lab,
    machine: &Machine,
    table: &Table,
) -> anyhow::Result<()> {
    let bounds = machine.armed(lab).await?;
    let happenings = machine.guest.happenings();
    machine.excluded(lab, true).await?;
    let ended = gone(machine).await?;
    let window = bounds.timeout(bounds.wd);
    let reset = machine.reset(happenings, ended, &window).await?;
    let what = "pod deleted, nowayout=1 → reset";
    row(table, machine, what, &window, reset - ended);
    machine.excluded(lab, false).await?;
    back(lab, machine).await
}

/// Another program holds the device: the agent loads softdog, and that resets the machine.
pub(crate) async fn device_held_by_another(
    lab: &Lab,
    machine: &Machine,
    table: &Table,
) -> anyhow::Result<()> {
    ensure!(
        machine.guest.hardware().driver == Driver::I6300esb,
        "softdog is for the agent"
    );
    machine.guest.set_held(true);
    let mark = machine.guest.mark();
    machine.restart(lab).await?;
    let said = machine.guest.said_since(mark)?;
    ensure!(
        said.contains("(Software Watchdog)"),
        "the agent has not taken softdog"
    );
    let bounds = machine.armed(lab).await?;
    let window = bounds.permit();
    let (happenings, cut) = (machine.guest.happenings(), Instant::now());
    machine.guest.set_link(false).await?;
    let reset = machine.reset(happenings, cut, &window).await?;
    let what = "i6300esb held and fed by another program, network cut → reset by softdog";
    row(table, machine, what, &window, reset - cut);
    machine.guest.set_held(false);
    machine.guest.set_link(true).await?;
    machine.restart(lab).await.map(drop)
}
