"""Runs a program that cannot make a thread: clone(2) fails with EAGAIN, as at the limit of a control group.

no_threads.py <program> [argument...]
"""

import os
import sys
import threading

import seccomp

CLONE_THREAD = 0x10000

seccomp.install(
    seccomp.load(seccomp.NUMBER),
    # glibc tries clone3 first, whose flags a filter does not see.
    seccomp.unless_equal(seccomp.CLONE3, 1),
    seccomp.refuse(seccomp.ENOSYS),
    seccomp.unless_equal(seccomp.CLONE, 3),
    seccomp.load(seccomp.FIRST_ARGUMENT),
    seccomp.unless_set(CLONE_THREAD, 1),
    seccomp.refuse(seccomp.EAGAIN),
    seccomp.ALLOW,
)
try:
    threading.Thread(target=len, args=("",)).start()
    sys.exit("a thread was made")
except RuntimeError:
    os.execv(sys.argv[1], sys.argv[1:])
