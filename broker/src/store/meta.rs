//! `meta.sqlite`: what the broker has promised, and recent cluster events. An own file, so that a promise never queues
//! behind records. Invariant E2: a promise is synced before anything is said about it, and is never taken back.

use super::volume::{Paths, VolumeLock, drop_ballast, has_ballast, lay_ballast};
use super::{OpenError, StoreError};
use pubsub_core::control::image::Image;
use pubsub_core::control::{Event, Hard};
use pubsub_core::ids::{At, BrokerId, ClusterId, ControllerEpoch, StorageId, Voter};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// Pages of the log of promises after which they are brought into the file.
const LOG_PAGES: u32 = 100;

/// A broker's promises. One owner: the control task.
pub struct MetaStore {
    connection: Connection,
    paths: Paths,
    stored: Hard,
    /// The ballast was given up: what room there is belongs to promises.
    short: bool,
    _lock: Arc<VolumeLock>,
}

impl std::fmt::Debug for MetaStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetaStore").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl MetaStore {
    /// Takes over an opened `meta.sqlite` whose volume row was read (or founded) as `hard`; raises and syncs its `boot`.
    pub(crate) fn start(
        connection: Connection,
        paths: Paths,
        mut hard: Hard,
        lock: Arc<VolumeLock>,
    ) -> Result<Self, OpenError> {
        hard.boot += 1;
        lay_ballast(&paths);
        // The file grows early, while there is room: on a full disk the log can then be begun anew.
        let eager = connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES);
        eager.map_err(|source| OpenError::sqlite(&paths.meta, source))?;
        let mut meta = Self { connection, stored: hard.clone(), short: false, paths, _lock: lock };
        let path = meta.paths.meta.clone();
        meta.with_room(|connection| write_volume(connection, &hard)).map_err(|error| match error {
            StoreError::Sqlite(source) => OpenError::sqlite(&path, source),
            other => OpenError::Meta { path: path.clone(), detail: other.to_string() },
        })?;
        Ok(meta)
    }

    /// Returns the promises as last synced.
    pub fn hard(&self) -> &Hard {
        &self.stored
    }

    /// Writes what changed since the last time, and syncs it before it returns. Blocks for about one sync.
    ///
    /// # Errors
    /// Every error is fatal: the process must stop, and nothing of `hard` may be told to anyone.
    /// [`StoreError::Regress`]: `hard` forgets a promise; nothing was written.
    pub fn persist(&mut self, hard: &Hard) -> Result<(), StoreError> {
        check_forward(&self.stored, hard)?;
        let image_changed = match (&self.stored.accepted, &hard.accepted) {
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new) && old != new,
            (None, None) => false,
            (None, Some(_)) | (Some(_), None) => true,
        };
        let volume_changed = without_image(&self.stored) != without_image(hard);
        if !image_changed && !volume_changed {
            return Ok(());
        }
        let image = match &hard.accepted {
            Some(image) if image_changed => {
                Some((image.at, serde_json::to_vec(&**image).map_err(StoreError::Image)?))
            }
            Some(_) | None => None,
        };
        self.with_room(|connection| {
            let transaction = connection.transaction()?;
            if let Some((at, bytes)) = &image {
                write_image(&transaction, *at, bytes)?;
            }
            if volume_changed {
                write_volume(&transaction, hard)?;
            }
            Ok(transaction.commit()?)
        })?;
        self.stored = hard.clone();
        if self.short {
            self.reuse_log();
        }
        Ok(())
    }

    /// Lays the ballast anew once there is room for it again.
    pub fn room_again(&mut self) {
        if self.short {
            lay_ballast(&self.paths);
            self.short = !has_ballast(&self.paths);
        }
    }

    /// Keeps events, drops the oldest past [`EVENTS_MAX`](pubsub_core::limits::EVENTS_MAX), and returns the number of the
    /// newest. Not synced by itself: a crash may lose the last ones.
    ///
    /// # Errors
    /// SQLite's own, and a full disk; nothing is kept then, and the broker may go on.
    pub fn append_events(&mut self, at_ms: i64, events: &[Event]) -> Result<u64, StoreError> {
        if self.short {
            return Err(StoreError::DiskFull);
        }
        let texts = events.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
        let texts = texts.map_err(StoreError::Image)?;
        self.connection.execute_batch("PRAGMA synchronous=NORMAL")?;
        let kept = super::events::keep(&mut self.connection, at_ms, &texts);
        // Must not be left out after a failure either: promises are only promises when synced.
        self.connection.execute_batch("PRAGMA synchronous=FULL")?;
        Ok(kept?)
    }

    /// Lets the file grow no further: what SQLite does then is what it does on a full disk.
    #[cfg(test)]
    pub(super) fn limit_pages(&mut self, pages: u32) {
        self.connection.pragma_update(None, "max_page_count", pages).expect("a pragma");
    }

    /// Runs a transaction; if the disk is full, again in the log's own room, and again without the ballast. A full disk is met
    /// before the sync, so the outcome of a try is known; a failed sync is never tried again.
    fn with_room(
        &mut self,
        mut work: impl FnMut(&mut Connection) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match work(&mut self.connection) {
            Err(StoreError::Sqlite(error)) if is_full(&error) => self.short = true,
            other => return other,
        }
        self.reuse_log();
        match work(&mut self.connection) {
            Err(StoreError::Sqlite(error)) if is_full(&error) && drop_ballast(&self.paths) => {
                tracing::error!("the disk is full; promises are written in the ballast's place");
                self.reuse_log();
                work(&mut self.connection)
            }
            other => other,
        }
    }

    /// Brings everything from the write-ahead log into the file, so that the log is written from its start again and does not
    /// grow: many promises then need no more room than one.
    fn reuse_log(&self) {
        let done =
            self.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get::<_, i64>(0));
        if !matches!(done, Ok(0)) {
            tracing::debug!(?done, "the log of promises could not be begun anew");
        }
    }
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// Everything but the image, for comparison.
fn without_image(hard: &Hard) -> Hard {
    Hard { accepted: None, ..hard.clone() }
}

fn check_forward(old: &Hard, new: &Hard) -> Result<(), StoreError> {
    let refuse = |detail: String| Err(StoreError::Regress { detail });
    if (new.broker_id, new.storage_id, new.boot) != (old.broker_id, old.storage_id, old.boot) {
        return refuse("broker, volume or boot are not those of this process".to_owned());
    }
    if old.cluster_id.is_some() && new.cluster_id != old.cluster_id {
        return refuse("the volume belongs to another cluster".to_owned());
    }
    if new.epoch < old.epoch || new.committed < old.committed {
        return refuse(format!(
            "{} at {} after {} at {}",
            new.epoch, new.committed, old.epoch, old.committed
        ));
    }
    let place = |hard: &Hard| hard.accepted.as_ref().map(|image| image.at);
    // A voter that promised an epoch to who did not win it is bound to the winner when that one is heard. There is one
    // winner: whose image was accepted in this epoch keeps the promise.
    let settled = new.voted_for.is_none() || place(old).is_some_and(|at| at.epoch == old.epoch);
    let same = match (old.voted_for, new.voted_for) {
        // The volume was not written down yet when this promise was made.
        (Some(old), Some(new)) if old.storage_id.0.is_nil() => old.id == new.id,
        (old, new) => old.is_none() || old == new,
    };
    if new.epoch == old.epoch && !same && settled {
        return refuse(format!("epoch {} was promised to another broker", new.epoch));
    }
    if place(new) < place(old) {
        refuse("an older image would replace a newer one".to_owned())
    } else {
        Ok(())
    }
}

fn write_image(connection: &Connection, at: At, bytes: &[u8]) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO accepted(one, epoch, version, sha256, image) VALUES (1, ?1, ?2, ?3, ?4)",
        )?
        .execute(params![signed(at.epoch.0)?, signed(at.version)?, &Sha256::digest(bytes)[..], bytes])?;
    Ok(())
}

fn write_volume(connection: &Connection, hard: &Hard) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO volume(one, cluster_id, broker_id, storage_id, boot, epoch, voted_for,
                 voted_storage, committed_epoch, committed_version) VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            hard.cluster_id.map(|id| id.0.into_bytes()),
            hard.broker_id.0,
            hard.storage_id.0.as_bytes(),
            signed(hard.boot)?,
            signed(hard.epoch.0)?,
            hard.voted_for.map(|to| to.id.0),
            hard.voted_for.map(|to| to.storage_id.0.into_bytes()),
            signed(hard.committed.epoch.0)?,
            signed(hard.committed.version)?,
        ])?;
    Ok(())
}

fn signed(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value)
        .map_err(|_| StoreError::Regress { detail: format!("{value} is past what a file can hold") })
}

pub(super) fn unsigned(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(index)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, value))
}

/// Reads the promises back; `None` if the volume was never founded.
///
/// # Errors
/// [`OpenError::Meta`] when the image is not what was written, or SQLite's own.
pub(crate) fn read_hard(connection: &Connection, path: &Path) -> Result<Option<Hard>, OpenError> {
    let failed = |source| OpenError::sqlite(path, source);
    let hard = connection
        .query_row(
            "SELECT cluster_id, broker_id, storage_id, boot, epoch, voted_for, committed_epoch, committed_version,
                    voted_storage
             FROM volume",
            [],
            |row| {
                let version = unsigned(row, 7)?;
                let volume = row.get::<_, Option<[u8; 16]>>(8)?.map_or(Uuid::nil(), Uuid::from_bytes);
                let voter = |id| Voter { id: BrokerId(id), storage_id: StorageId(volume) };
                Ok(Hard {
                    cluster_id: row.get::<_, Option<[u8; 16]>>(0)?.map(|id| ClusterId(Uuid::from_bytes(id))),
                    broker_id: BrokerId(row.get(1)?),
                    storage_id: StorageId(Uuid::from_bytes(row.get(2)?)),
                    boot: unsigned(row, 3)?,
                    epoch: ControllerEpoch(unsigned(row, 4)?),
                    voted_for: row.get::<_, Option<u32>>(5)?.map(voter),
                    accepted: None,
                    committed: At { epoch: ControllerEpoch(unsigned(row, 6)?), version },
                })
            },
        )
        .optional()
        .map_err(failed)?;
    let Some(mut hard) = hard else {
        return Ok(None);
    };
    hard.accepted = read_image(connection, path)?;
    Ok(Some(hard))
}

fn read_image(connection: &Connection, path: &Path) -> Result<Option<Arc<Image>>, OpenError> {
    let row = connection
        .query_row("SELECT sha256, image FROM accepted", [], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))
        })
        .optional()
        .map_err(|source| OpenError::sqlite(path, source))?;
    let Some((expected, bytes)) = row else {
        return Ok(None);
    };
    let damaged = |detail: String| OpenError::Meta { path: path.to_owned(), detail };
    if Sha256::digest(&bytes)[..] != expected[..] {
        return Err(damaged("the metadata image does not match its hash".to_owned()));
    }
    let image =
        serde_json::from_slice(&bytes).map_err(|error| damaged(format!("the metadata image: {error}")))?;
    Ok(Some(Arc::new(image)))
}
