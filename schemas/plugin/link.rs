//! Links the installed program at a fixed address.
//!
//! A call of a plugin is mostly the start of its program, and that is mostly page faults, a third of them
//! by relocations. The program ends with its call and reads what xapi says, nothing of a guest's: what is
//! random about its addresses protects little. A program that serves guests keeps it.

#![expect(clippy::print_stdout, reason = "cargo reads it")]

fn main() {
    println!("cargo::rerun-if-env-changed=CARGO_CFG_TARGET_FEATURE");
    let has = |name: &str, what: &str| {
        std::env::var(name).is_ok_and(|value| value.split(',').any(|it| it == what))
    };
    // Other programs need the dynamic loader, which relocates them anyway.
    if has("CARGO_CFG_TARGET_FEATURE", "crt-static") && has("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo::rustc-link-arg-bins=-static");
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
