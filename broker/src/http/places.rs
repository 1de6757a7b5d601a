//! Places of streams that are open: each holds a connection, so that a broker has so many and no more.

use super::error::{ApiError, ApiResult};
use pubsub_core::wire::error::ErrorCode;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long who finds no place is to stay away, milliseconds.
const COME_BACK_MS: u64 = 5_000;

/// The places of one kind of streams; cloning shares them.
#[derive(Clone)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    most: usize,
    what: &'static str,
}

impl Places {
    /// Makes `most` places for `what`.
    pub(crate) fn new(most: usize, what: &'static str) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), most, what }
    }

    /// Takes a place until the permit is dropped.
    ///
    /// # Errors
    /// 503 when all are taken.
    pub(crate) fn enter(&self) -> ApiResult<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().map_err(|_| {
            let Self { most, what, .. } = self;
            let detail =
                format!("this broker serves {most} streams of {what} already; ask another one, or come back");
            ApiError::new(ErrorCode::Overloaded, detail).retry_after_ms(COME_BACK_MS)
        })
    }

    /// Returns how many places are taken.
    pub(crate) fn taken(&self) -> usize {
        self.most - self.free.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_have_a_bound_and_free_their_place() {
        let places = Places::new(3, "something");
        let mut taken: Vec<_> = (0..3).map(|_| places.enter()).collect();
        assert!(taken.iter().all(Result::is_ok));
        assert!(matches!(places.enter(), Err(error) if error.0.retry_after_ms == Some(COME_BACK_MS)));
        taken.pop();
        assert_eq!(places.taken(), 2);
        assert!(places.enter().is_ok());
    }
}
