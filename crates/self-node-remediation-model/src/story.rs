//! A way through a model, told: who, when, what.

use std::fmt::Write;

use crate::cases::{Case, Report};
use crate::effects::{self, Effects};
use crate::outage::{self, Outage};
use crate::search::Model;
use crate::view::TICK;
use crate::world::{self, World};

/// One line of a story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Seconds since the beginning.
    pub second: u64,
    /// Who.
    pub who: String,
    /// What.
    pub what: String,
}

fn told(what: String, more: &[String]) -> String {
    let mut text = what;
    for more in more {
        if !text.is_empty() {
            text.push_str(if text.ends_with(':') { " " } else { "; " });
        }
        text.push_str(more);
    }
    text
}

pub(crate) fn of_world(world: &mut World, way: &[world::Action]) -> Vec<Line> {
    let mut state = world.initial();
    let mut second = 0;
    let mut lines = Vec::new();
    for action in way {
        let Some((next, more)) = world.act(state, *action) else {
            break;
        };
        state = next;
        if action.is_tick() {
            second += TICK.as_secs();
        }
        let (who, what) = action.tell();
        let who = if who.is_empty() { "x".to_owned() } else { who };
        // What the manager does says more than that it looked.
        let is_look = matches!(action, world::Action::Manager { .. }) && !more.is_empty();
        let what = told(if is_look { String::new() } else { what }, &more);
        if !what.is_empty() {
            lines.push(Line { second, who, what });
        }
    }
    lines
}

pub(crate) fn of_outage(model: &mut Outage, way: &[outage::Action]) -> Vec<Line> {
    let mut state = model.initial();
    let mut second = 0;
    let mut lines = Vec::new();
    for action in way {
        let Some((next, more)) = model.act(state, *action) else {
            break;
        };
        state = next;
        if *action == outage::Action::Tick {
            second += TICK.as_secs();
            lines.extend(more.iter().filter_map(|text| {
                let (who, what) = text.split_once(": ")?;
                Some(Line {
                    second,
                    who: who.to_owned(),
                    what: what.to_owned(),
                })
            }));
        } else {
            let (who, what) = Outage::tell(*action);
            let what = told(what, &more);
            lines.push(Line { second, who, what });
        }
    }
    lines
}

pub(crate) fn of_effects(_: &mut Effects, way: &[effects::Action]) -> Vec<Line> {
    let tell = |action: &effects::Action| {
        let (who, what) = Effects::tell(*action);
        Line {
            second: 0,
            who,
            what,
        }
    };
    way.iter().map(tell).collect()
}

/// The story of a broken rule, as text.
pub fn text(case: &Case, report: &Report) -> String {
    let mut text = String::new();
    let Some((end, lines)) = &report.violation else {
        return text;
    };
    let mut last = None;
    for line in lines {
        let time = if last == Some(line.second) {
            String::new()
        } else {
            format!("{} s", line.second)
        };
        last = Some(line.second);
        let who = &line.who;
        // Writing to a String does not fail.
        if writeln!(text, "{time:>6}  {who:<12} {}", line.what).is_err() {
            break;
        }
    }
    let seen = if case.broken.is_some() {
        "=>"
    } else {
        "VIOLATION"
    };
    text + "        " + seen + " " + end + "\n"
}

/// All stories, as a section of `docs/fencing.md`.
pub fn markdown<'a>(stories: impl IntoIterator<Item = (&'a Case, &'a Report)>) -> String {
    let mut out = String::new();
    for (case, report) in stories {
        let Some(rule) = case.broken else { continue };
        let (hole, sentence) = (rule.hole(), rule.sentence());
        let story = text(case, report);
        out += &[
            "\n**",
            hole,
            ".** ",
            sentence,
            "\n\n```text\n",
            &story,
            "```\n",
        ]
        .concat();
    }
    out
}
