//! What was measured, beside what was promised.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use anyhow::bail;

/// Results of the suite.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: RefCell<Vec<[String; 4]>>,
    passed: RefCell<usize>,
    failures: RefCell<Vec<String>>,
}

impl Table {
    /// A figure: what was done, to whom, what is promised, what was seen.
    pub(crate) fn row(&self, what: &str, guest: &str, bound: String, seen: String) {
        println!("        {guest}: {what}: {seen} ({bound})");
        self.rows
            .borrow_mut()
            .push([what.to_owned(), guest.to_owned(), bound, seen]);
    }

    /// A scenario has ended.
    pub(crate) fn done(
        &self,
        name: &str,
        guest: &str,
        since: Instant,
        outcome: &anyhow::Result<()>,
    ) {
        let took = since.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                *self.passed.borrow_mut() += 1;
                println!("ok      {guest}: {name} ({took:.0} s)");
            }
            Err(error) => self.failed(&format!("{guest}: {name} ({took:.0} s): {error:#}")),
        }
    }

    /// Something is not as it must be.
    pub(crate) fn failed(&self, text: &str) {
        println!("FAILED  {text}");
        self.failures.borrow_mut().push(text.to_owned());
    }

    /// All figures.
    pub(crate) fn print(&self, took: Duration) {
        println!("\n| What happens | Guest | Promised | Measured |\n|---|---|---|---|");
        let mut rows = self.rows.borrow().clone();
        rows.sort();
        for [what, guest, bound, seen] in rows {
            println!("| {what} | {guest} | {bound} | {seen} |");
        }
        println!("\nin {:.1} minutes", took.as_secs_f64() / 60.0);
    }

    /// The last line, and the error if something failed.
    pub(crate) fn verdict(&self) -> anyhow::Result<()> {
        let failures = self.failures.borrow();
        let passed = self.passed.borrow();
        println!("vm: {passed} passed, {} failed", failures.len());
        if !failures.is_empty() {
            bail!("{} failures:\n{}", failures.len(), failures.join("\n"));
        }
        Ok(())
    }
}
