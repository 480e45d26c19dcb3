//! Guests' rings, served by the real program: what tapback asks of it, and what becomes of requests when
//! the disk is paused, resized, switched or closed meanwhile.

mod attack;
mod control;
mod graphs;
mod host;
mod kill;
mod life;
mod mirror;
mod switch;
mod xenvbd;
mod zeroes;
