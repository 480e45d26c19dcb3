//! volume-plugin
fn main() {}
