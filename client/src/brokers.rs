//! Which broker to ask: a short list with one that is stuck to until it fails. Pure: time is an argument.

use std::time::Duration;
use tokio::time::Instant;

/// Most brokers that are remembered, learned ones included: an answer that named thousands would not be believed.
pub const BROKERS_MAX: usize = 64;
/// A broker that failed is passed over for this long at first, twice as long with each further failure.
const PENALTY_FIRST: Duration = Duration::from_millis(250);
/// A broker that failed often is still tried this often: it may have come back.
const PENALTY_CAP: Duration = Duration::from_secs(5);

/// Why an address of a broker was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBroker {
    /// Not of the form `http://host:port`.
    #[error("{given:?} is not a broker's address: write http://host:port")]
    Url {
        /// As given.
        given: String,
    },
    /// No address at all.
    #[error("no broker was named: give at least one address such as http://127.0.0.1:8081")]
    None,
}

/// The base URL of a broker, without a slash at the end.
///
/// # Errors
/// [`InvalidBroker::Url`] when the text is no `http://` or `https://` URL with a host.
pub fn base_url(given: &str) -> Result<String, InvalidBroker> {
    let refused = || InvalidBroker::Url { given: given.chars().take(80).collect() };
    let trimmed = given.trim();
    // A bare host:port is what people type; it can only mean plain HTTP.
    let full = if trimmed.contains("://") { trimmed.to_owned() } else { format!("http://{trimmed}") };
    let url = reqwest::Url::parse(&full).map_err(|_| refused())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(refused());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Splits `A,B C` at commas and blanks and checks every address.
///
/// # Errors
/// See [`base_url`]; [`InvalidBroker::None`] when nothing is left.
pub fn parse_list(text: &str) -> Result<Vec<String>, InvalidBroker> {
    let parts = text.split([',', ' ', '\n', '\t']).filter(|part| !part.trim().is_empty());
    let list: Vec<String> = parts.map(base_url).collect::<Result<_, _>>()?;
    if list.is_empty() { Err(InvalidBroker::None) } else { Ok(list) }
}

#[derive(Clone, Debug)]
struct Entry {
    url: String,
    failures: u32,
    usable_from: Option<Instant>,
}

/// The brokers that a client knows, and the one that it sticks to.
#[derive(Clone, Debug)]
pub struct BrokerBook {
    entries: Vec<Entry>,
    current: usize,
}

impl BrokerBook {
    /// Makes a book of checked addresses ([`base_url`]), in the order of preference.
    ///
    /// # Errors
    /// [`InvalidBroker::None`] when the list is empty.
    pub fn new(urls: impl IntoIterator<Item = String>) -> Result<Self, InvalidBroker> {
        let mut book = Self { entries: Vec::new(), current: 0 };
        book.learn(urls);
        if book.entries.is_empty() { Err(InvalidBroker::None) } else { Ok(book) }
    }

    /// Adds addresses that are not known yet, behind the others, up to [`BROKERS_MAX`].
    pub fn learn(&mut self, urls: impl IntoIterator<Item = String>) {
        for url in urls {
            let known = self.entries.iter().any(|entry| entry.url == url);
            if !known && self.entries.len() < BROKERS_MAX {
                self.entries.push(Entry { url, failures: 0, usable_from: None });
            }
        }
    }

    /// Returns how many brokers are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether no broker is known; never true of a book that was made.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns all known addresses.
    pub fn urls(&self) -> Vec<String> {
        self.entries.iter().map(|entry| entry.url.clone()).collect()
    }

    /// Returns the broker to ask now: the one that answered last, else the next that has not just failed, else the
    /// one whose failure is forgotten first.
    pub fn pick(&mut self, now: Instant) -> &str {
        let count = self.entries.len();
        let usable = |entry: &Entry| entry.usable_from.is_none_or(|from| from <= now);
        let next = (0..count).map(|step| (self.current + step) % count).find(|at| usable(&self.entries[*at]));
        self.current = next.unwrap_or_else(|| {
            (0..count)
                .min_by_key(|at| self.entries[*at].usable_from)
                .expect("a book holds at least one broker")
        });
        &self.entries[self.current].url
    }

    /// Notes that a broker answered.
    pub fn succeeded(&mut self, url: &str) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.url == url) {
            entry.failures = 0;
            entry.usable_from = None;
        }
    }

    /// Notes that a broker could not be reached or can't serve now, so that the next pick is another one.
    pub fn failed(&mut self, url: &str, now: Instant) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.url == url) else { return };
        let doubled = PENALTY_FIRST.saturating_mul(1_u32.checked_shl(entry.failures).unwrap_or(u32::MAX));
        entry.usable_from = now.checked_add(doubled.min(PENALTY_CAP));
        entry.failures = entry.failures.saturating_add(1);
    }

    /// Sticks to the given broker from now on, if it is known.
    pub fn prefer(&mut self, url: &str) {
        if let Some(at) = self.entries.iter().position(|entry| entry.url == url) {
            self.current = at;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn book(names: &[&str]) -> BrokerBook {
        BrokerBook::new(names.iter().map(|name| base_url(name).unwrap())).unwrap()
    }

    #[test]
    fn addresses_are_taken_as_people_write_them() {
        assert_eq!(base_url("http://127.0.0.1:8081/").unwrap(), "http://127.0.0.1:8081");
        assert_eq!(base_url("broker-0.pubsub:8081").unwrap(), "http://broker-0.pubsub:8081");
        assert_eq!(base_url("https://example:443/pubsub/").unwrap(), "https://example/pubsub");
        for bad in ["", "ftp://a", "http://", "http://a:99999", "http://a?x=1"] {
            assert!(base_url(bad).is_err(), "{bad:?} was taken");
        }
        assert_eq!(parse_list("a:1, b:2,c:3").unwrap().len(), 3);
        assert_eq!(parse_list(" , "), Err(InvalidBroker::None));
    }

    #[test]
    fn the_same_broker_is_asked_until_it_fails() {
        let mut book = book(&["a:1", "b:1", "c:1"]);
        let now = Instant::now();
        assert_eq!(book.pick(now), "http://a:1");
        assert_eq!(book.pick(now), "http://a:1");
        book.failed("http://a:1", now);
        assert_eq!(book.pick(now), "http://b:1");
        let later = now + Duration::from_secs(60);
        assert_eq!(
            book.pick(later),
            "http://b:1",
            "a broker that came back is not returned to for its own sake"
        );
    }

    #[test]
    fn with_every_broker_down_the_one_that_failed_first_is_tried_first() {
        let mut book = book(&["a:1", "b:1"]);
        let now = Instant::now();
        book.failed("http://a:1", now);
        book.failed("http://b:1", now + Duration::from_millis(10));
        assert_eq!(book.pick(now + Duration::from_millis(20)), "http://a:1");
        book.failed("http://a:1", now + Duration::from_millis(20));
        assert_eq!(book.pick(now + Duration::from_millis(30)), "http://b:1");
    }

    #[test]
    fn learned_brokers_come_last_once_each_and_not_without_bound() {
        let mut book = book(&["a:1"]);
        book.learn(["http://b:1".to_owned(), "http://a:1".to_owned(), "http://b:1".to_owned()]);
        assert_eq!(book.urls(), ["http://a:1", "http://b:1"]);
        book.learn((0..1000).map(|port| format!("http://c:{port}")));
        assert_eq!(book.len(), BROKERS_MAX);
    }

    #[test]
    fn an_answer_clears_the_failures() {
        let mut book = book(&["a:1", "b:1"]);
        let now = Instant::now();
        book.failed("http://a:1", now);
        book.succeeded("http://a:1");
        book.failed("http://b:1", now);
        assert_eq!(book.pick(now), "http://a:1");
    }
}
