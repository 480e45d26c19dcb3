//! The store through its public surface.

mod common;
mod life;
mod model;
mod tree;
