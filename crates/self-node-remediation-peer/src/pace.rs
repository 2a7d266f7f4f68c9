//! How many questions are under way at once, when many are to be asked.

use std::time::Duration;

use tokio::sync::Semaphore;

/// Peers asked at once, at most (fencing-safety section 7).
pub const IN_FLIGHT: usize = 256;
/// Questions that are younger than [`FRESH_FOR`]. Where peers answer, no more than these hold memory, here and there;
/// where they are silent, the others join in (128 a second).
const FRESH: usize = 32;
const FRESH_FOR: Duration = Duration::from_millis(250);

/// Lets questions begin one after the other, of the [`IN_FLIGHT`] that may wait for an answer.
#[derive(Debug)]
pub struct Pace(Semaphore);

impl Default for Pace {
    fn default() -> Self {
        Self(Semaphore::new(FRESH))
    }
}

impl Pace {
    /// Waits until `question` may begin, then for its answer. A question takes some 20 KiB, and most wait: it is made
    /// when it begins.
    pub async fn ask<F: Future>(&self, question: impl FnOnce() -> F) -> F::Output {
        let place = self.0.acquire().await;
        let mut question = Box::pin(question());
        let soon = tokio::time::timeout(FRESH_FOR, &mut question).await;
        drop(place);
        match soon {
            Ok(answer) => answer,
            Err(_elapsed) => question.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::StreamExt;
    use futures::stream;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// The most that ran at once, and how long it took, with answers after `answer`.
    async fn asked(questions: usize, answer: Duration) -> (usize, Duration) {
        let (running, most) = (Cell::new(0), Cell::new(0));
        let pace = Pace::default();
        let start = Instant::now();
        stream::iter(0..questions)
            .map(|_| {
                pace.ask(async || {
                    running.set(running.get() + 1);
                    most.set(most.get().max(running.get()));
                    sleep(answer).await;
                    running.set(running.get() - 1);
                })
            })
            .buffer_unordered(IN_FLIGHT)
            .collect::<()>()
            .await;
        (most.get(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn quick_answers_need_few_questions_at_once() {
        let (most, took) = asked(960, Duration::from_millis(20)).await;
        assert_eq!(most, FRESH);
        assert!(took <= Duration::from_millis(700), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_does_not_hold_up_the_others() {
        let (most, took) = asked(512, Duration::from_secs(5)).await;
        assert_eq!(most, IN_FLIGHT);
        // Two times the silence, and the two seconds in which the first are begun.
        assert!(took <= Duration::from_millis(12_500), "{took:?}");
    }
}
