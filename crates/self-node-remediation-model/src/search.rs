//! Breadth-first search over compact states.
//!
//! # Guarantees
//! Whole states are kept and compared, no hashes of them: a state that is skipped was really there before. The first
//! violation found is one with the fewest actions.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use indexmap::IndexSet;

/// A fast hash for small keys that nobody chooses to collide (the multiplication of FxHash, spread over all bits).
#[derive(Debug, Default, Clone, Copy)]
pub struct Fast(u64);

impl Hasher for Fast {
    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ (mixed >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

type Build = BuildHasherDefault<Fast>;

/// A set of values with numbers.
#[derive(Debug)]
pub struct Interner<T>(IndexSet<T, Build>);

impl<T: Hash + Eq> Default for Interner<T> {
    fn default() -> Self {
        Self(IndexSet::default())
    }
}

impl<T: Hash + Eq> Interner<T> {
    /// The number of a value.
    pub fn number(&mut self, value: T) -> u32 {
        u32::try_from(self.0.insert_full(value).0).unwrap_or(u32::MAX)
    }

    /// The value of a number that this set gave out.
    ///
    /// # Panics
    /// On another number.
    #[expect(clippy::expect_used, reason = "numbers come from this set only")]
    pub fn value(&self, number: u32) -> &T {
        self.0
            .get_index(usize::try_from(number).unwrap_or(usize::MAX))
            .expect("a number of this set")
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Results that were computed before.
pub type Memo<K, V> = HashMap<K, V, Build>;

/// Something to search through.
pub trait Model {
    /// A state, as small as possible.
    type State: Copy + Eq + Hash;
    /// What leads from one state to another.
    type Action: Copy;

    /// Where everything begins.
    fn initial(&mut self) -> Self::State;

    /// Everything that can happen next.
    fn successors(&mut self, state: Self::State, into: &mut Vec<(Self::Action, Self::State)>);

    /// What promise is broken in this state.
    fn violation(&self, state: Self::State) -> Option<String>;
}

/// What a search found.
#[derive(Debug, Clone)]
pub struct Outcome<A> {
    /// Different states.
    pub states: usize,
    /// Transitions tried.
    pub transitions: u64,
    /// Actions on the longest of the shortest ways.
    pub depth: u32,
    /// Whether every reachable state was seen.
    pub closed: bool,
    /// The broken promise and the way there.
    pub violation: Option<(String, Vec<A>)>,
}

/// Searches through at most `most` states; `visit` sees each new one.
pub fn search<M: Model>(
    model: &mut M,
    most: usize,
    mut visit: impl FnMut(&mut M, M::State) -> Option<String>,
) -> Outcome<M::Action> {
    let mut states: IndexSet<M::State, Build> = IndexSet::default();
    let mut parents: Vec<(u32, Option<M::Action>)> = Vec::new();
    let initial = model.initial();
    states.insert(initial);
    parents.push((0, None));
    let mut outcome = Outcome {
        states: 1,
        transitions: 0,
        depth: 0,
        closed: false,
        violation: model.violation(initial).map(|text| (text, Vec::new())),
    };
    let mut next = Vec::new();
    let (mut at, mut layer_end) = (0usize, 1usize);
    while outcome.violation.is_none() {
        let Some(state) = states.get_index(at).copied() else {
            outcome.closed = true;
            break;
        };
        if states.len() >= most {
            break;
        }
        if at == layer_end {
            layer_end = states.len();
            outcome.depth += 1;
        }
        next.clear();
        model.successors(state, &mut next);
        for (action, successor) in next.drain(..) {
            outcome.transitions += 1;
            let (number, new) = states.insert_full(successor);
            if !new {
                continue;
            }
            parents.push((u32::try_from(at).unwrap_or(u32::MAX), Some(action)));
            let broken = model
                .violation(successor)
                .or_else(|| visit(model, successor));
            if let Some(text) = broken {
                outcome.violation = Some((text, way(&parents, number)));
                outcome.depth += 1;
                break;
            }
        }
        at += 1;
    }
    outcome.states = states.len();
    outcome
}

fn way<A: Copy>(parents: &[(u32, Option<A>)], to: usize) -> Vec<A> {
    let mut actions = Vec::new();
    let mut at = to;
    while let Some((parent, Some(action))) = parents.get(at).copied() {
        actions.push(action);
        at = usize::try_from(parent).unwrap_or_default();
    }
    actions.reverse();
    actions
}
