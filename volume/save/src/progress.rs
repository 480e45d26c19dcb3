//! How far a save or a restore is.

/// Is told how far a save or a restore is, by several threads.
pub trait Progress: Sync {
    /// So many bytes of blocks are to be read or written.
    fn begin(&self, total: u64);

    /// So many more of them are done.
    fn advance(&self, bytes: u64);
}

/// For callers that show nothing.
impl Progress for () {
    fn begin(&self, _: u64) {}

    fn advance(&self, _: u64) {}
}
