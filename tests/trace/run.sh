#!/bin/sh
# The installed methods below the real OpenTelemetry packages, which come from PyPI.
#
#   run.sh <directory of the programs> <directory for the packages>
set -eu

built=$1 work=$2
here=$(cd "$(dirname "$0")" && pwd)
packages=$work/packages root=$work/root
if [ ! -d "$packages/opentelemetry/sdk" ]; then
    python3 -m pip install --quiet --root-user-action ignore --target "$packages" opentelemetry-sdk
fi
rm -rf "$root"
"$here/../install.sh" install "$built" "$root" >/dev/null
mkdir -m 700 "$root/sr" "$root/ctl"
export XAPI_RAM_SR_ROOT="$root/sr" XAPI_RAM_CONTROL_DIR="$root/ctl" XAPI_RAM_SYSLOG="$root/log"
PYTHONPATH=$packages python3 "$here/check.py" "$root/usr/libexec/xapi-storage-script"
