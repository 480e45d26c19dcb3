# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_tap_ctl_ram_global_optspecs
    string join \n debug h/help V/version
end

function __fish_tap_ctl_ram_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_tap_ctl_ram_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_tap_ctl_ram_using_subcommand
    set -l cmd (__fish_tap_ctl_ram_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -s V -l version -d 'Print version'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -f -a "list" -d 'List tapdisks and the images that they serve'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -f -a "allocate" -d 'Reserve a minor, and print the file that does so'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -f -a "free" -d 'Give a minor back'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -f -a "create" -d 'Allocate, spawn, attach and open'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -f -a "destroy" -d 'Close, detach and free'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -f -a "spawn" -d 'Start a tapdisk, and print its pid'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -f -a "attach" -d 'Give a reserved minor to a tapdisk'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -f -a "detach" -d 'Take a minor from a tapdisk; the last one ends it'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -f -a "open" -d 'Open an image'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -f -a "close" -d 'Close the image'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -f -a "pause" -d 'Let go of the image; its clients wait'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -f -a "unpause" -d 'Open the image again, or another one of the same size'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -f -a "stats" -d 'Print statistics as JSON'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_needs_command" -f -a "upgrade" -d 'Let the program that is installed now serve the disks of a tapdisk-ram'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand list" -s p -d 'Of this tapdisk' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand list" -s m -d 'Of this minor' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand list" -s t -d 'Of this type' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand list" -s f -d 'Of this file' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand list" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand allocate" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand allocate" -s h -l help -d 'Print help'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand free" -s m -d 'The minor' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand free" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand free" -s h -l help -d 'Print help'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand create" -s a -d 'The image, <type>:<path>' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand create" -s t -d 'Seconds after which a request fails' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand create" -s d -d 'A device\'s name, which has no meaning any more; accepted as by tap-ctl' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand create" -s R -d 'Refuse writes'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand create" -s D -d 'Without O_DIRECT, which makes no difference in memory'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand create" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand create" -s h -l help -d 'Print help'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand destroy" -s p -d 'The tapdisk' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand destroy" -s m -d 'The minor' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand destroy" -s t -d 'Seconds to wait' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand destroy" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand destroy" -s h -l help -d 'Print help'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand spawn" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand spawn" -s h -l help -d 'Print help'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand attach" -s p -d 'The tapdisk' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand attach" -s m -d 'The minor' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand attach" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand attach" -s h -l help -d 'Print help'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand detach" -s p -d 'The tapdisk' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand detach" -s m -d 'The minor' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand detach" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand detach" -s h -l help -d 'Print help'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand open" -s p -d 'The tapdisk' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand open" -s m -d 'The minor' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand open" -s a -d 'The image, <type>:<path>' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand open" -s t -d 'Seconds after which a request fails' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand open" -s R -d 'Refuse writes'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand open" -s D -d 'Without O_DIRECT, which makes no difference in memory'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand open" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand open" -s h -l help -d 'Print help'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand close" -s p -d 'The tapdisk' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand close" -s m -d 'The minor' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand close" -s t -d 'Seconds to wait' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand close" -s f -d 'Do not wait for rings or clients'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand close" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand close" -s h -l help -d 'Print help'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand pause" -s p -d 'The tapdisk' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand pause" -s m -d 'The minor' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand pause" -s t -d 'Seconds to wait' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand pause" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand pause" -s h -l help -d 'Print help'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand unpause" -s p -d 'The tapdisk' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand unpause" -s m -d 'The minor' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand unpause" -s a -d 'Another image, <type>:<path>' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand unpause" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand unpause" -s h -l help -d 'Print help'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand stats" -s p -d 'The tapdisk' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand stats" -s m -d 'The minor' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand stats" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand stats" -s h -l help -d 'Print help'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand upgrade" -s p -d 'The tapdisk' -r
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand upgrade" -l debug -d 'Print details of an error beside the text of its number'
complete -c tap-ctl-ram -n "__fish_tap_ctl_ram_using_subcommand upgrade" -s h -l help -d 'Print help (see more with \'--help\')'
