"""How hypothesis searches in the tests, and which tests may not run beside others.

The same examples are tried in every run, however slow the machine is. Who looks for new ones says so:
``pytest --hypothesis-profile random``, or the nox session ``fuzz``.
"""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from shell_tool_release.cache import cache_root
from support.turns import locked
from support.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator

settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("tests", settings.get_profile("random"), derandomize=True, database=None)
settings.load_profile("tests")

CACHE = cache_root()

STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real stderr, which tests do not have; have the controller watch its workers."""
    config.stash[STDERR] = os.dup(2)
    limit = float(config.getini("faulthandler_timeout"))
    if limit and config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Watchdog(limit + 100))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close it."""
    os.close(config.stash[STDERR])


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """A test that has failed has its last limit again: both plugins take theirs away, in case that somebody looks at it
    in a debugger, and the ends of its fixtures may hang as it did."""
    limit = float(node.config.getini("faulthandler_timeout"))
    if limit and isinstance(node, pytest.Item) and not node.config.getoption("usepdb"):
        faulthandler.dump_traceback_later(limit, file=node.config.stash[STDERR], exit=True)


RUNS_EXECS = {"behaviour", "native", "system", "wire"}
"""Folders of the tests in which programs with a low limit of descriptors are started."""


@pytest.fixture(autouse=True)
def _beside_no_flood(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test marked ``flood`` runs alone among those: the descriptors that it has on their way through sockets count
    for all of a user (unix(7)), and no program with a low limit can send one meanwhile, whosever test started it."""
    alone = request.node.get_closest_marker("flood") is not None
    if not alone and not RUNS_EXECS.intersection(request.node.path.relative_to(Path(__file__).parent).parts):
        yield
        return
    with locked(CACHE / "flood.lock", alone=alone):
        yield
