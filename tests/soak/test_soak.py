"""The soak itself: that it counts what it runs, and that what grows is not called flat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from soak import run
from soak.flat import trend
from soak.run import expected

if TYPE_CHECKING:
    from pathlib import Path

COUNTS = list(range(1000, 51_000, 1000))


def test_a_leak_grows_and_noise_does_not() -> None:
    noisy = [30_000.0 + (count * 7919) % 400 for count in range(50)]
    assert trend("noise", COUNTS, noisy, tolerance=512).flat
    leak = [figure + 0.05 * count for figure, count in zip(noisy, COUNTS, strict=True)]  # 50 bytes an exec
    assert not trend("leak", COUNTS, leak, tolerance=512).flat
    assert 40 < trend("leak", COUNTS, leak, tolerance=512).slope < 60


def test_a_start_that_grows_is_no_leak() -> None:
    assert trend("warm-up", COUNTS, [20_000.0, 30_000.0, *[31_000.0] * 48], tolerance=64).flat


def test_one_descriptor_that_stays_is_a_leak() -> None:
    busy = [9.0, 11.0, 10.0, 9.0, 12.0] * 10
    assert trend("busy", COUNTS, busy, tolerance=0, least=True).flat
    stays = [*busy[:35], *(count + 1 for count in busy[35:])]
    assert not trend("stays", COUNTS, stays, tolerance=0, least=True).flat


def test_too_few_samples_are_no_proof() -> None:
    with pytest.raises(ValueError, match="too few"):
        trend("few", COUNTS[:11], [1.0] * 11, tolerance=0)


def test_a_short_soak(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a real server: samples of every kind are there, and the execs came out as they should."""
    monkeypatch.setattr(run, "PER_CALL", 20)
    trends = run.soak(tmp_path, 640, 20)
    assert [one.name.rpartition(",")[0] for one in trends] == [
        *["server, one call"] * 2,
        *["supervisor"] * 2,
        *["server, short calls"] * 2,
    ]
    # Two samples a quarter tell no more than this of what is open for a moment; one lost with each exec would be 200.
    assert all(one.last - one.first < 50 for one in trends if one.name.endswith("descriptors"))
    assert "640 execs: " in capsys.readouterr().out


def test_expected_counts() -> None:
    assert expected(10) == "8 1 1\n"
    assert expected(3) == "2 1 0\n"
    assert expected(27) == f"{27 - 3 - 3} 3 3\n"
