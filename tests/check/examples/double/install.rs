//! The method files. They are scripts that the shell and Python both can run: the daemon executes them, and
//! with tracing on has Python do so.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::faults::has;

const VOLUME: [&str; 28] = [
    "Plugin.query",
    "Plugin.diagnostics",
    "SR.create",
    "SR.attach",
    "SR.detach",
    "SR.destroy",
    "SR.stat",
    "SR.ls",
    "SR.probe",
    "SR.set_name",
    "SR.set_description",
    "Volume.create",
    "Volume.destroy",
    "Volume.stat",
    "Volume.set",
    "Volume.unset",
    "Volume.set_name",
    "Volume.set_description",
    "Volume.snapshot",
    "Volume.clone",
    "Volume.resize",
    "Volume.revert",
    "Volume.compose",
    "Volume.enable_cbt",
    "Volume.disable_cbt",
    "Volume.list_changed_blocks",
    "Volume.data_destroy",
    "Volume.similar_content",
];
const DATAPATH: [&str; 12] = [
    "Plugin.query",
    "Datapath.open",
    "Datapath.close",
    "Datapath.attach",
    "Datapath.activate",
    "Datapath.activate_readonly",
    "Datapath.deactivate",
    "Datapath.detach",
    "Datapath.import_activate",
    "Data.mirror",
    "Data.stat",
    "Plugin.diagnostics",
];

/// Makes `volume/org.test.double` and `datapath/double`.
pub(crate) fn install(root: &Path) {
    let own = std::env::current_exe().expect("the path of this program");
    let python = match has("call.observer") {
        true => "",
        false => "import subprocess, sys\nsys.exit(subprocess.call(sys.argv))\n",
    };
    // For the shell the first line is a command that does nothing, for Python the rest is a string.
    let script =
        format!("#!/bin/sh\n''':'\nexec '{}' call \"$0\" \"$@\"\n'''\n{python}", own.display());
    for (directory, methods) in
        [("volume/org.test.double", &VOLUME[..]), ("datapath/double", &DATAPATH[..])]
    {
        let directory = root.join(directory);
        fs::create_dir_all(&directory).expect("a new directory");
        for method in methods {
            let is_left_out = has("query.features-work") && *method == "Volume.revert"
                || has("query.scripts") && *method == "Volume.unset";
            if !is_left_out {
                let file = directory.join(method);
                fs::write(&file, &script).expect("a new file");
                let mode = fs::Permissions::from_mode(0o755);
                fs::set_permissions(&file, mode).expect("an own file");
            }
        }
    }
}
