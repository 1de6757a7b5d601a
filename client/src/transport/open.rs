//! Answers that go on: their head is waited for, their body is read as it comes.

use super::{CallError, Request, Transport, Verdict, judge, lost, problem_of, read_body};
use crate::retry::Backoff;
use std::time::Duration;
use tokio::time::Instant;

/// Longest life of one stream; brokers end theirs sooner.
const LIFE: Duration = Duration::from_secs(3_600);

impl Transport {
    /// Asks one broker after the other until one begins to answer; returns who that is, and its answer.
    ///
    /// # Errors
    /// See [`CallError`]; the request only reads, so nothing was done.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(crate) async fn open(&self, request: &Request) -> Result<(String, reqwest::Response), CallError> {
        let policy = self.config.retry;
        let mut backoff = Backoff::start(policy.within(request.deadline.unwrap_or(policy.deadline)));
        let request_id = self.ids.next();
        let (mut tries, mut round) = (0_u32, 0_usize);
        loop {
            let broker = self.with_book(|book| book.pick(Instant::now()).to_owned());
            let sent = self.build(&broker, request, &request_id).timeout(LIFE).send();
            let (what, at_least) = match tokio::time::timeout(self.config.answer_timeout, sent).await {
                Ok(Ok(response)) if response.status().is_success() => {
                    self.with_book(|book| book.succeeded(&broker));
                    return Ok((broker, response));
                }
                Ok(Ok(response)) => {
                    let (status, headers) = (response.status(), response.headers().clone());
                    let body = read_body(response).await.ok().flatten().unwrap_or_default();
                    let problem = problem_of(status, &headers, &body);
                    let what = format!("{broker}: {} ({} {})", problem.detail, status.as_u16(), problem.code);
                    match judge(status, problem) {
                        Verdict::No(problem) => return Err(CallError::Refused { broker, problem }),
                        Verdict::Again { at_least } | Verdict::SlowDown { at_least } => (what, at_least),
                        Verdict::Unknown => (what, Duration::ZERO),
                    }
                }
                Ok(Err(error)) => (lost(&broker, &error).what, Duration::ZERO),
                Err(_) => (format!("{broker}: no answer in time"), Duration::ZERO),
            };
            tries = tries.saturating_add(1);
            round += 1;
            self.avoid(&broker);
            if round < self.with_book(|book| book.len()) && !backoff.left().is_zero() {
                continue;
            }
            round = 0;
            if !backoff.wait(at_least.min(policy.cap)).await {
                return Err(CallError::Unavailable { tries, waited: backoff.elapsed(), last: what });
            }
        }
    }
}
