//! The whole product from the outside: the plugins called as xapi-storage-script calls them, the
//! disks used by programs that others wrote.

#[cfg(not(feature = "schema-checks"))]
compile_error!("the tests hold every answer against its schema");

mod check;
mod concurrency;
mod configuration;
mod conformance;
mod crash;
mod datapath;
mod errors;
mod examples;
mod exchanges;
mod full;
mod graphs;
mod images;
mod install;
mod interop;
mod keeper;
mod lifecycle;
mod load;
mod maintenance;
mod migration;
mod old_kernel;
mod orphans;
mod packages;
mod provider;
mod saves;
mod snapshots;
mod tapctl;
mod unused;
mod versions;

/// One MiB, in bytes.
const MIB: u64 = 1 << 20;
