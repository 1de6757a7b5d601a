//! Recent events of this broker, kept in `meta.sqlite`: appended by the control task, read by whoever shows them.

use super::meta::unsigned;
use super::schema::open_reader;
use super::{OpenError, StoreError};
use pubsub_core::control::Event;
use pubsub_core::ids::StorageId;
use pubsub_core::limits::EVENTS_MAX;
use rusqlite::{Connection, params};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// One event as kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Grows by at least one an event, and never begins anew on a volume.
    pub id: u64,
    /// Wall clock when it was kept, ms since 1970.
    pub at_ms: i64,
    /// What happened.
    pub event: Event,
}

/// Some events, and where they lie among all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    /// Oldest first.
    pub events: Vec<StoredEvent>,
    /// Events up to this one were looked at: the next page begins behind it.
    pub end: u64,
    /// The oldest one kept; one more than `newest` if there is none.
    pub oldest: u64,
    /// The newest one ever kept, 0 if none.
    pub newest: u64,
}

/// Reads events; cloning shares the connection.
#[derive(Clone)]
pub struct EventLog {
    connection: Arc<Mutex<Connection>>,
    volume: StorageId,
}

impl std::fmt::Debug for EventLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLog").field("volume", &self.volume).finish_non_exhaustive()
    }
}

impl EventLog {
    pub(super) fn open(path: &Path, volume: StorageId) -> Result<Self, OpenError> {
        Ok(Self { connection: Arc::new(Mutex::new(open_reader(path)?)), volume })
    }

    /// Returns the volume that numbers the events.
    pub fn volume(&self) -> StorageId {
        self.volume
    }

    /// Returns up to `limit` events behind the one numbered `after` (0: from the oldest kept), oldest first.
    ///
    /// # Errors
    /// SQLite's own.
    pub async fn after(&self, after: u64, limit: u32) -> Result<EventPage, StoreError> {
        self.read(move |_| after, limit).await
    }

    /// Returns the newest `limit` events, oldest first.
    ///
    /// # Errors
    /// SQLite's own.
    pub async fn newest(&self, limit: u32) -> Result<EventPage, StoreError> {
        self.read(move |newest| newest.saturating_sub(u64::from(limit)), limit).await
    }

    async fn read(
        &self,
        after: impl FnOnce(u64) -> u64 + Send + 'static,
        limit: u32,
    ) -> Result<EventPage, StoreError> {
        let shared = Arc::clone(&self.connection);
        let reading = tokio::task::spawn_blocking(move || {
            let connection = shared.lock().unwrap_or_else(PoisonError::into_inner);
            page(&connection, after, limit)
        });
        reading.await.unwrap_or(Err(StoreError::Closed))
    }
}

fn page(
    connection: &Connection,
    after: impl FnOnce(u64) -> u64,
    limit: u32,
) -> Result<EventPage, StoreError> {
    let (newest, oldest) = connection
        .prepare_cached(
            "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'event'), 0),
                 (SELECT min(id) FROM event)",
        )?
        .query_row([], |row| Ok((unsigned(row, 0)?, row.get::<_, Option<i64>>(1)?)))?;
    let oldest = oldest.and_then(|oldest| u64::try_from(oldest).ok()).unwrap_or(newest + 1);
    let after = after(newest);
    let mut page = EventPage { events: Vec::new(), end: after, oldest, newest };
    let mut statement =
        connection.prepare_cached("SELECT id, at_ms, event FROM event WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let mut rows = statement.query(params![i64::try_from(after).unwrap_or(i64::MAX), limit])?;
    while let Some(row) = rows.next()? {
        page.end = unsigned(row, 0)?;
        // One may be kept between the two statements. Where nothing is found, `after` proves nothing: it may be made up.
        page.newest = page.newest.max(page.end);
        // An event of another version may have another shape; it is only ever shown, so it may be left out.
        if let Ok(event) = serde_json::from_str(row.get_ref(2)?.as_str().unwrap_or_default()) {
            page.events.push(StoredEvent { id: page.end, at_ms: row.get(1)?, event });
        }
    }
    Ok(page)
}

/// Keeps events in one transaction and drops the oldest past [`EVENTS_MAX`]; returns the newest one's number.
pub(super) fn keep(connection: &mut Connection, at_ms: i64, texts: &[String]) -> rusqlite::Result<u64> {
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare_cached("INSERT INTO event(at_ms, event) VALUES (?1, ?2)")?;
        for text in texts {
            insert.execute(params![at_ms, text])?;
        }
    }
    let newest = transaction.last_insert_rowid();
    let kept = i64::try_from(EVENTS_MAX).expect("a small limit");
    transaction.execute("DELETE FROM event WHERE id <= ?1", [newest - kept])?;
    transaction.commit()?;
    Ok(u64::try_from(newest).unwrap_or(0))
}
