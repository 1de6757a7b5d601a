//! Room inside the records file given back to the file system.
//!
//! SQLite uses pages that deleted records left for new ones, but its file never shrinks. On request the file is written
//! anew at a start, before anybody else opens it, and takes the old one's place by a rename: at each moment the volume
//! holds one whole file.

use super::volume::{self, Paths};
use super::{OpenError, schema};
use rusqlite::Connection;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Less than this is not worth a rewrite.
const UNUSED_BYTES_MIN: u64 = 16 << 20;
/// One part in so many of the file must be unused.
const UNUSED_PART: u64 = 4;
/// Room that must be left beside the new file.
const SPARE_BYTES: u64 = 64 << 20;

/// Writes the records file anew if a good part of it is unused, and returns a connection to what is there then.
///
/// What stands in the way (too little room for the copy, another program that has the file open) is logged, and the old
/// file is used on.
///
/// # Errors
/// What opening the file gives, and the operating system's own once the new file is in place.
pub(super) fn vacuum(paths: &Paths, records: Connection) -> Result<Connection, OpenError> {
    let size = Size::of(&records).map_err(|source| OpenError::sqlite(&paths.records, source))?;
    if size.unused < UNUSED_BYTES_MIN || size.unused < size.whole / UNUSED_PART {
        tracing::info!(
            bytes = size.whole,
            unused = size.unused,
            "the records file is not rewritten: it is well used"
        );
        return Ok(records);
    }
    tracing::info!(bytes = size.whole, unused = size.unused, "rewriting the records file");
    let (began, copy) = (Instant::now(), copy_path(&paths.records));
    let written = write_copy(paths, &records, &copy, size.whole - size.unused);
    let closed = written.and_then(|()| close_for_good(paths, records));
    if let Err(why) = closed.and_then(|()| take_place(paths, &copy)) {
        tracing::warn!(why, "the records file was not rewritten, and is used as it is");
        // The next start removes what can't be removed now.
        let _ = std::fs::remove_file(&copy);
        return schema::open_writer(&paths.records, &schema::RECORDS);
    }
    volume::sync_dir(paths)?;
    let records = schema::open_writer(&paths.records, &schema::RECORDS)?;
    let now = Size::of(&records).map_err(|source| OpenError::sqlite(&paths.records, source))?;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        bytes = now.whole,
        given_back = size.whole.saturating_sub(now.whole),
        took_ms,
        "rewrote the records file"
    );
    Ok(records)
}

/// Removes what a rewrite that was cut off left behind.
pub(super) fn remove_leftover(paths: &Paths) {
    let copy = copy_path(&paths.records);
    for path in [suffixed(&copy, "-journal"), copy] {
        // Nothing to remove is the rule; what stays is in the way of nothing but the next rewrite, which says so.
        let _ = std::fs::remove_file(path);
    }
}

fn copy_path(records: &Path) -> PathBuf {
    suffixed(records, ".new")
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Bytes of the file, and those of them on pages that hold nothing.
struct Size {
    whole: u64,
    unused: u64,
}

impl Size {
    fn of(records: &Connection) -> rusqlite::Result<Self> {
        let number = |pragma: &str| {
            let value: i64 = records.pragma_query_value(None, pragma, |row| row.get(0))?;
            Ok::<u64, rusqlite::Error>(u64::try_from(value).unwrap_or(0))
        };
        let page = number("page_size")?;
        Ok(Self { whole: page * number("page_count")?, unused: page * number("freelist_count")? })
    }
}

/// Writes what the file holds into `copy` and syncs it.
fn write_copy(paths: &Paths, records: &Connection, copy: &Path, needed: u64) -> Result<(), String> {
    let room = rustix::fs::statvfs(&paths.dir).map_err(|error| error.to_string())?;
    let room = room.f_bavail.saturating_mul(room.f_frsize);
    if room < needed.saturating_add(SPARE_BYTES) {
        return Err(format!(
            "the copy takes about {needed} bytes and {room} are free: enlarge the volume, or delete more first"
        ));
    }
    let name = copy.to_str().ok_or("the directory's name is not UTF-8")?;
    records.execute("VACUUM INTO ?1", [name]).map_err(|error| error.to_string())?;
    File::open(copy).and_then(|file| file.sync_all()).map_err(|error| error.to_string())
}

/// Closes the old file such that nothing of it is left in a write-ahead log: that log would be taken for the new file's.
fn close_for_good(paths: &Paths, records: Connection) -> Result<(), String> {
    let busy: i64 = records
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .map_err(|error| error.to_string())?;
    records.close().map_err(|(_, error)| error.to_string())?;
    if busy != 0 || paths.records_wal.exists() {
        return Err("another program has the records file open: end it and start again".to_owned());
    }
    Ok(())
}

fn take_place(paths: &Paths, copy: &Path) -> Result<(), String> {
    std::fs::rename(copy, &paths.records).map_err(|error| error.to_string())
}
