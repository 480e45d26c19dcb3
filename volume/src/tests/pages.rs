//! The man pages and the completion of this program say what its command line is.

use std::path::Path;

use smapiv3_plugin::testing;

use super::Plugin;
use crate::{device_config, registry};

#[test]
fn the_page_and_the_completion_are_those_of_the_command_line() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let command = testing::command_line(&registry(Ok(Plugin::new().config())));
    let page = own.join("man/volume-plugin.8");
    let is_method = |name: &str| name.contains('.');
    pages::check_part(&page, "methods", &pages::commands(&command, &["dbg"], is_method));
    pages::check_part(&page, "commands", &pages::commands(&command, &[], |it| !is_method(it)));
    pages::check_completions(&own.join("completions"), &command);
}

#[test]
fn the_page_for_administrators_has_every_key_of_the_device_config() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/ram-sr.7");
    let told = device_config::KEYS.iter().filter(|(_, about)| !about.is_empty());
    let list = told.map(|&(key, about)| (format!(".B {key}"), about));
    pages::check_part(&page, "device-config", &pages::definitions(list));
}
