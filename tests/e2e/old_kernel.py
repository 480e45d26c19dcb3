"""Runs a program as on Linux 4.19: system calls that came later fail with ENOSYS.

old_kernel.py <program> [argument...]

A filter of seccomp (linux/seccomp.h, linux/filter.h) that the program and all that it starts inherit. On x86-64
the last system call of 4.19 is rseq, number 334; the next ones, from pidfd_send_signal on, have
the numbers from 424 on (arch/x86/entry/syscalls/syscall_64.tbl).
"""

import ctypes
import os
import struct
import sys

LAST_OF_4_19 = 334
ENOSYS = 38
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000
LOAD_WORD, JUMP_GREATER, RETURN = 0x20, 0x25, 0x06


def instruction(code, if_true, if_false, value):
    return struct.pack("HBBI", code, if_true, if_false, value)


program = b"".join(
    [
        instruction(LOAD_WORD, 0, 0, 0),  # the number, the first field of seccomp_data
        instruction(JUMP_GREATER, 0, 1, LAST_OF_4_19),
        instruction(RETURN, 0, 0, RET_ERRNO | ENOSYS),
        instruction(RETURN, 0, 0, RET_ALLOW),
    ]
)
held = ctypes.create_string_buffer(program)
described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
    PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(described), 0, 0
):
    sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")
# clone3 has number 435.
if ctypes.CDLL(None, use_errno=True).syscall(435, 0, 0) != -1:
    sys.exit("clone3 was not refused")
if len(sys.argv) > 1:
    os.execv(sys.argv[1], sys.argv[1:])
