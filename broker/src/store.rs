//! Records and promises on disk.

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite's own error.
    #[error("sqlite")]
    Sqlite(#[from] rusqlite::Error),
}
