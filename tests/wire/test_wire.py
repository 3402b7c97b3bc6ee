"""The codec: golden frames whole, dripped and damaged; the state table; limits."""

from __future__ import annotations

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_shell_tool_mcp.errors import LocalProtocolError, RemoteProtocolError
from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.wire import NEED_DATA, Connection, Party
from wire.corpus import CORPUS, Golden

by_name = pytest.mark.parametrize("golden", CORPUS, ids=lambda golden: golden.name)


def test_corpus_has_every_frame() -> None:
    assert {type(golden.frame).TYPE for golden in CORPUS} == set(wire._FRAMES)


def test_a_frame_by_hand() -> None:
    """One frame written out, so that the golden files do not merely agree with themselves."""
    golden = next(one for one in CORPUS if one.name == "request")
    strings = b"/usr/bin/git\0/srv/project\0git\0status\0\0HOME=/home/user\0ODD=\xff\xfe\n\0"
    payload = bytes([3]) + (0o027).to_bytes(4, "little") + (3).to_bytes(4, "little") + (2).to_bytes(4, "little")
    body = b"\x01" + payload + strings
    assert golden.read() == len(body).to_bytes(4, "little") + body


@by_name
def test_encodes_to_golden(golden: Golden) -> None:
    sender = Connection(party=golden.sender, state=golden.state)
    assert sender.send(golden.frame) == golden.read()
    assert sender.state == golden.after


@by_name
def test_decodes_golden(golden: Golden) -> None:
    receiver = Connection(party=golden.receiver, state=golden.state)
    receiver.receive_data(golden.read(), golden.frame.descriptors)
    assert receiver.next_event() == golden.frame
    assert receiver.state == golden.after
    assert receiver.next_event() is NEED_DATA


@by_name
def test_decodes_golden_in_drips(golden: Golden) -> None:
    data = golden.read()
    step = 1 if len(data) < 4096 else 4093
    receiver = Connection(party=golden.receiver, state=golden.state)
    receiver.receive_data(data[:1], golden.frame.descriptors)
    for start in range(1, len(data), step):
        assert receiver.next_event() is NEED_DATA
        assert receiver.read_size() >= 1
        receiver.receive_data(data[start : start + step])
    assert receiver.next_event() == golden.frame


@by_name
def test_large_frame_one_byte_at_a_time_reads_its_header_first(golden: Golden) -> None:
    """``read_size`` never crosses a frame's end, so descriptors of the next frame stay with the next frame."""
    data, receiver = golden.read() + b"\0\0", Connection(party=golden.receiver, state=golden.state)
    taken = 0
    while receiver.next_event() is NEED_DATA:
        size = receiver.read_size()
        receiver.receive_data(data[taken : taken + size], golden.frame.descriptors if not taken else ())
        taken += size
    assert taken == len(golden.read())


@by_name
def test_every_truncation_waits_or_fails(golden: Golden) -> None:
    """A frame cut short, with its length corrected, is never taken for a whole one."""
    data = golden.read()
    for cut in {1, 2, 3, len(data) // 2} & set(range(1, len(data) - 5)):
        body = data[4:-cut]
        receiver = Connection(party=golden.receiver, state=golden.state)
        receiver.receive_data(struct.pack("<I", len(body)) + body, golden.frame.descriptors)
        if golden.name.startswith(("deny", "error", "shell-failed")):
            continue  # any shorter reason is a reason
        with pytest.raises(RemoteProtocolError):
            receiver.next_event()


@by_name
def test_wrong_number_of_descriptors(golden: Golden) -> None:
    receiver = Connection(party=golden.receiver, state=golden.state)
    receiver.receive_data(golden.read(), (*golden.frame.descriptors, 99))
    with pytest.raises(RemoteProtocolError, match="descriptors"):
        receiver.next_event()
    assert 99 in receiver.unclaimed()


@by_name
def test_out_of_turn(golden: Golden) -> None:
    """In every state the table does not name, the frame is an error on both sides."""
    table = wire._SESSIONS[golden.sender][1]
    for state in table:
        if (golden.sender, type(golden.frame)) in table[state]:
            continue
        receiver = Connection(party=golden.receiver, state=state)
        receiver.receive_data(golden.read(), golden.frame.descriptors)
        with pytest.raises(RemoteProtocolError, match="in state"):
            receiver.next_event()
        with pytest.raises(LocalProtocolError, match="in state"):
            Connection(party=golden.sender, state=state).send(golden.frame)


@by_name
def test_own_frames_are_not_accepted_from_the_peer(golden: Golden) -> None:
    if isinstance(golden.frame, wire.Continued):
        golden = dataclasses.replace(golden, state="handing over")  # where both go on, each says so
    receiver = Connection(party=golden.sender, state=golden.state)
    receiver.receive_data(golden.read(), golden.frame.descriptors)
    with pytest.raises(RemoteProtocolError):
        receiver.next_event()


@pytest.mark.parametrize("length", [0, wire.MAX_LENGTH + 1, 0xFFFFFFFF])
def test_length_out_of_range(length: int) -> None:
    receiver = Connection(party=Party.SERVICE)
    receiver.receive_data(struct.pack("<I", length))
    with pytest.raises(RemoteProtocolError, match=f"frame of {length} bytes"):
        receiver.next_event()


def test_descriptors_in_the_middle_of_a_frame() -> None:
    receiver = Connection(party=Party.SERVICE)
    receiver.receive_data(b"\x05")
    with pytest.raises(RemoteProtocolError, match="middle"):
        receiver.receive_data(b"\0", (7,))
    assert receiver.unclaimed() == (7,)


def test_descriptors_in_parts() -> None:
    receiver = Connection(party=Party.SERVICE, state="handing over")
    for part in (
        wire.Fds(total=3, numbers=(0, 9), descriptors=(5, 6)),
        wire.Fds(total=3, numbers=(2,), descriptors=(7,)),
    ):
        assert receiver.state == "handing over"
        receiver.receive_data(wire.encode(part), part.descriptors)
        assert receiver.next_event() == part
    assert receiver.state == "handed over"


@pytest.mark.parametrize(
    "second",
    [
        wire.Fds(total=4, numbers=(2,), descriptors=(7,)),
        wire.Fds(total=3, numbers=(9,), descriptors=(7,)),
        wire.Fds(total=3, numbers=(2, 3), descriptors=(7, 8)),
        wire.Fds(total=3, numbers=(2, 2), descriptors=(7, 8)),
    ],
    ids=["another total", "a number again", "too many", "twice in one part"],
)
def test_parts_that_contradict(second: wire.Fds) -> None:
    receiver = Connection(party=Party.SERVICE, state="handing over")
    first = wire.Fds(total=3, numbers=(0, 9), descriptors=(5, 6))
    receiver.receive_data(wire.encode(first), first.descriptors)
    receiver.next_event()
    receiver.receive_data(wire.encode(second), second.descriptors)
    with pytest.raises(RemoteProtocolError):
        receiver.next_event()


def test_nul_cannot_be_sent() -> None:
    with pytest.raises(LocalProtocolError, match="NUL"):
        wire.encode(wire.Request(file=b"a\0b", cwd=b"/", argv=(), env=()))


def test_too_large_cannot_be_sent() -> None:
    with pytest.raises(LocalProtocolError, match="at most"):
        wire.encode(wire.Request(file=b"/x", cwd=b"/", argv=(b"x" * wire.MAX_LENGTH,), env=()))


def test_long_reason_is_cut_at_a_character() -> None:
    data = wire.encode(wire.Deny(reason="ä" * wire.MAX_REASON))
    receiver = Connection(party=Party.CLIENT, state="asked")
    receiver.receive_data(data)
    assert receiver.next_event() == wire.Deny(reason="ä" * (wire.MAX_REASON // 2))


_STRINGS = st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\0", b"?")), max_size=8).map(tuple)


@given(argv=_STRINGS, env=_STRINGS, umask=st.integers(0, 0o777), ask=st.booleans())
def test_requests_come_back(argv: tuple[bytes, ...], env: tuple[bytes, ...], umask: int, ask: bool) -> None:
    request = wire.Request(file=b"f", cwd=b"/c", argv=argv, env=env, umask=umask, ask=ask, cwd_descriptor=3)
    sender, receiver = Connection(party=Party.CLIENT), Connection(party=Party.SERVICE)
    receiver.receive_data(sender.send(request), request.descriptors)
    assert receiver.next_event() == request


@given(
    data=st.binary(max_size=200),
    party=st.sampled_from(list(Party)),
    descriptors=st.lists(st.integers(3, 99), max_size=3).map(tuple),
    where=st.data(),
)
def test_garbage_is_waited_for_or_refused(
    data: bytes, party: Party, descriptors: tuple[int, ...], where: st.DataObject
) -> None:
    """Invariant: nothing but RemoteProtocolError comes out of garbage, and every descriptor is accounted for."""
    receiver = Connection(party=party, state=where.draw(st.sampled_from(sorted(wire._SESSIONS[party][1]))))
    seen: list[int] = []
    try:
        receiver.receive_data(data, descriptors)
        while (event := receiver.next_event()) is not NEED_DATA:
            seen += event.descriptors
    except RemoteProtocolError:
        pass
    assert sorted([*seen, *receiver.unclaimed()]) == sorted(descriptors)


@by_name
def test_a_flipped_byte_is_refused_or_still_a_frame(golden: Golden) -> None:
    data = golden.read()
    for position in range(min(len(data), 64)):
        damaged = bytearray(data)
        damaged[position] ^= 0x80
        receiver = Connection(party=golden.receiver, state=golden.state)
        try:
            receiver.receive_data(bytes(damaged), golden.frame.descriptors)
            event = receiver.next_event()
        except RemoteProtocolError:
            continue
        assert event is NEED_DATA or wire.encode(event) == bytes(damaged)
