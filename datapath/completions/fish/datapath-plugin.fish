# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_datapath_plugin_global_optspecs
    string join \n h/help V/version
end

function __fish_datapath_plugin_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_datapath_plugin_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_datapath_plugin_using_subcommand
    set -l cmd (__fish_datapath_plugin_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -s V -l version -d 'Print version'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Plugin.query" -d 'Describe this plugin: its version and its features'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Plugin.diagnostics" -d 'Print details that help to find the cause of a problem'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Datapath.open" -d 'Decide before the first attach whether writes are kept'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Datapath.attach" -d 'Prepare a volume for a domain; prints how to reach its data'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Datapath.activate" -d 'Let a domain read and write an attached volume'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Datapath.activate_readonly" -d 'Let a domain read an attached volume'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Datapath.import_activate" -d 'Print the socket that takes the connection of an incoming migration'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Datapath.deactivate" -d 'Stop a domain from reading and writing'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Datapath.detach" -d 'Undo attach'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Datapath.close" -d 'End the use of a volume after the last detach; drops writes that were not to be kept'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Data.copy" -d 'Copy blocks of a volume to a remote disk; prints the operation to follow'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Data.mirror" -d 'Copy a volume to a remote disk and keep it up to date; prints the operation to follow'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Data.stat" -d 'Show the progress of an operation'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Data.cancel" -d 'Stop an operation'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Data.destroy" -d 'Forget an operation that has ended'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "Data.ls" -d 'List the operations'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "end-unused" -d 'End what is left of migrations, copies and read-only plugs without a client, and list the other active disks'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "methods" -d 'List the methods that are implemented'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "python-archive" -d 'Print the archive that installing appends to this program, for callers that trace'
complete -c datapath-plugin -n "__fish_datapath_plugin_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Plugin.query" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Plugin.query" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Plugin.diagnostics" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Plugin.diagnostics" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.open" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.open" -l uri -d 'URI of the volume, as Volume.stat shows it (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.open" -l persistent -d 'Whether writes outlive Datapath.close (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.open" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.attach" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.attach" -l uri -d 'URI of the volume, as Volume.stat shows it (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.attach" -l domain -d 'The domain that uses the volume: any string, the same one in all calls (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.attach" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.activate" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.activate" -l uri -d 'URI of the volume, as Volume.stat shows it (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.activate" -l domain -d 'The domain that uses the volume: any string, the same one in all calls (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.activate" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.activate_readonly" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.activate_readonly" -l uri -d 'URI of the volume, as Volume.stat shows it (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.activate_readonly" -l domain -d 'The domain that uses the volume: any string, the same one in all calls (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.activate_readonly" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.import_activate" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.import_activate" -l uri -d 'URI of the volume, as Volume.stat shows it (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.import_activate" -l domain -d 'The domain that uses the volume: any string, the same one in all calls (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.import_activate" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.deactivate" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.deactivate" -l uri -d 'URI of the volume, as Volume.stat shows it (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.deactivate" -l domain -d 'The domain that uses the volume: any string, the same one in all calls (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.deactivate" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.detach" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.detach" -l uri -d 'URI of the volume, as Volume.stat shows it (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.detach" -l domain -d 'The domain that uses the volume: any string, the same one in all calls (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.detach" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.close" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.close" -l uri -d 'URI of the volume, as Volume.stat shows it (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Datapath.close" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.copy" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.copy" -l uri -d 'URI of the volume, as Volume.stat shows it (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.copy" -l domain -d 'The domain that uses the volume (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.copy" -l remote -d 'URI of the disk that is written to (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.copy" -l blocklist -d 'The blocks to copy (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.copy" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.mirror" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.mirror" -l uri -d 'URI of the volume, as Volume.stat shows it (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.mirror" -l domain -d 'The domain that uses the volume (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.mirror" -l remote -d 'URI of the disk that is written to (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.mirror" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.stat" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.stat" -l operation -d 'The operation, as Data.copy or Data.mirror returned it (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.stat" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.cancel" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.cancel" -l operation -d 'The operation, as Data.copy or Data.mirror returned it (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.cancel" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.destroy" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.destroy" -l operation -d 'The operation, as Data.copy or Data.mirror returned it (required)' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.destroy" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.ls" -l dbg -d 'Debug context of the caller, repeated in the log [default: cli]' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand Data.ls" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand end-unused" -l sr -d 'UUID of the SR' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand end-unused" -l key -d 'Key of one volume; of every volume of the SR where it is not given' -r
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand end-unused" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand methods" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand python-archive" -s h -l help -d 'Print help'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Plugin.query" -d 'Describe this plugin: its version and its features'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Plugin.diagnostics" -d 'Print details that help to find the cause of a problem'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Datapath.open" -d 'Decide before the first attach whether writes are kept'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Datapath.attach" -d 'Prepare a volume for a domain; prints how to reach its data'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Datapath.activate" -d 'Let a domain read and write an attached volume'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Datapath.activate_readonly" -d 'Let a domain read an attached volume'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Datapath.import_activate" -d 'Print the socket that takes the connection of an incoming migration'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Datapath.deactivate" -d 'Stop a domain from reading and writing'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Datapath.detach" -d 'Undo attach'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Datapath.close" -d 'End the use of a volume after the last detach; drops writes that were not to be kept'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Data.copy" -d 'Copy blocks of a volume to a remote disk; prints the operation to follow'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Data.mirror" -d 'Copy a volume to a remote disk and keep it up to date; prints the operation to follow'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Data.stat" -d 'Show the progress of an operation'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Data.cancel" -d 'Stop an operation'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Data.destroy" -d 'Forget an operation that has ended'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "Data.ls" -d 'List the operations'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "end-unused" -d 'End what is left of migrations, copies and read-only plugs without a client, and list the other active disks'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "methods" -d 'List the methods that are implemented'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "python-archive" -d 'Print the archive that installing appends to this program, for callers that trace'
complete -c datapath-plugin -n "__fish_datapath_plugin_using_subcommand help; and not __fish_seen_subcommand_from Plugin.query Plugin.diagnostics Datapath.open Datapath.attach Datapath.activate Datapath.activate_readonly Datapath.import_activate Datapath.deactivate Datapath.detach Datapath.close Data.copy Data.mirror Data.stat Data.cancel Data.destroy Data.ls end-unused methods python-archive help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
