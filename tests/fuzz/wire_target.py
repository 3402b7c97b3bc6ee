"""Fuzz target of ``escalation/wire.py``, for atheris. What must hold for any bytes:

- nothing but RemoteProtocolError comes out of the codec;
- every descriptor that came is given out with a frame or is still unclaimed: none is lost, none comes twice;
- the C codec makes the same frames of them, and refuses where this one refuses.

``python -m fuzz.wire_target LIBRARY [libFuzzer's options] CORPUS...``
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["codex_shell_tool_mcp.escalation.wire"], enable_loader_override=False):
    from codex_shell_tool_mcp.escalation import wire  # noqa: F401  (imported here first, so that it is instrumented)

from fuzz import codec
from fuzz.inputs import RIGHT, Input


class Found(Exception):  # noqa: N818 - libFuzzer prints the name
    """An input for which something does not hold."""


def check(c_codec: codec.CCodec, data: bytes) -> None:
    """Judge one input.

    Raises:
        Found: Something does not hold for it.
    """
    case = Input.of(data)
    if case is None or case.place is None:
        return
    lines = c_codec.lines(case.received, case.chunk, case.place)
    reading = codec.read(case, case.place, codec.counts_of(lines))
    if sorted(reading.given) != sorted(reading.taken):
        raise Found(f"descriptors {reading.given} came, {reading.taken} came out")
    if case.descriptors != RIGHT:
        return  # the C codec does not see them
    unlike = codec.difference(lines, reading.lines)
    if unlike is not None:
        raise Found(f"the codecs differ\n{unlike}")


def main() -> None:
    """Fuzz until libFuzzer says that it is enough."""
    c_codec = codec.CCodec(Path(sys.argv[1]).absolute())
    atheris.Setup([sys.argv[0], *sys.argv[2:]], lambda data: check(c_codec, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
