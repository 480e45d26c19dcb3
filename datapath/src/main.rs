//! datapath-plugin
fn main() {}
