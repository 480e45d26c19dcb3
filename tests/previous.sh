#!/bin/sh
# Builds the programs of an earlier commit, for tests of both versions beside each other, and prints the
# directory that they lie in.
#
#   previous.sh [commit]     HEAD~1 where none is given
#
# What it builds is kept below the target directory until another commit is asked for.
set -eu

commit=$(git rev-parse --verify --quiet "${1:-HEAD~1}^{commit}") || {
    echo "previous.sh: ${1:-HEAD~1} is no commit here (a shallow clone has no earlier ones)" >&2
    exit 1
}
case ${CARGO_TARGET_DIR:-target} in
/*) target=$CARGO_TARGET_DIR ;;
*) target=$PWD/${CARGO_TARGET_DIR:-target} ;;
esac
all=$target/previous
own=$all/$commit
built=$own/target/debug

if ! [ -e "$own/done" ]; then
    rm -rf "$all"
    mkdir -p "$own/source"
    git archive "$commit" | tar -x -C "$own/source"
    cd "$own/source"
    CARGO_TARGET_DIR=$own/target ${CARGO:-cargo} build --quiet --bin volume-plugin \
        --bin datapath-plugin --bin tapdisk-ram --bin tap-ctl-ram >&2
    # Only the programs are needed.
    rm -rf "$built/deps" "$built/build" "$built/incremental" "$own/source"
    : >"$own/done"
fi
echo "$built"
