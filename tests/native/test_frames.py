"""The C codec against the golden frames and against the Python one: whole, dripped, and damaged."""

from __future__ import annotations

import os
import struct
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codex_shell_tool_mcp.errors import RemoteProtocolError
from codex_shell_tool_mcp.escalation import wire
from native.decoding import decode, sanitising_compiler, shown
from wire.corpus import CORPUS, Golden

by_name = pytest.mark.parametrize("golden", CORPUS, ids=lambda golden: golden.name)

few = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(params=["plain", "sanitised"])
def sanitised(request: pytest.FixtureRequest) -> bool:
    """Whether the driver is the sanitised build."""
    if request.param == "sanitised" and sanitising_compiler() is None:
        reason = "no gcc or clang: AddressSanitizer is not in zig's wheel"
        if os.environ.get("CODEX_TEST_MUST_WORK"):
            pytest.fail(reason)
        pytest.skip(reason)
    return bool(request.param == "sanitised")


def _reader(golden: Golden, state: str | None = None) -> str:
    return f"{golden.receiver.value}:{(state or golden.state).replace(' ', '-')}"


@by_name
def test_golden(golden: Golden) -> None:
    status, lines = decode(golden.read(), _reader(golden))
    assert lines == [shown(golden.frame), f"state {golden.after.replace(' ', '-')}"]
    assert status == 0


@by_name
def test_golden_in_drips(golden: Golden, sanitised: bool) -> None:
    chunk = 1 if len(golden.read()) < 4096 else 4093
    status, lines = decode(golden.read(), _reader(golden), chunk=chunk, sanitised=sanitised)
    assert lines[:-1] == [shown(golden.frame)]
    assert status == 0


def test_golden_all_in_a_row(sanitised: bool) -> None:
    data = b"".join(golden.read() for golden in CORPUS)
    for chunk in (3, 7, 65536):
        status, lines = decode(data, "anyone", chunk=chunk, sanitised=sanitised)
        assert lines[:-1] == [shown(golden.frame) for golden in CORPUS]
        assert status == 0


@by_name
def test_out_of_turn(golden: Golden) -> None:
    """The state table is the same on both sides."""
    table = wire._SESSIONS[golden.receiver][1]
    for state, row in table.items():
        allowed = (golden.sender, type(golden.frame)) in row
        status, lines = decode(golden.read(), _reader(golden, state))
        assert (status == 0) == allowed, (state, lines)
        if not allowed:
            assert lines == ["error: a frame out of turn"]


@by_name
def test_cut_short(golden: Golden, sanitised: bool) -> None:
    data = golden.read()
    for length in {1, 4, 5, len(data) // 2, len(data) - 1} & set(range(1, len(data))):
        status, lines = decode(data[:length], _reader(golden), sanitised=sanitised)
        assert lines == ["error: the end in the middle of a frame"]
        assert status == 1


@pytest.mark.parametrize("length", [0, wire.MAX_LENGTH + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("kind", [1, 2, 4, 32, 39])
def test_length_out_of_range(length: int, kind: int) -> None:
    assert decode(struct.pack("<IB", length, kind), "anyone") == (1, ["error: a frame of a length that cannot be"])


@pytest.mark.parametrize("kind", [0, 13, 31, 46, 255])
def test_unknown_type(kind: int) -> None:
    assert decode(struct.pack("<IB", 1, kind), "anyone") == (1, ["error: a frame of unknown type"])


def test_a_payload_that_cannot_be_is_refused_before_it_is_waited_for() -> None:
    """A client that announces 6 MiB of attributes is not given the memory."""
    assert decode(struct.pack("<IB", wire.MAX_LENGTH, 8), "service:handed-over") == (
        1, ["error: a payload of the wrong size"],
    )  # fmt: skip


def test_parts_that_do_not_add_up() -> None:
    def part(total: int, *numbers: int) -> bytes:
        return wire.encode(wire.Fds(total=total, numbers=numbers, descriptors=numbers))

    whole = part(3, 4) + part(3, 5, 6)
    assert decode(whole, "service:handing-over")[1][-1] == "state handed-over"
    for data, problem in (
        (part(3, 4) + part(4, 5), "a total that changed"),
        (part(3, 4) + part(3, 5, 6, 7), "more descriptors than announced"),
        (whole + part(3, 8), "a frame out of turn"),
    ):
        assert decode(data, "service:handing-over")[1][-1] == f"error: {problem}"


def _python_accepts(golden: Golden, data: bytes) -> str | None:
    """What the Python codec makes of the bytes of one frame; ``None`` if it refuses them."""
    connection = wire.Connection(party=golden.receiver, state=golden.state)
    try:
        connection.receive_data(data, tuple(range(100, 100 + len(golden.frame.descriptors))))
        frame = connection.next_event()
    except RemoteProtocolError:
        return None
    return None if frame is wire.NEED_DATA or connection.read_size() != 4 else shown(frame)


@few
@given(data=st.data(), golden=st.sampled_from([one for one in CORPUS if one.name != "request-large"]))
def test_damaged_frames_are_judged_alike(data: st.DataObject, golden: Golden) -> None:
    """One frame with some bytes changed: both codecs accept it, with the same meaning, or neither does."""
    body = bytearray(golden.read()[4:])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body += data.draw(st.binary(max_size=2))
    damaged = struct.pack("<I", len(body)) + body
    status, lines = decode(damaged, _reader(golden), chunk=data.draw(st.integers(1, 9)))
    expected = _python_accepts(golden, damaged)
    announced = [line.split() for line in lines if line.startswith(("REQUEST", "SPAWN", "START", "FDS"))]
    if announced and expected is None and status == 0:
        # Only the Python codec sees the descriptors themselves; the C one is asked how many there should be.
        count = len(golden.frame.descriptors)
        counted = announced[0][1] if announced[0][0] != "FDS" else f"descriptors={announced[0][2].count(',') + 1}"
        assert counted != f"descriptors={count}"
        return
    assert (status == 0, lines[:-1]) == (expected is not None, [] if expected is None else [expected])


@few
@given(
    data=st.binary(max_size=400),
    chunk=st.integers(1, 50),
    reader=st.sampled_from(["client:asked", "client:attached", "service:handing-over", "supervisor:running", "anyone"]),
)
def test_garbage(data: bytes, chunk: int, reader: str, sanitised: bool) -> None:
    """Any bytes give lines and at most one error, the last; never a crash."""
    status, lines = decode(data, reader, chunk=chunk, sanitised=sanitised)
    assert status in {0, 1}
    assert [line.startswith("error: ") for line in lines] == [False] * (len(lines) - 1) + [status == 1]


@few
@given(kind=st.sampled_from(range(52)), payload=st.binary(max_size=200))
def test_framed_garbage(kind: int, payload: bytes, sanitised: bool) -> None:
    """Any payload in a right frame: what is accepted is encoded to the same bytes (the driver compares)."""
    status, lines = decode(struct.pack("<IB", len(payload) + 1, kind) + payload, "anyone", sanitised=sanitised)
    assert status in {0, 1}
    assert "error: the frame is encoded differently" not in lines


@pytest.mark.parametrize(
    "reason",
    [b"\x80", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80",
     b"\xf5\x80\x80\x80", b"\xe2\x82", b"ok\xff", b"\xf0\x9f\x92"],
)  # fmt: skip
def test_reason_that_is_not_utf8(reason: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        reason.decode()
    assert decode(struct.pack("<IB", len(reason) + 1, 4) + reason, "anyone") == (1, ["error: not a reason"])


@pytest.mark.parametrize("reason", ["é", "\u0800", "\ud7ff\ue000", "\uffff", "\U00010000", "\U0010ffff", "\0"])
def test_reason_that_is_utf8(reason: str) -> None:
    frame = wire.Deny(reason=reason)
    assert decode(wire.encode(frame), "anyone")[1][0] == shown(frame)


def test_many_strings() -> None:
    golden = next(one for one in CORPUS if one.name == "request")
    assert isinstance(golden.frame, wire.Request)
    frame = replace(golden.frame, argv=(b"",) * 100_000, env=(b"A=" + b"x" * 200,) * 1000)
    assert decode(wire.encode(frame), _reader(golden))[1][0] == shown(frame)
