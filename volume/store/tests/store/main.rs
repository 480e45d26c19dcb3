//! The store through its public surface.

mod allocations;
mod attacked;
mod content_id;
mod crash;
mod damage;
mod dying;
mod host_memory;
mod killed_disk;
mod left_behind;
mod life;
mod map_pages;
mod model;
mod mounts;
mod numbers;
mod operations;
mod places;
mod scale;
mod session;
mod share;
mod space;
mod storm;
mod successor;
mod tree;
mod utilisation;
mod versions;
mod write_back;
