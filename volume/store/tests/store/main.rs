//! The store through its public surface.

mod common;
mod crash;
mod dying;
mod lend;
mod life;
mod model;
mod scale;
mod share;
mod tree;
