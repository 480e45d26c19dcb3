"""Filters of system calls (linux/seccomp.h, linux/filter.h), which a program and all that it starts inherit.

The numbers of system calls are those of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl).
"""

import ctypes
import os
import struct
import sys

CLONE, CLONE3 = 56, 435
EAGAIN, ENOSYS = 11, 38

# Where seccomp_data has the number and the lower half of the first argument.
NUMBER, FIRST_ARGUMENT = 0, 16

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
_LOAD_WORD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_SET, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06


def load(offset):
    """Loads a word of seccomp_data."""
    return (_LOAD_WORD, 0, 0, offset)


def unless_equal(value, skipped):
    """Skips so many instructions unless the word is the value."""
    return (_JUMP_EQUAL, 0, skipped, value)


def unless_greater(value, skipped):
    """Skips so many instructions unless the word is greater."""
    return (_JUMP_GREATER, 0, skipped, value)


def unless_set(bits, skipped):
    """Skips so many instructions unless the word has one of the bits."""
    return (_JUMP_SET, 0, skipped, bits)


def refuse(errno):
    """Lets the system call fail."""
    return (_RETURN, 0, 0, _RET_ERRNO | errno)


ALLOW = (_RETURN, 0, 0, _RET_ALLOW)


def install(*instructions):
    """Filters the system calls of this process from now on."""
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    held = ctypes.create_string_buffer(program)
    described = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(described), 0, 0
    ):
        sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")
