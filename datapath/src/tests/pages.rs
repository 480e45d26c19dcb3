//! The man page and the completion of this program say what its command line is.

use std::path::Path;

use host::{Config, Environment};
use smapiv3_plugin::testing;

use crate::registry;

#[test]
fn the_page_and_the_completion_are_those_of_the_command_line() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let unused = Config::read(&Environment::fixed([("", "")]));
    let command = testing::command_line(&registry(unused));
    let page = own.join("man/datapath-plugin.8");
    let is_method = |name: &str| name.contains('.');
    pages::check_part(&page, "methods", &pages::commands(&command, &["dbg"], is_method));
    pages::check_part(&page, "commands", &pages::commands(&command, &[], |it| !is_method(it)));
    pages::check_completions(&own.join("completions"), &command);
}
