//! Features of SMAPIv3 that no plugin of this product may declare: one would make xapi keep data in
//! an SR that has to outlive the host's memory, use it for other SRs' caches, or call missing methods.

/// The features that are never declared.
pub const NEVER: [&str; 6] = [
    "SR_STATS",
    "SR_METADATA",
    "VDI_ATTACH_OFFLINE",
    "VDI_GENERATE_CONFIG",
    "SR_CACHING",
    "SR_SUPPORTS_LOCAL_CACHING",
];
