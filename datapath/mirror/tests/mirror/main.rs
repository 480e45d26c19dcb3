//! The engine against servers of all sorts: a small one like blktap's that does everything wrong that
//! the protocol allows, this product's own, and those of other projects.

mod blktap;
mod changes;
mod connect;
mod foreign;
mod hostile;
mod server;
mod source;
mod trouble;
