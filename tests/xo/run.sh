#!/bin/sh
# Xen Orchestra's own NBD client reads a full and an incremental backup of a disk of 100 GiB. The client comes
# from the npm registry; xen-api and async-map, which it names and never loads for this, are not there in the
# versions that it asks for, so it is unpacked beside what it does load.
#
#   run.sh <directory of the programs> <directory for the client>
set -eu

built=$1
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$2"
work=$(cd "$2" && pwd)
client=$work/node_modules/@vates/nbd-client
if [ ! -d "$client" ]; then
    cd "$work"
    echo '{ "private": true }' >package.json
    npm install --silent --no-audit --no-fund --ignore-scripts promise-toolbox @vates/read-chunk \
        @vates/async-each @xen-orchestra/log
    archive=$(npm pack --silent @vates/nbd-client)
    mkdir -p "$client"
    tar -xzf "$archive" -C "$client" --strip-components=1
    cd - >/dev/null
fi
node "$here/read.mjs" "$built" "$client/NbdTcpClient.mjs"
