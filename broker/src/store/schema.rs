//! The two SQLite files: how they are opened, what they hold, and how an older schema is raised.
//!
//! Migrations only add, so that the version before can still read a file for one minor version.

mod views;

use super::OpenError;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

/// Where in a batch's id the partition's row number begins: `part.id << OFFSET_BITS | base_offset`.
pub(crate) const OFFSET_BITS: u32 = 40;
/// First offset that no longer fits a batch's id.
pub(crate) const OFFSET_END: u64 = 1 << OFFSET_BITS;
/// First partition row number that no longer fits a batch's id (which is a signed 64-bit integer).
pub(crate) const PART_END: i64 = (1 << (63 - OFFSET_BITS)) - 1;
/// Before this version of SQLite, a checkpoint beside several connections could lose committed pages of the WAL.
const SQLITE_MIN: i32 = 3_051_003;
/// Prepared statements kept by each connection; more than this module has.
const STATEMENTS_MAX: usize = 48;

/// One kind of file.
pub(crate) struct FileKind {
    application_id: i64,
    /// One step for each version, from an empty file on.
    migrations: &'static [&'static str],
    views: fn() -> String,
}

/// `pubsub.sqlite`.
pub(crate) const RECORDS: FileKind =
    FileKind { application_id: 0x5053_4252, migrations: &[RECORDS_1, RECORDS_2], views: views::records };
/// `meta.sqlite`.
pub(crate) const META: FileKind =
    FileKind { application_id: 0x5053_424d, migrations: &[META_1, META_2], views: String::new };

const RECORDS_1: &str = "
CREATE TABLE volume(one INTEGER PRIMARY KEY CHECK(one = 1), storage_id BLOB NOT NULL);
CREATE TABLE part(id INTEGER PRIMARY KEY, topic_id BLOB NOT NULL, no INTEGER NOT NULL, leader_epoch INTEGER NOT NULL,
    log_start INTEGER NOT NULL, log_end INTEGER NOT NULL, hw INTEGER NOT NULL, bytes INTEGER NOT NULL, UNIQUE(topic_id, no));
CREATE TABLE batch(id INTEGER PRIMARY KEY, count INTEGER NOT NULL, leader_epoch INTEGER NOT NULL, base_ts INTEGER NOT NULL,
    max_ts INTEGER NOT NULL, producer BLOB, crc INTEGER NOT NULL, flags INTEGER NOT NULL, seal INTEGER, data BLOB NOT NULL);
CREATE TABLE epoch(part INTEGER NOT NULL, leader_epoch INTEGER NOT NULL, start_offset INTEGER NOT NULL,
    PRIMARY KEY(part, leader_epoch)) WITHOUT ROWID;
CREATE TABLE producer(part INTEGER NOT NULL, pid BLOB NOT NULL, pepoch INTEGER NOT NULL, last_seq INTEGER NOT NULL,
    last_offset INTEGER NOT NULL, ts INTEGER NOT NULL, PRIMARY KEY(part, pid)) WITHOUT ROWID;
CREATE TABLE dropped(part INTEGER PRIMARY KEY);
CREATE TABLE topic_name(topic_id BLOB PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE key(seal INTEGER PRIMARY KEY, key_id TEXT NOT NULL, salt BLOB NOT NULL, check_value BLOB NOT NULL);
";

/// What is remembered of idempotent producers: a row a batch. The table before it was never written.
const RECORDS_2: &str = "
DROP TABLE producer;
CREATE TABLE producer_batch(part INTEGER NOT NULL, pid BLOB NOT NULL, base_offset INTEGER NOT NULL, pepoch INTEGER NOT NULL,
    first_seq INTEGER NOT NULL, count INTEGER NOT NULL, ts INTEGER NOT NULL, PRIMARY KEY(part, pid, base_offset)) WITHOUT ROWID;
";

const META_1: &str = "
CREATE TABLE volume(one INTEGER PRIMARY KEY CHECK(one = 1), cluster_id BLOB, broker_id INTEGER NOT NULL,
    storage_id BLOB NOT NULL, boot INTEGER NOT NULL, epoch INTEGER NOT NULL, voted_for INTEGER,
    committed_epoch INTEGER NOT NULL, committed_version INTEGER NOT NULL);
CREATE TABLE accepted(one INTEGER PRIMARY KEY CHECK(one = 1), epoch INTEGER NOT NULL, version INTEGER NOT NULL,
    sha256 BLOB NOT NULL, image BLOB NOT NULL);
CREATE TABLE event(id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, event TEXT NOT NULL);
";

/// Promises name the volume of their receiver. Of an older promise it is not known: nobody else gets that epoch.
const META_2: &str = "
ALTER TABLE volume ADD COLUMN voted_storage BLOB;
";

/// Refuses a SQLite library that is known to lose committed data.
///
/// # Errors
/// [`OpenError::OldSqlite`].
pub(crate) fn check_sqlite() -> Result<(), OpenError> {
    let found = rusqlite::version_number();
    if found < SQLITE_MIN { Err(OpenError::OldSqlite { found: rusqlite::version() }) } else { Ok(()) }
}

/// Opens a file for its one writer, making or raising its schema. A file of something else is left untouched.
///
/// # Errors
/// [`OpenError::NotOurs`], [`OpenError::Newer`], or SQLite's own.
pub(crate) fn open_writer(path: &Path, kind: &FileKind) -> Result<Connection, OpenError> {
    let failed = |source| OpenError::sqlite(path, source);
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    let version = check_identity(&connection, path, kind)?;
    configure_writer(&connection).map_err(failed)?;
    migrate(&mut connection, kind, version).map_err(failed)?;
    Ok(connection)
}

/// Opens `pubsub.sqlite` for reading only.
///
/// # Errors
/// SQLite's own.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.execute_batch(
            "PRAGMA busy_timeout=5000; PRAGMA cache_size=-4096; PRAGMA mmap_size=1073741824; PRAGMA temp_store=MEMORY;",
        )?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(connection)
    };
    open().map_err(|source| OpenError::sqlite(path, source))
}

/// Returns the file's schema version (0: empty) once it is clear that the file is ours and not from the future.
fn check_identity(connection: &Connection, path: &Path, kind: &FileKind) -> Result<usize, OpenError> {
    let read = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let identity = || -> rusqlite::Result<(i64, i64, i64)> {
        connection.execute_batch("PRAGMA busy_timeout=5000")?;
        let objects = read("SELECT count(*) FROM sqlite_schema")?;
        Ok((objects, read("PRAGMA application_id")?, read("PRAGMA user_version")?))
    };
    let (objects, application_id, version) =
        identity().map_err(|source| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => OpenError::NotOurs { path: path.to_owned() },
            _ => OpenError::sqlite(path, source),
        })?;
    if objects == 0 && application_id == 0 && version == 0 {
        return Ok(0);
    }
    if application_id != kind.application_id {
        return Err(OpenError::NotOurs { path: path.to_owned() });
    }
    match usize::try_from(version) {
        Ok(version) if version <= kind.migrations.len() => Ok(version),
        _ => Err(OpenError::Newer { path: path.to_owned(), found: version, known: kind.migrations.len() }),
    }
}

fn configure_writer(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA page_size=8192; PRAGMA auto_vacuum=NONE; PRAGMA temp_store=MEMORY;")?;
    let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        // A file system without shared memory can't hold a write-ahead log; without one readers would block the writer.
        return Err(rusqlite::Error::InvalidParameterName(format!("journal mode is {mode}, not wal")));
    }
    connection.execute_batch(
        "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=1000; PRAGMA journal_size_limit=-1;
         PRAGMA cache_size=-32768; PRAGMA busy_timeout=5000;",
    )?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(())
}

/// Runs the missing migrations and, if there were any, makes the views anew; all or nothing.
fn migrate(connection: &mut Connection, kind: &FileKind, version: usize) -> rusqlite::Result<()> {
    if version == kind.migrations.len() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for step in &kind.migrations[version..] {
        transaction.execute_batch(step)?;
    }
    transaction.execute_batch(&(kind.views)())?;
    transaction.pragma_update(None, "application_id", kind.application_id)?;
    let known = i64::try_from(kind.migrations.len()).expect("a handful of migrations");
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()
}
