//! Features of SMAPIv3 that no plugin of this product may declare: one would make xapi keep in an SR
//! what has to outlive the host's memory, use it for other SRs' caches, or call what is not there.

/// The features that are never declared.
pub const NEVER: [&str; 7] = [
    "SR_STATS",
    "SR_METADATA",
    "VDI_ATTACH_OFFLINE",
    "VDI_GENERATE_CONFIG",
    "SR_CACHING",
    "SR_SUPPORTS_LOCAL_CACHING",
    "VDI_MIRROR",
];
