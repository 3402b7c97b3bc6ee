"""Generated scripts whose commands run the recorder: deterministic by seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = 100 * 1024
"""Bytes of the largest argument or variable (Linux takes 128 KiB a string)."""
MOST_ARGUMENTS = 2000

SETUP = r"""
printf 'recorder "$0" "$#" "$@"\n' > plain
printf '#!%s -opt  with blanks\n' "$RECORDER" > direct
printf '#! \t%s\nrest\n' "$RECORDER" > blanks
printf '#!./direct\n' > chain
printf '#!%s\nrecorder "$0" "$@" "$BASH"\n' "$SHELL_PATH" > nested
printf 'exec recorder "$@"; echo not reached\n' > replaces
cp "$RECORDER" unreadable
cp "$RECORDER" ./-dash
cp "$RECORDER" 'blank and
newline'
chmod 755 ./-dash plain direct blanks chain nested replaces
chmod 111 unreadable
mkdir folder 'odd folder'
echo contents > file
"""
"""Programs of every kind the patch tells apart: images, scripts with and without ``#!``, chains, an unreadable one."""

_PROGRAMS = (
    ("recorder", 30),
    ('"$RECORDER"', 12),
    ("../bin/recorder", 4),
    ("./plain", 8),
    ("./direct", 5),
    ("./blanks", 2),
    ("./chain", 4),
    ("./nested", 2),
    ("./replaces", 2),
    ("./unreadable", 3),
    ("./-dash", 2),
    (r"./$'blank and\nnewline'", 2),
    ("command recorder", 2),
    ('"$SHELL_PATH" -c \'recorder "$@"\'', 2),
    ('"$SHELL_PATH" -c \'exec "$@"; :\' x recorder', 1),
    ("/usr/bin/env recorder", 1),
)
_NAMES = (
    b"A",
    b"B_1",
    b"LANG",
    b"HOME",
    b"LC_MESSAGES",
    b"_x",
    b"IFS",
    b"PS4",
    b"TERM",
    b"SHLVL",
    b"OLDPWD",
    b"BASH_EXEC_WRAPPER",
)
_FOREIGN_NAMES = (
    b"a.b",
    b"1x",
    b"with blank",
    b"BASH_FUNC_f%%",
    b"BASH_FUNC_bad",
    b"\xff\xfe",
    b"new\nline",
    b"-",
    b"%",
    b"a[0]",
)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One script, the environment it starts in, and how many generated commands it holds."""

    script: bytes
    environ: dict[bytes, bytes]
    commands: int


def quote(value: bytes) -> bytes:
    """``value`` as one word of shell text."""
    if value and all(byte in _PLAIN for byte in value):
        return value
    if b"'" not in value and all(0x20 <= byte < 0x7F for byte in value):
        return b"'" + value + b"'"
    return b"$'" + b"".join(_ANSI_C[byte] for byte in value) + b"'"


_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./,:@%+")
_ANSI_C = [bytes((byte,)) if 0x20 <= byte < 0x7F and byte not in b"'\\" else b"\\%03o" % byte for byte in range(256)]


class Generator:
    """Commands of bash by ``seed``; the same seed gives the same scripts."""

    programs: ClassVar[tuple[tuple[str, int], ...]] = _PROGRAMS
    names: ClassVar[tuple[bytes, ...]] = _NAMES
    redirections: ClassVar[tuple[bytes, ...]] = (
        b"<&-",
        b">/dev/null",
        b"200>file",
        b"3<file 4<&3",
        b"0<file",
        b"{v}<file",
        b"2>&1",
        b"7>&1-",
        b"<<<here",
        b"63<&0",
    )
    states: ClassVar[tuple[bytes, ...]] = (
        b"umask 027",
        b"cd folder; PATH=$PATH:..",
        b"cd 'odd folder'; set -- ..",
        b"trap '' USR1 INT",
        b"trap 'echo trapped' TERM EXIT",
        b"ulimit -c 0",
        b"ulimit -n 600",
        b"exec 200>&1 64<file",
        b"set -f; IFS=:",
        b"unset PATH; PATH=../bin:/bin:${RECORDER%/*}",
        b"unset EXEC_WRAPPER CODEX_ESCALATE_SOCKET",
        b"export EXEC_WRAPPER=/nowhere CODEX_ESCALATE_SOCKET=x",
        b"set -o posix",
    )

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def batch(self, commands: int) -> Batch:
        """A script of ``commands`` commands, each followed by its status on stdout."""
        sizes = (LARGE, LARGE // 2, self._size(LARGE), self._size(LARGE))
        lines = [b"BIG%d=%s" % (number, quote(self._text(size))) for number, size in enumerate(sizes)]
        for number in range(commands):
            lines += [self._command(), b"echo %d $?" % number]
        return Batch(script=b"\n".join(lines) + b"\n", environ=self._environ(), commands=commands)

    def _size(self, most: int) -> int:
        """Any size up to ``most``, small ones more often, the edges often enough."""
        kind = self._random.random()
        if kind < 0.1:
            return self._random.choice((0, 1, most))
        return int(most ** self._random.random()) if kind > 0.3 else self._random.randrange(12)

    def _text(self, size: int) -> bytes:
        """Bytes without NUL: plain, UTF-8, or any."""
        kind = self._random.random()
        if kind < 0.5:
            return bytes(self._random.choices(b"abcdefgh ./-=*?$\"'\\\n\t~#", k=size))
        if kind < 0.7:
            return ("äß€𝄞x" * (size // 5 + 1)).encode()[:size]  # may end in the middle of a character
        return self._random.randbytes(size).replace(b"\0", b"\x80")

    def _argument(self) -> bytes:
        kind = self._random.random()
        if kind < 0.12:
            return self._random.choice(
                (b"''", b"-", b"--", b"-c", b"--help", b"$'\\n'", b"$'\\377'", b"codex-execve-ask:1")
            )
        if kind < 0.16:
            return b'"$BIG%d"' % self._random.randrange(4)
        return quote(self._text(self._size(300)))

    def _arguments(self) -> bytes:
        kind = self._random.random()
        if kind < 0.02:
            return b"{1..%d}" % self._random.choice((MOST_ARGUMENTS, self._random.randrange(1, MOST_ARGUMENTS)))
        if kind < 0.03:
            return b" ".join(self._argument() for _ in range(self._random.randrange(200, 400)))
        return b" ".join(self._argument() for _ in range(self._size(24)))

    def _program(self) -> bytes:
        names, weights = zip(*self.programs, strict=True)
        return str(self._random.choices(names, weights)[0]).encode()

    def _assignments(self) -> bytes:
        count = self._random.choice((0, 0, 0, 1, 2, 9))
        names = self._random.sample(self.names, count)
        return b"".join(b"%s=%s " % (name, quote(self._text(self._size(200)))) for name in names)

    def _environ(self) -> dict[bytes, bytes]:
        """Empty, huge and non-UTF-8 values, and names that bash passes on without importing them."""
        foreign = self._random.sample(_FOREIGN_NAMES, self._random.randrange(len(_FOREIGN_NAMES)))
        environ = {name: self._text(self._size(500)) for name in foreign}
        environ |= {b"V%d" % number: self._text(self._size(60)) for number in range(self._size(60))}
        if self._random.random() < 0.15:
            environ[b"HUGE"] = self._text(LARGE)
        return environ

    def _command(self) -> bytes:
        forms: tuple[tuple[Callable[[], bytes], int], ...] = (
            (self._simple, 60),
            (self._exec, 16),
            (self._redirected, 8),
            (self._background, 4),
            (self._substituted, 4),
            (self._piped, 4),
            (self._in_state, 8),
            (self._exported, 4),
        )
        functions, weights = zip(*forms, strict=True)
        made: bytes = self._random.choices(functions, weights)[0]()
        return made

    def _simple(self) -> bytes:
        return self._assignments() + self._program() + b" " + self._arguments()

    def _exec(self) -> bytes:
        options = self._random.choice((b"", b"-l ", b"-c ", b"-cl "))
        if self._random.random() < 0.6:
            options += b"-a %s " % self._argument()
        program = self._random.choice((b"recorder", b"./plain", b"./direct", b"./unreadable", b"./chain"))
        if program == b"./chain" and b"c" in options:
            program = b'"$RECORDER"'
        return b"(%sexec %s%s %s)" % (self._assignments(), options, program, self._arguments())

    def _redirected(self) -> bytes:
        redirection = self._random.choice(self.redirections)
        return self._simple() + b" " + redirection

    def _background(self) -> bytes:
        return b"{ %s & }; wait $!" % self._simple()

    def _substituted(self) -> bytes:
        return b'v=$(%s; exit $?); echo "$? $v"' % self._simple()

    def _piped(self) -> bytes:
        return self._random.choice((b": | %s", b"%s | /bin/cat")) % self._simple()

    def _in_state(self) -> bytes:
        state = self._random.choice(self.states)
        return b"(%s\nrecorder %s)" % (state, self._arguments())

    def _exported(self) -> bytes:
        name = self._random.choice((b"E1", b"E2", b"E3"))
        return b"export %s=%s; %s" % (name, quote(self._text(self._size(2000))), self._simple())


class ZshGenerator(Generator):
    """The same in zsh's language, with what only zsh has."""

    programs: ClassVar = (
        *_PROGRAMS,
        ("=recorder", 3),
        ("- recorder", 3),
        ("noglob recorder", 1),
        ("nocorrect ./plain", 1),
        ("ARGV0=other ./direct", 2),
        ("ARGV0= recorder", 1),
        ("command -p env recorder", 1),
    )
    names: ClassVar[tuple[bytes, ...]] = tuple(name for name in _NAMES if name != b"SHLVL")  # takes numbers only
    redirections: ClassVar = (
        b"<&-",
        b">/dev/null",
        b">file >>file",
        b"3<file 4<&3",
        b"0<file",
        b"{v}<file",
        b"2>&1",
        b"7>&1",
        b"<<<here",
        b"5<&0 5<&-",
        b"<file <file",
        b"&>/dev/null",
        b"< <(:)",
        b"> >(/bin/cat >/dev/null)",
        b"3< =(:)",
    )
    states: ClassVar = (
        *(state for state in Generator.states if state not in {b"set -o posix", b"exec 200>&1 64<file"}),
        b"emulate -R sh",
        b"emulate -R ksh",
        b"limit -h coredumpsize 0",
        b"ulimit -n 30",
        b"setopt path_dirs; PATH=$PATH:..",
        b"setopt posix_builtins",
        b"exec {v}<file {w}>&1",
        b"zmodload zsh/system; sysopen -r -u 5 file",
        b"hash r=$RECORDER; alias recorder=r",
        b"path=(. $path); cd folder",
        b"TRAPUSR1() { :; }",
        b"setopt multios; exec 5>file 5>file",
    )
