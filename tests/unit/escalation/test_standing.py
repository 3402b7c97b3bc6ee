"""Which answers are said in advance, for what, and how they end: with a fake policy and a fake supervisor."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from codex_shell_tool_mcp.escalation import identity, standing, wire
from codex_shell_tool_mcp.escalation.identity import Kind
from codex_shell_tool_mcp.escalation.policy import Escalate, EscalateAction, ExecRequest, Run, Standing
from codex_shell_tool_mcp.escalation.standing import HOLD_SECONDS, StandingAnswers

STATUS = Path("/bin/sh").stat()


@dataclass
class Policy:
    """Says what it is told to say."""

    said: Standing | None = field(default_factory=lambda: Standing(action=Run(), depth=1, basis="rules", asked=100.0))
    tells_how_far: bool = True

    def standing(self, request: ExecRequest) -> Standing | None:
        """As a StandingPolicy."""
        return self.said

    def later(self, seconds: float, **changes: Any) -> None:
        """Say the same, later."""
        assert self.said is not None
        self.said = replace(self.said, asked=self.said.asked + seconds, **changes)

    def decide_at_once(self, request: ExecRequest) -> EscalateAction | None:
        """As a StandingPolicy."""
        raise AssertionError

    async def determine_action(self, request: ExecRequest) -> EscalateAction:
        """As a StandingPolicy."""
        raise AssertionError


@dataclass
class Seat:
    """Where the answers go."""

    frames: list[wire.Frame] = field(default_factory=list)
    open: bool = True

    def tell_at_once(self, frame: wire.Frame) -> bool:
        """As a Supervision."""
        if self.open:
            wire.encode(frame)
            self.frames.append(frame)
        return self.open


@dataclass
class Call:
    """A call that was asked about a program."""

    policy: Policy = field(default_factory=Policy)
    seat: Seat = field(default_factory=Seat)

    def __post_init__(self) -> None:
        self.answers = StandingAnswers(self.policy, self.seat)

    def ask(self, *words: bytes, file: bytes = b"/bin/sh", times: int = 1, **described: Any) -> list[wire.Frame]:
        """The frames that come of being asked."""
        before = len(self.seat.frames)
        for _ in range(times):
            request = wire.Request(file=file, cwd=b"/", argv=(b"sh", *words), env=(), program=3)
            asked = ExecRequest(
                file=os.fsdecode(file),
                program=os.fsdecode(file),
                resolved="/usr/bin/sh",
                argv=tuple(map(os.fsdecode, request.argv)),
                cwd="/",
            )
            self.answers.answered(request, replace(asked, **described), STATUS)
        return self.seat.frames[before:]


def test_the_second_request_of_a_program_says_its_answer() -> None:
    call = Call()
    assert call.ask(b"one") == []
    (frame,) = call.ask(b"two")
    assert isinstance(frame, wire.Standing)
    assert (frame.file, frame.resolved, frame.depth, frame.words) == (b"/bin/sh", b"/usr/bin/sh", 1, ())
    assert (frame.device, frame.inode, frame.size) == (STATUS.st_dev, STATUS.st_ino, STATUS.st_size)
    assert (frame.modified, frame.changed) == (STATUS.st_mtime_ns, STATUS.st_ctime_ns)
    assert frame.until == int((100.0 + HOLD_SECONDS) * 1e9)
    assert frame.answer == wire.Run.TYPE


def test_words_that_count_must_come_again_as_well() -> None:
    call = Call()
    call.policy.later(0, depth=3)
    assert call.ask(b"zero") == []
    assert [frame for number in range(50) for frame in call.ask(b"%d" % number)] == []
    (frame,) = call.ask(b"7", times=2)
    assert isinstance(frame, wire.Standing)
    assert (frame.depth, frame.words) == (3, (b"7",))
    (frame,) = call.ask(b"1", b"2", b"3", times=2)
    assert isinstance(frame, wire.Standing)
    assert (frame.depth, frame.words) == (3, (b"1", b"2"))


def test_an_answer_that_runs_out_is_renewed_and_not_said_again() -> None:
    call = Call()
    (first,) = call.ask(times=2)
    assert isinstance(first, wire.Standing)
    assert call.ask(times=3) == [], "asked about on the way: it holds as yet"
    call.policy.later(HOLD_SECONDS)
    (renewed,) = call.ask(times=3)
    assert renewed == wire.Hold(generation=first.generation, until=int((100.0 + 2 * HOLD_SECONDS) * 1e9))


def test_another_basis_ends_what_was_said() -> None:
    call = Call()
    (first,) = call.ask(times=2)
    call.policy.later(0.001, basis="other rules")
    (second,) = call.ask()
    assert isinstance(first, wire.Standing)
    assert isinstance(second, wire.Standing)
    assert second.generation != first.generation


def test_a_full_table_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "MAX_ANSWERS", 3)
    call = Call()
    frames = [frame for name in b"abcde" for frame in call.ask(file=b"/%c" % name, times=2)]
    assert [getattr(frame, "generation", 0) for frame in frames] == [1, 1, 1, 2, 2]


def test_what_could_not_be_sent_is_said_next_time() -> None:
    call = Call()
    call.seat.open = False
    assert call.ask(times=5) == []
    call.seat.open = True
    assert len(call.ask()) == 1
    call.policy.later(HOLD_SECONDS)
    call.seat.open = False
    call.ask()
    call.seat.open = True
    assert len(call.ask()) == 1


@pytest.mark.parametrize(
    "described",
    [{"file": "sh"}, {"file": "./sh"}, {"resolved": None}, {"program": "/usr/bin/sh"}, {"file": "/bin/../bin/sh1"}],
    ids=str,
)
def test_nothing_is_said_of_a_name_that_alone_does_not_name_it(described: dict[str, Any]) -> None:
    assert Call().ask(times=5, **described) == []


def test_nothing_is_said_where_the_policy_says_nothing() -> None:
    call = Call()
    call.policy.said = None
    assert call.ask(times=5) == []


def test_what_is_escalated_as_it_came_stands_and_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"now": Kind.IMAGE}
    monkeypatch.setattr(identity, "kind_of", lambda _: kinds["now"])
    call = Call()
    call.policy.later(0, action=Escalate(rule="mine"))
    assert call.ask(times=3, writable_by_sandbox=True) == []
    assert call.ask(file=b"/usr/../bin/sh", times=3, program="/bin/sh") == []
    kinds["now"] = Kind.PLAIN
    assert call.ask(times=3) == []
    kinds["now"] = Kind.SCRIPT
    (frame,) = call.ask(times=3)
    assert isinstance(frame, wire.Standing)
    assert frame.answer == wire.Escalate.TYPE
    record = call.answers.taken(wire.Taken(number=frame.number, argv=(b"sh", b"\xff")))
    assert record is not None
    assert (record[0].program, record[0].argv, record[1]) == ("/bin/sh", ("sh", "\udcff"), Escalate(rule="mine"))
    assert call.answers.taken(wire.Taken(number=frame.number + 1, argv=(b"sh",))) is None


def test_nothing_is_said_that_is_too_long() -> None:
    call = Call()
    call.policy.later(0, depth=9)
    assert call.ask(b"x" * wire.MAX_STANDING, times=5) == []
    call.policy.later(0, depth=200)
    assert call.ask(*[b"x"] * 100, times=5) == []


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "MAX_SEEN", 10)
    call = Call()
    for number in range(100):
        call.ask(file=b"/%d" % number)
        assert len(call.answers._seen) <= 10
