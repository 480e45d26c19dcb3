//! A ring and the mock of a guest, with nothing between them but shared memory.

mod attack;
mod file_disk;
mod kill;
mod model;
mod order;
mod random;
mod refused;
mod rig;
mod speed;
mod times;
mod xenvbd;
