#!/bin/sh
# A stand-in for tapdisk-ram, as a program that can be started: the test binary that starts it,
# run a second time as the "test" that behaves like a tapdisk. It becomes a daemon in the way of
# all tapdisks: what was started exits, what stays announces itself.
FAKE_TAPDISK=1 setsid "$(readlink "/proc/$PPID/exe")" \
    --exact tests::fake::become_a_tapdisk --nocapture --test-threads=1 &
exit 0
