//! tapdisk-ram
fn main() {}
