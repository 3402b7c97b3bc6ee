"""The rules in force while files change: read anew between two execs, never within one.

Whoever decides an exec asks :meth:`LiveRules.is_stale` first, which looks at the files again (stat(2), a microsecond
or two each) when the last look is longer ago than :data:`LOOK_SECONDS`. Watching by inotify(7) or kqueue(2) would save
that, but tells nothing on network file systems, needs a watch on every folder that is not there yet, and has a queue
that can overflow.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import PolicyError
from codex_shell_tool_mcp.execpolicy.files import changed, links_on_the_way, signature
from codex_shell_tool_mcp.execpolicy.isolation import evaluate_files
from codex_shell_tool_mcp.execpolicy.layers import combined, left_out
from codex_shell_tool_mcp.execpolicy.loader import Found, Places, read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from codex_shell_tool_mcp.execpolicy.isolation import RulesText
    from codex_shell_tool_mcp.execpolicy.layers import FileRules
    from codex_shell_tool_mcp.execpolicy.rules import Policy

LOOK_SECONDS = 0.01
"""Least time between two looks: a script that starts programs as fast as it can pays for one look in several execs."""

QUIET_SECONDS = 0.03
"""How long files must have been left alone before they are evaluated: an editor writes in several steps."""

MAX_QUIET_SECONDS = 1.0
"""After this they are evaluated though they still change."""

SETTLE_SECONDS = 1.0
"""How long a file must have been gone, or empty, before its rules are dropped: an editor may be putting it back."""

SLOW_SECONDS = 0.5
"""A read that takes longer is slow; so it is of files that never come to rest, or whose evaluation hardly ends."""

REST = 9
"""After a slow one, what scripts can write, which only tightens, is not read anew for so many times as long."""

MAX_HELD = 16
"""Directories whose rules are kept; a client that names more is served slower."""


@dataclass(frozen=True, kw_only=True)
class InForce:
    """A set of rules, and what there is to say about it.

    Attributes:
        policy: The rules.
        notes: What does not count, and why; each a sentence for people.
    """

    policy: Policy
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _Held:
    """The last good set of one directory.

    Attributes:
        found: What was read; its ``seen`` is of the last attempt.
        files: What it says.
        gone_since: File that is gone or empty to when that was noticed; its old text is still in force.
        in_force: What comes of it, as long as scripts can write the folders :attr:`opened`.
        looked: When the files were last looked at.
        stale: Whether they were seen to differ then; they do until they are read.
        rest_until: Until when changes to what scripts can write are let be.
        failure: Why files that may only tighten do not count as they are now, but as they were.
    """

    found: Found
    files: tuple[FileRules, ...]
    gone_since: dict[str, float]
    in_force: InForce
    opened: frozenset[str]
    looked: float
    stale: bool = False
    rest_until: float = 0.0
    failure: str | None = None


class LiveRules:
    """The rules of a server, for every directory it is asked about. Not for several threads at once."""

    def __init__(
        self,
        codex_home: Path,
        files: tuple[Path, ...] = (),
        *,
        cwd: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is read yet.

        Args:
            codex_home: The user's folder.
            files: Files named on the command line.
            cwd: The directory whose project's rules count while nobody names another; without links, as all of them.
            clock: For tests: a monotonic clock in seconds.
            sleep: For tests.
        """
        self.codex_home = codex_home
        self.cwd = cwd
        self._files = files
        self._clock = clock
        self._sleep = sleep
        self._held: dict[Path | None, _Held] = {}
        self._evaluated: tuple[tuple[RulesText, ...], tuple[FileRules, ...]] | None = None
        self._opened: frozenset[str] = frozenset()

    def opened(self, folders: Iterable[str]) -> None:
        """Scripts get to write below ``folders``: from now on rules files there may only tighten.

        For good, not for one call: what one call writes must not help the next one, which may have another sandbox.
        Not to be told of calls that can write everything, for then there is nothing to protect.
        """
        new = [folder for folder in map(os.path.realpath, folders) if not _is_below(folder, self._opened)]
        if new:
            self._opened |= frozenset(new)

    def expire(self) -> None:
        """Files were changed just now: look at them before anything is decided, however recent the last look."""
        for held in tuple(self._held.values()):  # a thread may be reading
            held.stale = True

    def look_again(self, cwd: Path | None) -> None:
        """A call begins: what was changed before it was asked for counts in it, however recent the last look."""
        held = self._held.get(cwd)
        if held is not None:
            held.looked = -math.inf

    def is_stale(self, cwd: Path | None) -> bool:
        """Whether :meth:`refresh` has something to do for the directory whose project counts: cheap, for each exec."""
        held = self._held.get(cwd)
        if held is None or held.stale or held.opened is not self._opened:
            return True
        now = self._clock()
        if now - held.looked < LOOK_SECONDS:
            return False
        held.looked = now
        held.stale = self._must_read(held)
        return held.stale

    def in_force(self, cwd: Path | None) -> InForce:
        """What :meth:`refresh` last found for that directory."""
        return self._held[cwd].in_force

    def refresh(self, cwd: Path | None) -> str | None:
        """Read what has changed.

        Returns:
            Why the files as they are now do not count, and the last good set stays; ``None`` if all is well.

        Raises:
            PolicyError: They do not hold, and there is no earlier set for this directory.
        """
        held = self._held.get(cwd)
        failure = None
        if held is None or self._must_read(held):
            begun = self._clock()
            try:
                held = self._read(cwd, held)
                self._keep(cwd, held)
                failure = held.failure
            except _BadSetError as bad:
                if held is None:
                    raise PolicyError(str(bad)) from None
                # What the attempt did not get to counts as seen as well, or every exec would be one more attempt.
                unseen = {path: signature(path) for path in held.found.seen if path not in bad.found.seen}
                held.found.seen = {**bad.found.seen, **unseen}
                failure = str(bad)
            took = self._clock() - begun
            held.rest_until = self._clock() + (REST * took if took > SLOW_SECONDS else 0.0)
        held.looked, held.stale = self._clock(), False
        opened = self._opened  # once: another thread may add to it meanwhile
        if held.opened is not opened:
            held.in_force, held.opened = _in_force(held.found, held.files, opened), opened
        return failure

    def _must_read(self, held: _Held) -> bool:
        now = self._clock()
        if any(now - since >= SETTLE_SECONDS for since in held.gone_since.values()):
            return True
        if now >= held.rest_until:
            return changed(held.found.seen)
        return any(signature(path) != before and not self._is_opened(path) for path, before in held.found.seen.items())

    def _is_opened(self, path: str) -> bool:
        return _is_in(path, self._opened)

    def _keep(self, cwd: Path | None, held: _Held) -> None:
        self._held.pop(cwd, None)
        while len(self._held) >= MAX_HELD:
            del self._held[next(iter(self._held))]
        self._held[cwd] = held

    def _read(self, cwd: Path | None, before: _Held | None) -> _Held:
        failure = None
        gone_since: dict[str, float] = {}
        try:
            found = self._read_quiet(cwd, wait=before is not None)
            gone_since = {} if before is None else self._put_back(found, before)
            try:
                files = self._evaluate(tuple(found.texts))
            except PolicyError as exc:
                raise _BadSetError(exc, found) from None
        except _BadSetError as bad:
            found, failure = bad.found, str(bad)
            good = None if before is None else self._without_the_bad(found, before)
            if good is None:
                raise
            files = good
        if found.requirements is not None:
            files = (*files, found.requirements)
        opened = self._opened
        return _Held(
            found=found,
            files=files,
            gone_since=gone_since,
            in_force=_in_force(found, files, opened),
            opened=opened,
            looked=self._clock(),
            failure=failure,
        )

    def _evaluate(self, texts: tuple[RulesText, ...]) -> tuple[FileRules, ...]:
        """What the texts say. For another directory they mostly say the same as for the last: that takes no process."""
        last = self._evaluated
        if last is not None and last[0] == texts:
            return last[1]
        files = tuple(evaluate_files(texts))
        self._evaluated = (texts, files)
        return files

    def _without_the_bad(self, found: Found, before: _Held) -> tuple[FileRules, ...] | None:
        """The trusted files as they are now, and of those that may only tighten what counted before.

        Else a script could, by a bad file in its project, keep the user from forbidding anything. ``None`` if it is a
        trusted file that is bad.
        """
        if not found.complete or any(
            distrusted is None and not self._is_opened(folder) for folder, distrusted in found.unread.items()
        ):
            return None

        def only_tightens(path: str) -> bool:
            unread = _is_below(path, found.unread)
            return unread or path in found.distrusted or path in before.found.distrusted or self._is_opened(path)

        try:
            trusted = evaluate_files([text for text in found.texts if not only_tightens(text.identifier)])
        except PolicyError:
            return None
        old = [file for file in before.files if only_tightens(file.identifier)]
        for file in old:
            for folder, distrusted in found.unread.items():
                if distrusted is not None and _is_below(file.identifier, {folder}):
                    found.distrusted[file.identifier] = distrusted
            found.rests_on.setdefault(file.identifier, before.found.rests_on.get(file.identifier, ()))
            if file.identifier in before.found.distrusted:
                found.distrusted.setdefault(file.identifier, before.found.distrusted[file.identifier])
        return (*trusted, *old)

    def _read_quiet(self, cwd: Path | None, *, wait: bool) -> Found:
        """Read all files, again and again until they stay as they are."""
        places = Places(codex_home=self.codex_home, cwd=cwd, files=self._files)
        begun = self._clock()
        while True:
            found = Found()
            try:
                read_all(places, found)
                error = None
            except PolicyError as exc:
                error = exc
            if wait:
                self._sleep(QUIET_SECONDS)
            if not wait or not changed(found.seen) or self._clock() - begun > MAX_QUIET_SECONDS:
                break
        if error is not None:
            raise _BadSetError(error, found)
        return found

    def _put_back(self, found: Found, before: _Held) -> dict[str, float]:
        """Keep the texts of files that are only just gone or empty, where they were. Returns since when they are."""
        now = self._clock()
        present = {text.identifier: text for text in found.texts}
        since: dict[str, float] = {}
        merged: list[RulesText] = []
        for old in before.found.texts:
            new = present.get(old.identifier)
            if (new is None or not new.text.strip()) and old.text.strip():
                noticed = before.gone_since.get(old.identifier, now)
                if now - noticed < SETTLE_SECONDS:
                    since[old.identifier] = noticed
                    merged.append(old)
        if since:
            order = [text.identifier for text in before.found.texts]
            kept = [text for text in found.texts if text.identifier not in since]
            found.texts = sorted(
                [*kept, *merged],
                key=lambda text: order.index(text.identifier) if text.identifier in order else len(order),
            )
            for identifier in since:
                found.rests_on[identifier] = before.found.rests_on.get(identifier, ())
                if identifier in before.found.distrusted:
                    found.distrusted[identifier] = before.found.distrusted[identifier]
        return since


class _BadSetError(Exception):
    """Files that do not hold, and what was looked at until that was clear."""

    def __init__(self, error: PolicyError, found: Found) -> None:
        super().__init__(str(error))
        self.found = found


def _in_force(found: Found, files: Iterable[FileRules], opened: frozenset[str]) -> InForce:
    """The policy of a set when scripts can write below ``opened``."""
    reasons = dict(found.distrusted)
    for file in files:
        for path in (file.identifier, *found.rests_on.get(file.identifier, ())):
            if _is_in(path, opened):
                where = "it" if path == file.identifier else f"{path}, which decides whether it is trusted,"
                reasons.setdefault(
                    file.identifier, f"scripts can write {where} in the sandbox of this session: keep it elsewhere"
                )
    notes = tuple(
        f"{file.identifier}: {what} in it do not count: {reasons[file.identifier]}"
        for file in files
        if file.identifier in reasons and (what := left_out(file)) is not None
    )
    return InForce(policy=combined(files, lambda identifier: identifier not in reasons), notes=notes)


def _is_in(path: str, folders: Iterable[str]) -> bool:
    """Whether ``path``, the file behind it or a link on the way to that lies below one of ``folders``."""
    return any(_is_below(one, folders) for one in (path, os.path.realpath(path), *links_on_the_way(path)))


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(folder in {"/", path} or path.startswith(folder + "/") for folder in folders)
