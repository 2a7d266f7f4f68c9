//! Which step a node has reached.

use super::{Draft, entries, named};
use crate::check::{Rung, TemplateRef};
use crate::facts::Refusal;
use crate::node::NodeFacts;

impl<'a> Draft<'a> {
    /// The step that a node has reached: the first of which the **stored** status does not say that
    /// it timed out. A single template has no timeout and stays the step. A step that the node lacks
    /// the Machine for is passed over.
    pub(super) fn current_rung(&self, node: &NodeFacts) -> Option<&'a Rung> {
        let check = &self.seen.check;
        if !check.escalating {
            return check.ladder.first();
        }
        let stored = self.stored.get(node.name.as_str()).copied();
        check.ladder.iter().enumerate().find_map(|(index, rung)| {
            let timed_out =
                entries::of_template(stored, &rung.template).any(|entry| entry.timed_out.is_some());
            (!timed_out && self.lacks_machine(node, index).is_none()).then_some(rung)
        })
    }

    /// Tells which steps are passed over.
    pub(super) fn tell_passed_over(&mut self, node: &NodeFacts) {
        let seen = self.seen;
        if !seen.check.escalating {
            return;
        }
        for (index, rung) in seen.check.ladder.iter().enumerate() {
            if let Some(why) = self.lacks_machine(node, index) {
                let subject = format!("{} {}", node.name, rung.template);
                let step = named(&rung.template);
                self.skipped(
                    &subject,
                    format!("Passed over {step} for node {} because {why}", node.name),
                );
            }
        }
    }

    /// Why the node cannot be remediated by a step that has not begun, whose remediator needs its
    /// Machine.
    ///
    /// A ladder never goes back: when a later step has begun, this one stays passed over.
    fn lacks_machine(&self, node: &NodeFacts, index: usize) -> Option<String> {
        let ladder = &self.seen.check.ladder;
        let template = &ladder.get(index)?.template;
        let stored = self.stored.get(node.name.as_str()).copied();
        let own = self.own(&node.name);
        let begun = |template: &TemplateRef| {
            entries::of_template(stored, template).next().is_some()
                || own.iter().any(|one| one.is_from(template))
        };
        if !template.needs_machine() || begun(template) {
            return None;
        }
        no_machine(node, template).or_else(|| {
            let refused = self.seen.refusals.get(&node.name);
            let missing = refused.is_some_and(|refused| {
                refused.template == *template && matches!(refused.why, Refusal::NoMachine(_))
            });
            let mut later = ladder.iter().skip(index + 1);
            (missing || later.any(|later| begun(&later.template))).then(|| {
                let kind = template.remediation_kind().kind;
                format!("its Machine, which {kind} needs, was missing when it was its turn")
            })
        })
    }
}

/// Why the node's own word already says that a remediator which needs its Machine is of no use.
pub(super) fn no_machine(node: &NodeFacts, template: &TemplateRef) -> Option<String> {
    if !template.needs_machine() {
        return None;
    }
    let kind = template.remediation_kind().kind;
    match &node.machine {
        None => Some(format!("it has no Machine, which {kind} needs")),
        Some(machine) if machine.namespace != template.namespace => Some(format!(
            "its Machine {machine} is not in namespace {}, where {kind} needs it",
            template.namespace
        )),
        Some(_) => None,
    }
}
