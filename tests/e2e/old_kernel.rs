//! The programs on Linux 4.19, the kernel of XCP-ng 8.3: newer system calls are refused by a filter, which all
//! that is started inherits, and what other tests here do has to work all the same.

use end_to_end::tools;

/// The program that sets up the filter.
const FILTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/old_kernel.py");
/// The tests that are run below the filter.
const TESTS: [&str; 4] = ["datapath::", "full::", "lifecycle::", "snapshots::clones"];

#[test]
fn nothing_needs_a_system_call_that_is_newer_than_linux_4_19() {
    if !tools::present(&["python3"]) {
        return;
    }
    let own = std::env::current_exe().expect("the path of this program");
    let own = own.to_str().expect("a path in UTF-8");
    let arguments = [&[FILTER, own][..], &TESTS].concat();
    let output = tools::attempt("python3", &arguments);
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
    // That no test has such a name any more would pass, too.
    for module in TESTS {
        assert!(told.contains(&format!("test {module}")), "{module} in {told}");
    }
}
