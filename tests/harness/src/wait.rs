//! Waiting for something to become true, with a limit and a name for the message.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::time::sleep;

/// Looks until there is something, at most `limit` long. An error of a look is looked over until the
/// limit: a server that is being restarted or cut off is part of many scenarios.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + limit;
    loop {
        let seen = look().await;
        if let Ok(Some(found)) = seen {
            return Ok(found);
        }
        if Instant::now() >= end {
            let waited = format!("waited {} s for {what}", limit.as_secs());
            return match seen {
                Err(error) => Err(error).context(waited),
                Ok(_) => bail!(waited),
            };
        }
        sleep(Duration::from_millis(200)).await;
    }
}
