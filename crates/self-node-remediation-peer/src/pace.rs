//! How many questions are under way at once, when many are to be asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Peers asked at once, at most (fencing-safety section 7).
pub const IN_FLIGHT: usize = 256;
/// Places of questions that are waited for, at least. Where peers answer, no more than these hold memory, here and there.
const PLACES: usize = 32;
/// Of a thousand questions sixty-two have a place: if all are silent, the last begins after four seconds, however many
/// there are (up to 4,096).
const PART: usize = 16;
/// A question without an answer gives up its place after this time.
const PATIENCE: Duration = Duration::from_millis(250);
/// Where all are slow, because all ask all, more questions at once would only make them slower.
const MOST_PATIENCE: Duration = Duration::from_secs(3);

/// Lets questions begin one after the other, of the [`IN_FLIGHT`] that may wait for an answer.
#[derive(Debug)]
pub struct Pace {
    places: Semaphore,
    /// Nanoseconds that slow answers take, of those whose questions had their places still.
    slow: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        Self::with_places(PLACES)
    }
}

impl Pace {
    /// For so many questions that are to be asked soon.
    pub fn of(questions: usize) -> Self {
        Self::with_places((questions / PART).clamp(PLACES, IN_FLIGHT))
    }

    fn with_places(places: usize) -> Self {
        Self {
            places: Semaphore::new(places),
            slow: AtomicU64::new(0),
        }
    }

    /// Waits until `question` may begin, then for its answer. A question takes some 20 KiB, and most wait: it is made
    /// when it begins.
    pub async fn ask<F: Future>(&self, question: impl FnOnce() -> F) -> F::Output {
        let place = self.places.acquire().await;
        let began = Instant::now();
        let mut question = Box::pin(question());
        loop {
            let until = began + self.patience();
            if let Ok(answer) = timeout_at(until, &mut question).await {
                self.answered(began.elapsed());
                return answer;
            }
            // Others were answered meanwhile, as slowly: this one may be as well.
            if began + self.patience() <= until {
                break;
            }
        }
        drop(place);
        question.await
    }

    fn patience(&self) -> Duration {
        let slow = Duration::from_nanos(self.slow.load(Ordering::Relaxed));
        slow.saturating_mul(2).clamp(PATIENCE, MOST_PATIENCE)
    }

    fn answered(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.slow.load(Ordering::Relaxed);
        // Forgotten by and by. Both sides run on one thread; elsewhere a lost answer would not matter.
        let slow = took.max(before.saturating_sub(before / 8));
        self.slow.store(slow, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::StreamExt;
    use futures::stream;
    use tokio::time::sleep;

    use super::*;

    /// The most that ran at once, and how long it took.
    async fn asked(questions: usize, answer: impl AsyncFn(usize)) -> (usize, Duration) {
        let (running, most) = (Cell::new(0), Cell::new(0));
        let (pace, answer) = (Pace::of(questions), &answer);
        let start = Instant::now();
        stream::iter(0..questions)
            .map(|question| {
                let (running, most, pace) = (&running, &most, &pace);
                pace.ask(async move || {
                    running.set(running.get() + 1);
                    most.set(most.get().max(running.get()));
                    answer(question).await;
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
        let (most, took) = asked(480, async |_| sleep(Duration::from_millis(20)).await).await;
        assert_eq!(most, PLACES);
        assert!(took <= Duration::from_millis(350), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_does_not_hold_up_the_others() {
        let (most, took) = asked(512, async |_| sleep(Duration::from_secs(5)).await).await;
        assert_eq!(most, IN_FLIGHT);
        // Two times the silence, and the two seconds in which the first are begun.
        assert!(took <= Duration::from_millis(12_500), "{took:?}");
        // Nor are more questions begun more slowly: four seconds of beginning, with 256 places for four times silence.
        let (_most, took) = asked(1000, async |_| sleep(Duration::from_secs(5)).await).await;
        assert!(took <= Duration::from_millis(24_500), "{took:?}");
    }

    /// Two processors that all agents share: each question waits for its turn there.
    #[tokio::test(start_paused = true)]
    async fn peers_that_are_slow_because_all_ask_are_not_asked_by_more() {
        let busy = Semaphore::new(1);
        let (most, _took) = asked(199, async |_| {
            let _turn = busy.acquire().await;
            sleep(Duration::from_millis(90)).await;
        })
        .await;
        assert_eq!(most, PLACES);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_of_some_do_not_make_the_silent_hold_up_the_others() {
        let answered = Cell::new(0);
        let start = Instant::now();
        let last = Cell::new(Duration::ZERO);
        asked(400, async |question| {
            if question % 2 == 0 {
                sleep(Duration::from_secs(12)).await;
            } else {
                sleep(Duration::from_millis(20)).await;
                answered.set(answered.get() + 1);
                last.set(start.elapsed());
            }
        })
        .await;
        assert_eq!(answered.get(), 200);
        // 200 silent ones, 32 each quarter of a second.
        assert!(
            last.get() <= Duration::from_millis(2_500),
            "{:?}",
            last.get()
        );
    }
}
