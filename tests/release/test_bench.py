"""The benchmark: its arithmetic, its table, its loops in plain bash, and that a failed loop gives no figure."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import __main__ as program
from bench import figures, machine, options, processor, table
from bench.client import Answer, Script
from bench.errors import BenchError
from bench.figures import BASELINE, SUBJECTS, TARGETS, TURNS, Figures, Ratio, Sample, SubjectName
from bench.loops import END, KEPT, LOOPS, OUTPUT_BYTES, Loop
from bench.measure import Entrant, Measured, Plan, measure
from bench.subjects import Plain, environment
from support.built import built

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shell_tool_release.workspace import Workspace

LOOP = Loop(name="run", title="the loop", script=f"echo {END}", count=10, quick=2)
CALL = replace(LOOP, name="call", unit="call", title="the call")
WHOLE = replace(LOOP, name="configure", unit="whole", title="all of it")

SECONDS: Mapping[SubjectName, float] = {"plain": 1.0, "peer plain": 1.5, "ours": 2.0, "ours confined": 2.5, "peer": 5.5}
"""For ten units: ours adds a second, the original four."""


def _samples(loop: str = "run", number: int = 0, factor: float = 1.0, count: int = 10) -> list[Sample]:
    return [
        Sample(loop=loop, subject=name, round=number, seconds=seconds * factor, count=count)
        for name, seconds in SECONDS.items()
    ]


def _same(value: float) -> Any:
    """A ratio that was the same in every round."""
    near = pytest.approx(value)
    return Ratio(value=near, low=near, high=near)  # type: ignore[arg-type]


# --- arithmetic ---


def test_what_one_unit_takes() -> None:
    assert Figures(_samples()).per_unit("run", "ours") == pytest.approx(0.2)


def test_what_a_server_adds_is_beyond_its_own_plain_bash() -> None:
    found = Figures(_samples())
    assert [found.added("run", name) for name in BASELINE] == pytest.approx([0.1, 0.15, 0.4])


def test_ratios() -> None:
    found = Figures(_samples())
    assert found.ratio("run", "added") == _same(0.25)
    assert found.ratio("run", "added", "ours confined") == _same(0.375)
    assert found.ratio("run", "total") == _same(2 / 5.5)
    assert found.ratio("run", "to plain") == _same(2.0)


def test_the_median_round_counts_not_the_mean() -> None:
    samples = [
        Sample(loop="run", subject="ours", round=number, seconds=seconds, count=1)
        for number, seconds in enumerate((3, 1, 90))
    ]
    assert Figures(samples).per_unit("run", "ours") == 3


@settings(deadline=None, max_examples=20)
@given(factors=st.lists(st.floats(0.1, 50), min_size=1, max_size=9))
def test_a_busy_machine_changes_no_ratio(factors: list[float]) -> None:
    """Whatever slows down a whole round slows down both servers in it."""
    found = Figures(sample for number, factor in enumerate(factors) for sample in _samples("run", number, factor))
    for quantity, value in (("added", 0.25), ("total", 2 / 5.5), ("to plain", 2.0)):
        assert found.ratio("run", quantity) == _same(value)  # type: ignore[arg-type]


def test_rounds_that_lack_a_side_do_not_count() -> None:
    samples = [*_samples("run", 0), *(sample for sample in _samples("run", 1, 7) if sample.subject != "peer")]
    samples += [Sample(loop="run", subject="ours", round=2, seconds=1000, count=10)]
    found = Figures(samples)
    assert found.rounds("run") == 3
    assert found.ratio("run", "added") == _same(0.25)
    assert found.ratio("run", "total") == _same(2 / 5.5)


def test_an_original_that_added_nothing_cannot_be_beaten() -> None:
    samples = [sample for sample in _samples() if sample.subject != "peer"]
    samples.append(Sample(loop="run", subject="peer", round=0, seconds=1.4, count=10))
    assert Figures(samples).ratio("run", "added") == Ratio(value=math.inf, low=math.inf, high=math.inf)
    assert not figures.judge(Figures(samples))[0].held


def test_what_is_added_is_taken_round_by_round() -> None:
    """The differences are 3, 1 and 1; that of the medians, 3 and 1, would be 2."""
    taken: dict[SubjectName, tuple[int, int, int]] = {"plain": (1, 1, 2), "ours": (4, 2, 3)}
    samples = [
        Sample(loop="run", subject=subject, round=number, seconds=seconds, count=1)
        for subject, rounds in taken.items()
        for number, seconds in enumerate(rounds)
    ]
    assert Figures(samples).added("run", "ours") == 1


def test_how_sure_a_ratio_is() -> None:
    """Between the lowest and the highest quotient there can be, around the one of the medians, the same each time."""
    pairs = [(float(value), 10.0) for value in range(1, 22)]
    found = Ratio.of(pairs)
    assert found == Ratio.of(pairs)
    assert found.value == pytest.approx(1.1)
    assert 0.5 < found.low < 0.95
    assert 1.25 < found.high < 1.7
    assert Ratio.of(pairs[10:11]) == _same(1.1)


def test_what_was_not_measured_has_no_figure() -> None:
    found = Figures(_samples("call"))
    assert found.per_unit("run", "ours") is None
    assert found.added("run", "ours") is None
    assert found.ratio("run", "total") is None
    assert found.rounds("run") == 0


def test_the_targets_are_those_that_were_promised() -> None:
    promised = {
        ("run", "added", 0.35),
        ("escalate", "total", 0.7),
        ("call", "total", 1.3),
        ("configure", "to plain", 1.25),
    }
    assert {(target.loop, target.quantity, target.limit) for target in TARGETS} == promised
    assert {target.loop for target in TARGETS} <= {loop.name for loop in LOOPS}


@pytest.mark.parametrize(("seconds", "held"), [(0.9, True), (1.3, True), (1.4, False)])
def test_a_target_holds_up_to_its_limit(seconds: float, *, held: bool) -> None:
    samples = [
        Sample(loop="call", subject="ours", round=0, seconds=seconds, count=1),
        Sample(loop="call", subject="peer", round=0, seconds=1, count=1),
    ]
    verdicts = {verdict.target.loop: verdict for verdict in figures.judge(Figures(samples))}
    assert verdicts["call"].held is held
    assert verdicts["run"].found is None
    assert not verdicts["run"].held


# --- table ---


def test_the_tables() -> None:
    samples = [*_samples("run"), *_samples("run", 1, 2), *_samples("configure", count=1)]
    heads = "plain bash | plain bash of the original | ours | ours, in its sandbox | the original"
    added = "ours | ours, in its sandbox | the original"
    ratios = "ours to plain bash | ours to the original, added | ours to the original, whole"
    lines = table.render(Figures(samples), Figures([]), [LOOP, CALL, WHOLE], ["A note."]).splitlines()
    assert lines == [
        "| target | at most | measured | 90 % between | held |",
        "|---|--:|--:|--:|--:|",
        "| Run: added per exec, to the original's | 0.35 | 0.25 | 0.25 to 0.25 | yes |",
        "| Escalate: total per exec, to the original's | 0.7 | not measured | – | – |",
        "| a call of `:`, to the original's | 1.3 | not measured | – | – |",
        "| `configure`, to plain bash | 1.25 | 2.00 | 2.00 to 2.00 | no |",
        "",
        f"| median time | {heads} | rounds |",
        "|---|--:|--:|--:|--:|--:|--:|",
        "| the loop (ms per exec) | 150.000 | 225.000 | 300.000 | 375.000 | 825.000 | 2 |",
        "| all of it (s) | 1.00 | 1.50 | 2.00 | 2.50 | 5.50 | 1 |",
        "",
        f"| time added to plain bash | {added} | {ratios} |",
        "|---|--:|--:|--:|--:|--:|--:|",
        "| the loop (ms per exec) | 150.000 | 225.000 | 600.000 | 2.00 | 0.25 | 0.36 |",
        "| all of it (s) | 1.00 | 1.50 | 4.00 | 2.00 | 0.25 | 0.36 |",
        "",
        "A note.",
    ]


def test_processor_time_has_tables_of_its_own() -> None:
    samples = [replace(sample, processor=sample.seconds / 2) for sample in _samples("run")]
    samples += _samples("call")
    lines = table.render(Figures(samples), figures.of_processor(samples), [LOOP, CALL], []).splitlines()
    (place,) = (number for number, line in enumerate(lines) if "median processor time" in line)
    assert lines[place + 2] == "| the loop (ms per exec) | 50.000 | 75.000 | 100.000 | 125.000 | 275.000 | 1 |"
    assert lines[-1] == "| the loop (ms per exec) | 50.000 | 75.000 | 200.000 | 2.00 | 0.25 | 0.36 |"


def test_without_the_original_there_are_only_our_figures() -> None:
    samples = [sample for sample in _samples("call") if not sample.subject.startswith("peer")]
    text = table.render(Figures(samples), Figures([]), [CALL], [])
    assert "| the call (ms per call) | 100.000 | – | 200.000 | 250.000 | – | 1 |" in text
    assert "| the call (ms per call) | 100.000 | 150.000 | – | 2.00 | – | – |" in text


def test_the_table_goes_between_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    for text in ("first", "second"):
        table.put(path, text)
        assert path.read_text() == f"before\n{table.BEGIN}\n\n{text}\n\n{table.END}\nafter\n"


@pytest.mark.parametrize("text", ["", table.BEGIN, table.END + table.BEGIN, table.BEGIN * 2 + table.END])
def test_a_file_without_the_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(BenchError, match="once each"):
        table.put(path, "new")
    assert path.read_text() == text


def test_the_readme_has_a_place_for_it_and_tells_of_every_loop(tmp_path: Path) -> None:
    text = program.README.read_text(encoding="utf-8")
    copy = tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    table.put(copy, "figures")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    for loop in LOOPS:
        numbers = {loop.count, loop.calls, loop.at_once} - {1}
        assert [number for number in numbers if f" {number} " not in rows[loop.name]] == [], loop.name
    assert f"there are {options.ROUNDS} rounds" in text


def test_the_machine_is_described_but_not_named(workspace: Workspace) -> None:
    text = machine.describe(options.parse([]), workspace)
    assert workspace.version in text
    assert "0.97.0" in text
    assert str(workspace.root) not in text
    assert Path("/proc/sys/kernel/hostname").read_text().strip() not in text.split()


# --- options ---


def test_the_defaults_measure_everything() -> None:
    assert options.parse([]).is_full
    assert options.parse([]).only == tuple(loop.name for loop in LOOPS)


@pytest.mark.parametrize(
    "given",
    [["--quick"], ["--only", "run,escalate"], ["--rounds", "2"], ["--checkout", "."], ["--no-peer"], ["--no-confined"]],
)
def test_anything_less_is_not_for_the_readme(given: list[str]) -> None:
    assert not options.parse(given).is_full


@pytest.mark.parametrize("given", [["--only", "run,nothing"], ["--rounds", "0"], ["--checkout", ".", "--package", "."]])
def test_what_cannot_be_measured_is_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.parse(given)
    assert "error" in capsys.readouterr().err


def test_loops_are_chosen() -> None:
    def names(*given: str, compiler: bool = True) -> tuple[list[str], list[str]]:
        found, notes = program.chosen(options.parse(given), compiler=compiler)
        return [loop.name for loop in found], notes

    assert names() == ([loop.name for loop in LOOPS], [])
    assert names("--only", "call,run") == (["run", "call"], [])
    assert "configure" not in names("--quick")[0]
    without, notes = names(compiler=False)
    assert "configure" not in without
    assert "no C compiler" in notes[0]


# --- measuring ---


class Recorder:
    """A subject that notes who ran what and answers as it is told."""

    def __init__(self, name: str, log: list[tuple[str, str]], answer: Answer) -> None:
        self.name = name
        self.log = log
        self.answer = answer
        self.asked = 0

    def prepare(self, folder: Path, *, writes: bool) -> None:
        """Nothing."""

    def run(self, scripts: Sequence[Script]) -> list[Answer]:
        """Nothing either."""
        assert all(script.folder.is_dir() for script in scripts)
        self.log += [(self.name, script.text) for script in scripts]
        return [self.answer for _ in scripts]

    def processor(self) -> float | None:
        """A second more each time it is asked; nobody knows the original's."""
        self.asked += 1
        return None if self.name == "peer" else float(self.asked)


GOOD = Answer(exit_code=0, output=f"{END}\n")


@pytest.fixture
def log() -> list[tuple[str, str]]:
    """Who ran what."""
    return []


def _plan(tmp_path: Path, log: list[tuple[str, str]], *loops: Loop, **answers: Answer) -> Plan:
    entrants = {
        name: Entrant(subject=Recorder(name, log, answers.get(name.replace(" ", "_"), GOOD)), bash=Path(f"/{name}"))
        for name in TURNS
    }
    return Plan(entrants=entrants, loops=loops, rounds=3, quick=False, source=Path("/source"), scratch=tmp_path)


def _measure(plan: Plan) -> Measured:
    return measure(plan, lambda _: None)


def test_subjects_take_turns(tmp_path: Path, log: list[tuple[str, str]]) -> None:
    measured = _measure(_plan(tmp_path, log, LOOP))
    assert [name for name, _ in log] == [*TURNS, *reversed(TURNS), *TURNS]
    expected = [(name, place // len(TURNS)) for place, (name, _) in enumerate(log)]
    assert [(sample.subject, sample.round) for sample in measured.samples] == expected
    assert list(tmp_path.iterdir()) == []


def test_processor_time_is_that_of_the_measurement(tmp_path: Path, log: list[tuple[str, str]]) -> None:
    samples = _measure(_plan(tmp_path, log, LOOP)).samples
    assert {(sample.subject, sample.processor) for sample in samples} == {
        (name, None if name == "peer" else 1.0) for name in SUBJECTS
    }


def test_what_a_tree_of_processes_has_used(tmp_path: Path) -> None:
    """Two levels, one of them ended and not waited for yet; a stranger, and one with an odd name."""
    ticks = os.sysconf("SC_CLK_TCK")
    for number, name, parent, used in (
        (10, "server", 1, (1, 2, 3, 4)),
        (11, "a ) b", 10, (10, 0, 0, 0)),
        (12, "deeper", 11, (0, 20, 0, 0)),
        (13, "stranger", 1, (1000, 0, 0, 0)),
    ):
        (tmp_path / str(number)).mkdir()
        fields = [str(number), f"({name})", "Z", str(parent), *("9" for _ in range(9)), *map(str, used), "20", "0"]
        (tmp_path / str(number) / "stat").write_text(" ".join(fields))
    assert processor.of_tree(10, tmp_path) == pytest.approx(40 / ticks)
    assert processor.of_tree(13, tmp_path) == pytest.approx(1000 / ticks)
    assert processor.of_tree(14, tmp_path) is None


def test_a_busy_child_has_used_something() -> None:
    before = processor.of_children()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert processor.of_children() > before


def test_calls_and_units_are_counted(tmp_path: Path, log: list[tuple[str, str]]) -> None:
    loop = replace(
        LOOP, script=f"{{count}} {{bash}} {{source}} $name ${{other}}; echo {END}", calls=3, at_once=4, rounds=1
    )
    plan = _plan(tmp_path, log, loop)
    assert {sample.count for sample in _measure(plan).samples} == {10 * 3 * 4}
    assert {sample.count for sample in _measure(replace(plan, quick=True)).samples} == {2 * 3 * 4}
    assert log.count(("ours", f"10 /ours /source $name ${{other}}; echo {END}")) == 12


@pytest.mark.parametrize(
    "answer", [replace(GOOD, exit_code=1), replace(GOOD, output=""), replace(GOOD, output="the en")]
)
@pytest.mark.parametrize("name", [name for name in SUBJECTS if name != "peer"])
def test_a_script_that_broke_off_gives_no_figure(
    tmp_path: Path, log: list[tuple[str, str]], name: str, answer: Answer
) -> None:
    plan = _plan(tmp_path, log, LOOP, **{name.replace(" ", "_"): answer})
    with pytest.raises(BenchError, match=f"run in {name} ended with status"):
        _measure(plan)


def test_where_the_original_fails_the_others_go_on(tmp_path: Path, log: list[tuple[str, str]]) -> None:
    plan = _plan(tmp_path, log, LOOP, replace(CALL, output=""), peer=replace(GOOD, output="half of it"))
    measured = _measure(plan)
    assert list(measured.failed) == ["run"]
    assert "half of it" in measured.failed["run"]
    assert [name for name, _ in log].count("peer") == 1 + 3
    assert {sample.loop for sample in measured.samples if sample.subject == "peer"} == {"call"}
    assert len(measured.samples) == 3 * 4 + 3 * 5


# --- the loops themselves ---


def _source(folder: Path) -> Path:
    """Stands in for bash's: a configure that says which shell runs it."""
    folder.mkdir()
    script = (
        'set -e\n[ "$CONFIG_SHELL" = "$(readlink "/proc/$$/exe" || echo "$BASH")" ]\necho > config.h\necho > Makefile\n'
    )
    (folder / "configure").write_text(script)
    return folder


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_every_loop_runs_in_plain_bash(tmp_path: Path, loop: Loop) -> None:
    plain = Entrant(subject=Plain(bash=built().bash, environ=environment(tmp_path)), bash=built().bash)
    small = replace(loop, count=2, calls=min(loop.calls, 2), rounds=1)
    source = _source(tmp_path / "source")
    plan = Plan(entrants={"plain": plain}, loops=[small], rounds=1, quick=False, source=source, scratch=tmp_path)
    (sample,) = _measure(plan).samples
    assert sample.seconds > 0


def test_of_a_lot_of_output_as_much_is_kept_as_servers_keep(tmp_path: Path) -> None:
    (loop,) = (loop for loop in LOOPS if loop.name == "output")
    plain = Plain(bash=built().bash, environ=environment(tmp_path))
    (answer,) = plain.run([Script(text=loop.text({}), folder=tmp_path)])
    assert KEPT <= len(answer.output) < 2 * KEPT
    (counted,) = plain.run([Script(text=f"({loop.text({})}) | wc -c", folder=tmp_path)])
    assert int(counted.output) == OUTPUT_BYTES


def test_plain_bash_has_a_session_of_its_own(tmp_path: Path) -> None:
    """Both servers give each call one, and Linux shares out processor time by sessions."""
    plain = Plain(bash=built().bash, environ=environment(tmp_path))
    with plain._start(Script(text="read -t 60 -u 1", folder=tmp_path)) as process:
        session = os.getsid(process.pid)
        process.kill()
    assert session == process.pid


def test_a_failed_configure_is_noticed(tmp_path: Path) -> None:
    (loop,) = (loop for loop in LOOPS if loop.name == "configure")
    source = _source(tmp_path / "source")
    (source / "configure").write_text("echo no compiler; exit 1\n")
    plain = Entrant(subject=Plain(bash=built().bash, environ=environment(tmp_path)), bash=built().bash)
    plan = Plan(entrants={"plain": plain}, loops=[loop], rounds=1, quick=False, source=source, scratch=tmp_path)
    with pytest.raises(BenchError, match="no compiler"):
        _measure(plan)
