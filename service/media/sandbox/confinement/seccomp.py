"""System call filters: rules assembled to classic BPF and installed with prctl(2) through ctypes.

Needs no library and no privilege. A filter is inherited by forked processes and can only be narrowed. Filters see the
values of arguments, not the memory that a pointer leads to, so a rule can test flags and commands but never a path.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from service.media.sandbox.confinement.syscalls import MACHINES

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2
_RET_KILL_PROCESS, _RET_ERRNO, _RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LD_W_ABS, _JMP_JEQ_K, _JMP_JGE_K, _JMP_JSET_K, _RET_K = 0x20, 0x15, 0x35, 0x45, 0x06
# Offsets in struct seccomp_data (linux/seccomp.h). Arguments are 64 bits wide, little endian; the low half comes first.
_AT_NUMBER, _AT_ARCHITECTURE, _AT_ARGUMENTS = 0, 4, 16
# Set in the numbers of the x32 ABI, whose calls would otherwise pass for calls of the same number.
_X32_BIT = 0x40000000

_Line = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Rule:
    """Treatment of one system call.

    Without `values` and `forbidden_bits` the call is allowed, or refused if `refusal` is set. With one of them, the low
    32 bits of an argument decide between both; the kernel uses no more than those of the arguments tested here.

    Attributes:
        name: system call name.
        argument: index of the argument to test.
        values: allowed values of the argument.
        forbidden_bits: bits of which none may be set in the argument.
        refusal: errno of a refused call; None ends the process with SIGSYS.
    """

    name: str
    argument: int = 0
    values: tuple[int, ...] = ()
    forbidden_bits: int = 0
    refusal: int | None = None

    @property
    def is_conditional(self) -> bool:
        """Return whether an argument decides."""
        return bool(self.values) or self.forbidden_bits != 0


def allow(*names: str) -> list[Rule]:
    """Return rules that allow calls with any arguments."""
    return [Rule(name) for name in names]


def refuse(error: int, *names: str) -> list[Rule]:
    """Return rules that answer calls with an errno."""
    return [Rule(name, refusal=error) for name in names]


def assemble(rules: Sequence[Rule], *, default_allow: bool = False) -> bytes | None:
    """Return the BPF program for this machine; None if the machine's system calls are unknown.

    Args:
        rules: at most one per call; calls that this machine lacks are skipped.
        default_allow: allow calls without a rule (for narrowing an installed filter); else they end the process.
    """
    if platform.system() != "Linux" or platform.machine() not in MACHINES:
        return None
    architecture, numbers = MACHINES[platform.machine()]
    lines: list[_Line] = [
        (_LD_W_ABS, 0, 0, _AT_ARCHITECTURE),
        (_JMP_JEQ_K, 1, 0, architecture),
        (_RET_K, 0, 0, _RET_KILL_PROCESS),
        (_LD_W_ABS, 0, 0, _AT_NUMBER),
        (_JMP_JGE_K, 0, 1, _X32_BIT),
        (_RET_K, 0, 0, _RET_KILL_PROCESS),
    ]
    for rule in rules:
        if rule.name in numbers:
            body = _rule_lines(rule)
            lines += [(_JMP_JEQ_K, 0, len(body), numbers[rule.name]), *body]
    lines.append((_RET_K, 0, 0, _RET_ALLOW if default_allow else _RET_KILL_PROCESS))
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def install(program: bytes) -> bool:
    """Install a permanent filter in this process and set no_new_privs. Return False if the kernel refuses."""
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    holder = ctypes.create_string_buffer(head, len(head))
    return prctl(_PR_SET_NO_NEW_PRIVS, 1) and prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(holder))


def prctl(option: int, *arguments: int) -> bool:
    """Call prctl(2) and return whether it succeeded."""
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    return int(_LIBC.prctl(option, *padded)) == 0


_LIBC = ctypes.CDLL(None, use_errno=True)


def _rule_lines(rule: Rule) -> list[_Line]:
    """Return the instructions for a recognised call; all paths return. Jumps are relative."""
    refused = _RET_KILL_PROCESS if rule.refusal is None else _RET_ERRNO | rule.refusal
    if not rule.is_conditional:
        return [(_RET_K, 0, 0, _RET_ALLOW if rule.refusal is None else refused)]
    load = (_LD_W_ABS, 0, 0, _AT_ARGUMENTS + 8 * rule.argument)
    if rule.forbidden_bits:
        test = [(_JMP_JSET_K, 0, 1, rule.forbidden_bits)]
    else:
        num = len(rule.values)
        test = [(_JMP_JEQ_K, num - at, 0, value) for at, value in enumerate(rule.values)]
    return [load, *test, (_RET_K, 0, 0, refused), (_RET_K, 0, 0, _RET_ALLOW)]
