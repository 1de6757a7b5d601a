//! The data directory: who may use it, what lies in it, how much room is left.

use super::OpenError;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of the file that is given up to write promises when the disk is full.
const BALLAST_BYTES: u64 = 1 << 20;
/// How old a look at the free space may be.
const SPACE_AGE_MAX: Duration = Duration::from_millis(250);

/// Where everything lies.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) dir: PathBuf,
    pub(crate) records: PathBuf,
    pub(crate) records_wal: PathBuf,
    pub(crate) meta: PathBuf,
    pub(crate) lock: PathBuf,
    pub(crate) ballast: PathBuf,
}

impl Paths {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            records: dir.join("pubsub.sqlite"),
            records_wal: dir.join("pubsub.sqlite-wal"),
            meta: dir.join("meta.sqlite"),
            lock: dir.join("pubsub.lock"),
            ballast: dir.join("meta.ballast"),
        }
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    move |source| OpenError::Io { action, path: path.to_owned(), source }
}

/// Exclusive use of a data directory; ends when dropped, or with the process.
#[derive(Debug)]
pub(crate) struct VolumeLock {
    _file: File,
}

/// Makes the directory if need be and takes it for this process.
///
/// # Errors
/// [`OpenError::Locked`], [`OpenError::NetworkFileSystem`], or the operating system's own.
pub(crate) fn take(paths: &Paths) -> Result<VolumeLock, OpenError> {
    std::fs::create_dir_all(&paths.dir).map_err(io("create", &paths.dir))?;
    let stat = rustix::fs::statfs(&paths.dir).map_err(|errno| io("look at", &paths.dir)(errno.into()))?;
    if let Some(kind) = network_file_system(i128::from(stat.f_type)) {
        return Err(OpenError::NetworkFileSystem { path: paths.dir.clone(), kind });
    }
    let mut options = OpenOptions::new();
    let file = options
        .create(true)
        .truncate(false)
        .write(true)
        .open(&paths.lock)
        .map_err(io("open", &paths.lock))?;
    match file.try_lock() {
        Ok(()) => Ok(VolumeLock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: paths.lock.clone() }),
        Err(TryLockError::Error(source)) => Err(io("lock", &paths.lock)(source)),
    }
}

/// Returns the name of a file system that is served by another machine. `magic` is `f_type`, whose width and sign differ
/// between platforms; only its lower 32 bits count.
fn network_file_system(magic: i128) -> Option<&'static str> {
    match magic & 0xffff_ffff {
        0x6969 => Some("nfs"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("smb"),
        0x5346_414f | 0x6b41_4653 => Some("afs"),
        0x00c3_6400 => Some("ceph"),
        0x0bd0_0bd0 => Some("lustre"),
        0x4750_4653 => Some("gpfs"),
        0x0102_1997 => Some("9p"),
        0x7375_7245 => Some("coda"),
        _ => None,
    }
}

/// Syncs the directory, so that files just made in it survive a crash.
///
/// # Errors
/// The operating system's own.
pub(crate) fn sync_dir(paths: &Paths) -> Result<(), OpenError> {
    File::open(&paths.dir).and_then(|dir| dir.sync_all()).map_err(io("sync", &paths.dir))
}

/// Makes sure that the ballast is there. A disk too full for it is no error: there is nothing to give up then.
pub(crate) fn lay_ballast(paths: &Paths) {
    if has_ballast(paths) {
        return;
    }
    let bytes = vec![0xb5; usize::try_from(BALLAST_BYTES).expect("one MiB")];
    if let Err(error) = std::fs::write(&paths.ballast, bytes) {
        tracing::warn!(%error, path = %paths.ballast.display(), "no room for the ballast file");
        // A part of it would be of no use; what can't be removed either is seen by the next start.
        let _ = std::fs::remove_file(&paths.ballast);
    }
}

/// Returns whether the ballast is there, whole.
pub(crate) fn has_ballast(paths: &Paths) -> bool {
    std::fs::metadata(&paths.ballast).is_ok_and(|found| found.len() == BALLAST_BYTES)
}

/// Gives up the ballast. Returns whether there was any.
pub(crate) fn drop_ballast(paths: &Paths) -> bool {
    std::fs::remove_file(&paths.ballast).is_ok()
}

/// Watches the room that is left.
#[derive(Debug)]
pub(crate) struct Space {
    dir: PathBuf,
    started: Instant,
    /// When the file system was last asked, ms after `started`.
    asked: AtomicU64,
    free: AtomicU64,
    total: AtomicU64,
    /// Bytes inside the records file that deleted batches left; SQLite fills them before it grows the file.
    reusable: AtomicU64,
    free_bytes_min: Option<u64>,
}

/// What is refused below, unless configured: 5 % of the file system, but at least this.
const FREE_BYTES_MIN: u64 = 256 << 20;

impl Space {
    pub(crate) fn new(paths: &Paths, free_bytes_min: Option<u64>) -> Self {
        let space = Self {
            dir: paths.dir.clone(),
            started: Instant::now(),
            asked: AtomicU64::new(0),
            free: AtomicU64::new(u64::MAX),
            total: AtomicU64::new(0),
            reusable: AtomicU64::new(0),
            free_bytes_min,
        };
        space.ask();
        space
    }

    fn ask(&self) {
        // A file system that can't be asked will tell by failing the next write.
        if let Ok(stat) = rustix::fs::statvfs(&self.dir) {
            self.free.store(stat.f_bavail.saturating_mul(stat.f_frsize), Ordering::Relaxed);
            self.total.store(stat.f_blocks.saturating_mul(stat.f_frsize), Ordering::Relaxed);
        }
    }

    fn refresh(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let asked = self.asked.load(Ordering::Relaxed);
        let age_max = u64::try_from(SPACE_AGE_MAX.as_millis()).unwrap_or(u64::MAX);
        let due = now.saturating_sub(asked) >= age_max;
        if due && self.asked.compare_exchange(asked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.ask();
        }
    }

    pub(crate) fn set_reusable(&self, bytes: u64) {
        self.reusable.store(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes that other files may still take.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.refresh();
        self.free.load(Ordering::Relaxed)
    }

    /// Returns whether new records are to be refused. Room inside the records file counts, but a quarter of the threshold
    /// must be free beside it: the write-ahead log grows before pages are reused.
    pub(crate) fn is_full(&self) -> bool {
        let free = self.free_bytes();
        let total = self.total.load(Ordering::Relaxed);
        let least = self.free_bytes_min.unwrap_or_else(|| FREE_BYTES_MIN.max(total / 20));
        free < least / 4 || free.saturating_add(self.reusable.load(Ordering::Relaxed)) < least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_whatever_the_sign_of_their_number() {
        assert_eq!(network_file_system(0x6969), Some("nfs"));
        assert_eq!(network_file_system(i128::from(0xff53_4d42_u32.cast_signed())), Some("smb"));
        assert_eq!(network_file_system(0xef53), None);
    }
}
