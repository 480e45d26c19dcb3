"""Runs a program as on Linux 4.19: system calls that came later fail with ENOSYS.

old_kernel.py <program> [argument...]

The last system call of 4.19 is rseq, number 334; the next ones, from pidfd_send_signal on, have the numbers from
424 on.
"""

import ctypes
import os
import sys

import seccomp

LAST_OF_4_19 = 334

seccomp.install(
    seccomp.load(seccomp.NUMBER),
    seccomp.unless_greater(LAST_OF_4_19, 1),
    seccomp.refuse(seccomp.ENOSYS),
    seccomp.ALLOW,
)
if ctypes.CDLL(None, use_errno=True).syscall(seccomp.CLONE3, 0, 0) != -1:
    sys.exit("clone3 was not refused")
if len(sys.argv) > 1:
    os.execv(sys.argv[1], sys.argv[1:])
