"""The two codecs in one process, on the golden frames and on what hypothesis makes of them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import building, codec
from fuzz.inputs import FRAMED, PLACES, RIGHT, SEPARATOR, Input, seeds

if TYPE_CHECKING:
    from codex_shell_tool_mcp.escalation.wire import Party

SEEDS = seeds()


@pytest.fixture(scope="module")
def c_codec() -> codec.CCodec:
    """The C codec, loaded into this process."""
    return codec.CCodec(building.library())


def judge(c_codec: codec.CCodec, data: bytes) -> list[str]:
    """Both codecs' reading of an input, which must be the same; the C codec's lines."""
    case = Input.of(data)
    assert case is not None
    assert case.place is not None
    lines = c_codec.lines(case.received, case.chunk, case.place)
    reading = codec.read(case, case.place, codec.counts_of(lines))
    assert sorted(reading.given) == sorted(reading.taken)
    if case.descriptors == RIGHT:
        assert codec.difference(lines, reading.lines) is None
    return lines


@pytest.mark.parametrize("name", [name for name in SEEDS if name != "everything"])
def test_first_inputs_are_whole_sessions(c_codec: codec.CCodec, name: str) -> None:
    """What fuzzing begins with is accepted to its end, or it would begin with nothing."""
    assert judge(c_codec, SEEDS[name])[-1].startswith("state ")


@pytest.mark.parametrize("place", [place for place in PLACES if place is not None], ids=str)
def test_states_are_in_the_same_order(c_codec: codec.CCodec, place: tuple[Party, str]) -> None:
    assert c_codec.lines(b"", 1, place) == [f"state {place[1].replace(' ', '-')}"]


def test_a_difference_is_one() -> None:
    """The comparison lets pass only what the two may judge at different bytes."""
    run, state = "RUN", "state running"
    assert codec.difference([run, state], [run, state]) is None
    assert codec.difference([run, state], [run, "error"]) is not None
    assert codec.difference([run, "error: not a reason"], [run, state]) is not None
    assert codec.difference([run, "error: not a reason"], [run, codec.UNFINISHED]) is not None
    assert codec.difference(["error: a frame out of turn"], [codec.UNFINISHED]) is None
    assert codec.difference(["error: a frame out of turn"], [run, "error"]) is not None
    assert codec.difference([run, state], ["RUN x", state]) is not None
    twice = ["FDS total=3 numbers=1,2;", "FDS total=3 numbers=2;", "state handed-over"]
    assert codec.difference(twice, [twice[0], "error"]) is None
    assert codec.difference([twice[0], twice[2]], ["error"]) is not None


_PIECES = st.lists(
    st.one_of(
        st.sampled_from([data[3:] for name, data in SEEDS.items() if not name.endswith("-raw")]),
        st.builds(lambda kind, body: bytes((kind,)) + body, st.integers(0, 41), st.binary(max_size=60)),
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def _inputs(draw: st.DrawFn) -> bytes:
    """Frames, some with bytes changed, some with lengths that lie."""
    body = bytearray(SEPARATOR.join(draw(_PIECES)))
    for _ in range(draw(st.integers(0, 4))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    how = draw(st.sampled_from((FRAMED, 0)))
    if not how:
        body = bytearray(struct.pack("<I", draw(st.sampled_from((len(body), 1, 5, 0xFFFFFFFF))))) + body
    head = (
        draw(st.integers(0, len(PLACES) - 2)),
        how | draw(st.integers(1, 40)),
        draw(st.sampled_from((RIGHT, 0, 1, 3))),
    )
    return bytes(head) + bytes(body)


@given(data=_inputs())
def test_property_both_codecs_agree(c_codec: codec.CCodec, data: bytes) -> None:
    judge(c_codec, data)
