//! All randomness of the process, from the seed.
//!
//! Maps and tokio's choice between ready branches take their randomness from the standard library,
//! production code takes it from `rand`: both ask the C library's `getrandom`, which the standard library
//! documents as open to interposition. The one of this module answers from the seed on a thread that has
//! one. What TLS draws does not come from here; only bytes depend on it, never the order of events.
//!
//! # Caveats
//! tokio seeds each runtime by how many there were in the process before, so a seed is only replayed
//! exactly by a process that runs nothing else.
#![expect(
    unsafe_code,
    reason = "getrandom is an exported C function that fills a buffer"
)]

use std::cell::Cell;
use std::io::Read;

thread_local! {
    static STREAM: Cell<Option<Rng>> = const { Cell::new(None) };
}

/// From now on everything random on this thread follows from `seed`.
pub fn seed_this_thread(seed: u64) {
    STREAM.set(Some(Rng::new(seed)));
}

/// Fills `buffer` with `length` random bytes.
///
/// # Safety
/// `buffer` must be valid for writes of `length` bytes, as for the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller hands over a buffer of this length.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    let filled = match STREAM.get() {
        Some(mut stream) => {
            bytes.fill_with(|| stream.draw().to_le_bytes()[0]);
            STREAM.set(Some(stream));
            true
        }
        None => std::fs::File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(bytes))
            .is_ok(),
    };
    if filled {
        isize::try_from(length).unwrap_or(-1)
    } else {
        -1
    }
}

/// A small generator (SplitMix64) for the decisions of the simulation.
#[derive(Debug, Clone, Copy)]
pub struct Rng(u64);

impl Rng {
    /// The stream of a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.draw() % (high - low + 1)
    }

    /// True so many times in a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.between(1, 100) <= chance
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let last = all.len().checked_sub(1)?;
        all.get(usize::try_from(self.between(0, last as u64)).ok()?)
    }
}
