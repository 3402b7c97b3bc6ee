"""Finds the layers rules come from, and reads their files.

In this order: the administrator's folder, the user's, those of the project from its root down to the working directory,
files named on the command line, and last what the administrator's ``requirements.toml`` adds.
"""

from __future__ import annotations

import errno
import os
import pwd
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import PolicyError, UsageError
from codex_shell_tool_mcp.execpolicy.files import (
    MAX_FILES,
    MAX_PROJECT_BYTES,
    Seen,
    links_on_the_way,
    opened_folder,
    read_text,
    reason,
    refuse_what_others_write,
    signature,
)
from codex_shell_tool_mcp.execpolicy.isolation import Limits, RulesText, evaluate
from codex_shell_tool_mcp.execpolicy.settings import UserConfig, parse_requirements, parse_user_config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from codex_shell_tool_mcp.execpolicy.layers import FileRules
    from codex_shell_tool_mcp.execpolicy.rules import Policy

SYSTEM_FOLDER = Path("/etc/codex")
"""The administrator's layer, and where ``requirements.toml`` is."""

PROJECT_FOLDER = ".codex"
"""A project's layer, in each directory from its root to the working directory."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One place rules come from; later layers are read later.

    The strictest rule counts whatever its layer, so the order matters for ``host_executable`` and network rules only.

    Attributes:
        name: What messages call it.
        folder: Its folder; the files are those of ``rules/`` in it. Need not exist.
        distrusted: Why its rules may only tighten; ``None`` if they may also allow.
        links: Whether its ``rules`` may be a link: not in a project, which somebody else may have made.
        rests_on: What says that it may also allow: who can write one of these makes its rules count.
    """

    name: str
    folder: Path
    distrusted: str | None = None
    links: bool = True
    rests_on: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where to look for rules.

    Attributes:
        codex_home: The user's folder.
        cwd: The directory whose project's rules count, by a path without links (else it has none that are trusted);
            ``None`` for none. Whoever names it resolves it, once: a script could put a link in its place later.
        files: Files named on the command line.
    """

    codex_home: Path
    cwd: Path | None = None
    files: tuple[Path, ...] = ()


@dataclass(kw_only=True)
class Found:
    """All that was read, before evaluation.

    Attributes:
        texts: The rules files in their order.
        distrusted: Path to why that file may only tighten; the others are not in it.
        rests_on: Path to what says that this file may also allow, beside itself.
        requirements: What ``requirements.toml`` adds.
        unread: Folders of the project's layers that cannot be read, to why they may only tighten (``None``: they may
            also allow). If :attr:`complete`, all else was read.
        seen: How everything was that was looked at, for :func:`~.files.changed`. Filled also when reading fails.
    """

    texts: list[RulesText] = field(default_factory=list)
    distrusted: dict[str, str] = field(default_factory=dict)
    rests_on: dict[str, tuple[str, ...]] = field(default_factory=dict)
    requirements: FileRules | None = None
    unread: dict[str, str | None] = field(default_factory=dict)
    complete: bool = False
    seen: Seen = field(default_factory=dict)


def find_codex_home(environ: Mapping[str, str]) -> Path:
    """The user's Codex folder: ``CODEX_HOME`` if set and not empty, else ``~/.codex``, which need not exist.

    Raises:
        UsageError: ``CODEX_HOME`` does not name a directory, or there is no home directory.
    """
    named = environ.get("CODEX_HOME")
    if not named:
        return Path(environ.get("HOME") or _account_home()) / ".codex"
    try:
        home = Path(named).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as exc:
        raise UsageError(
            f"CODEX_HOME names {named}, which cannot be used: {reason(exc)}; create it or unset CODEX_HOME"
        ) from exc
    if not home.is_dir():
        raise UsageError(f"CODEX_HOME names {named}, which is not a directory; name a directory or unset CODEX_HOME")
    return home


def default_layers(codex_home: Path) -> tuple[Layer, ...]:
    """The layers that always count: the administrator's, then the user's."""
    return (Layer(name="system", folder=SYSTEM_FOLDER), Layer(name="user", folder=codex_home))


def load_layers(layers: Sequence[Layer], limits: Limits | None = None) -> Policy:
    """The policy of all rules files of ``layers``, in their order and by name within each; trust is not asked for.

    Raises:
        PolicyError: A file cannot be read or does not hold; the text begins with its path.
    """
    return evaluate([text for layer in layers for text in read_layer(layer, {})], limits)


def read_all(places: Places, found: Found) -> None:
    """Read everything there is at ``places`` into ``found``.

    Raises:
        PolicyError: Something cannot be read or may not be used; ``found.seen`` then tells what was looked at so far.
    """
    config = _user_config(places.codex_home, found.seen)
    layers = [*default_layers(places.codex_home)]
    if places.cwd is not None:
        layers += project_layers(places.cwd, places.codex_home, config, found.seen)
    problem = None
    for layer in layers:
        try:
            texts = read_layer(layer, found.seen)
        except PolicyError as exc:
            if layer.links:
                raise
            problem = problem or exc
            found.unread[str(layer.folder)] = layer.distrusted
            continue
        found.texts += texts
        found.rests_on.update((text.identifier, layer.rests_on) for text in texts)
        if layer.distrusted is not None:
            found.distrusted.update((text.identifier, layer.distrusted) for text in texts)
    for path in places.files:
        found.texts.append(read_rules(path, follow_links=True, guarded=True, seen=found.seen))
    path = SYSTEM_FOLDER / "requirements.toml"
    text = _optional_text(path, found.seen)
    found.requirements = None if text is None else parse_requirements(str(path), text)
    found.complete = True
    if problem is not None:
        raise problem


def read_layer(layer: Layer, seen: Seen) -> list[RulesText]:
    """The rules files of a layer: regular files in ``rules/`` with the extension ``rules``, sorted by name.

    Links are skipped, sub-directories not entered. A folder without ``rules/`` has none.

    Raises:
        PolicyError: ``rules`` is there but cannot be listed, or a file in it cannot be read or may not be used.
    """
    folder = layer.folder / "rules"
    with ExitStack() as stack:
        try:
            parent = stack.enter_context(opened_folder(layer.folder, links=layer.links, seen=seen))
            seen.setdefault(str(folder), None)
            rules = None
            if parent is not None:
                rules = stack.enter_context(opened_folder(folder, links=layer.links, seen=seen, within=parent))
            names = _rules_names(rules)
            if parent is not None and rules is not None:
                refuse_what_others_write(layer.folder, os.fstat(parent))
                refuse_what_others_write(folder, os.fstat(rules))
        except OSError as exc:
            raise PolicyError(
                f"{folder}: the {layer.name} layer's rules cannot be listed: {reason(exc)}; "
                "make it a readable directory or remove it"
            ) from exc
        keeps = layer.distrusted is None
        texts: list[RulesText] = []
        left = MAX_PROJECT_BYTES
        for name in names:
            most = None if layer.links else left
            text = read_text(folder / name, links=False, seen=seen, within=rules, most=most)
            left -= len(text)
            texts.append(RulesText(identifier=str(folder / name), text=text, keeps_hosts=keeps))
        return texts


def read_rules(path: Path, *, follow_links: bool, guarded: bool = False, seen: Seen | None = None) -> RulesText:
    """The text of one rules file; see :func:`~.files.read_text`.

    Raises:
        PolicyError: It is no regular file, cannot be read, is too large, is not UTF-8, or others can write it.
    """
    text = read_text(path, links=follow_links, seen={} if seen is None else seen, guarded=guarded)
    return RulesText(identifier=str(path), text=text)


def project_layers(cwd: Path, codex_home: Path, config: UserConfig, seen: Seen) -> list[Layer]:
    """The layers of the project ``cwd`` belongs to: every ``.codex`` from the project's root down to ``cwd``.

    The user's own folder is none of them. Whether a layer is trusted only the user's configuration says.
    """
    here = Path(os.path.abspath(cwd))  # noqa: PTH100 - no link is followed; see Places
    ways = [here, *here.parents]
    root = next((place for place in ways if any(os.path.lexists(place / name) for name in config.root_markers)), here)
    layers = []
    for place in reversed(ways[: ways.index(root) + 1]):
        folder = place / PROJECT_FOLDER
        seen[str(folder)] = signature(str(folder))
        if folder.is_symlink() or not folder.is_dir() or _is_same(folder, codex_home):
            continue
        layers.append(
            Layer(
                name="project",
                folder=folder,
                distrusted=_distrust(place, root, config, codex_home),
                links=False,
                rests_on=_rests_on(place, root, config, codex_home),
            )
        )
    return layers


def _distrust(place: Path, root: Path, config: UserConfig, codex_home: Path) -> str | None:
    """Why a project's folder is not trusted; the first that the configuration names decides."""
    for candidate in (place, root, _main_repository(root)):
        trusted = None if candidate is None else config.trust.get(str(candidate))
        if trusted is not None:
            break
    if trusted:
        return None
    return (
        f'the project {root} is not trusted: if you trust it, write trust_level = "trusted" below '
        f'[projects."{root}"] in {codex_home / "config.toml"}'
    )


def _rests_on(place: Path, root: Path, config: UserConfig, codex_home: Path) -> tuple[str, ...]:
    """What the trust in a project's folder rests on, whose writer could bestow it.

    That is the configuration; of a worktree also the repository naming it; and where the configuration names a project
    by way of links, those.
    """
    named = next((str(path) for path in (place, root) if str(path) in config.trust), None)
    main = _main_repository(root) if named is None else None
    written = config.written.get(named or str(main))
    return (
        str(codex_home / "config.toml"),
        *(() if main is None else (str(main / ".git" / "worktrees"),)),
        *(() if written is None else links_on_the_way(written)),
    )


def _main_repository(root: Path) -> Path | None:
    """The main repository's root, if ``root`` is one of its worktrees (gitrepository-layout(5), ``worktrees/``).

    Any folder can hold a file ``.git`` that names a repository. So the repository must name it, too.
    """
    try:
        word, _, target = (root / ".git").read_text(encoding="utf-8").strip().partition(" ")
        administrative = Path(os.path.realpath(root / target))
        back = (administrative / "gitdir").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    is_worktree = administrative.parent.name == "worktrees" and administrative.parent.parent.name == ".git"
    if word != "gitdir:" or not is_worktree or os.path.realpath(back) != os.path.realpath(root / ".git"):
        return None
    return administrative.parent.parent.parent


def _user_config(codex_home: Path, seen: Seen) -> UserConfig:
    path = codex_home / "config.toml"
    text = _optional_text(path, seen)
    return UserConfig() if text is None else parse_user_config(str(path), text)


def _optional_text(path: Path, seen: Seen) -> str | None:
    """The text of a file that need not be there; a link is followed, for people keep such files elsewhere."""
    if not os.path.lexists(path):
        seen[str(path)] = None
        return None
    return read_text(path, links=True, seen=seen)


def _rules_names(folder: int | None) -> list[str]:
    if folder is None:
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _is_rules_name(entry.name) and entry.is_file(follow_symlinks=False)]
    if len(names) > MAX_FILES:
        raise OSError(errno.EFBIG, f"more than {MAX_FILES} files")
    return sorted(names, key=os.fsencode)


def _is_rules_name(name: str) -> bool:
    stem, _, extension = name.rpartition(".")
    return extension == "rules" and stem != ""


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one == other or one.samefile(other)
    except OSError:
        return False


def _account_home() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError as exc:
        raise UsageError("there is no home directory to look for .codex in; set HOME or CODEX_HOME") from exc
