"""What a client may ask for: the sandbox policy and state of ``codex/sandbox-state/update``, checked. Pure.

The outer object is in camelCase, the policy inside in snake_case with a kebab-case ``type``; unknown fields are ignored
everywhere, unknown types refused. Names of both generations of clients are read.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import SandboxError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SLASH_TMP = Path("/tmp")  # noqa: S108 - the policy language's own name for it

NETWORK_DISABLED = b"CODEX_SANDBOX_NETWORK_DISABLED"
"""Set to ``1`` where the policy withholds the network, whether or not a sandbox enforces that."""


class SandboxStateError(UsageError):
    """The state a client sent is not what the specification asks for; the text names the field."""


@dataclass(frozen=True, kw_only=True)
class RestrictedReads:
    """Reading is limited to these places (and to what every program needs, if so asked)."""

    include_platform_defaults: bool = True
    readable_roots: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DangerFullAccess:
    """No confinement."""


@dataclass(frozen=True, kw_only=True)
class ExternalSandbox:
    """Somebody else confines this server already; ``network`` only says whether that one lets it through."""

    network: bool = False


@dataclass(frozen=True, kw_only=True)
class ReadOnly:
    """Writes nowhere. ``reads`` is ``None`` where everything may be read."""

    reads: RestrictedReads | None = None
    network: bool = False


@dataclass(frozen=True, kw_only=True)
class WorkspaceWrite:
    """Writes below the working directory, the roots given and the temporary directories."""

    writable_roots: tuple[Path, ...] = ()
    reads: RestrictedReads | None = None
    network: bool = False
    exclude_tmpdir_env_var: bool = False
    exclude_slash_tmp: bool = False


SandboxPolicy = DangerFullAccess | ExternalSandbox | ReadOnly | WorkspaceWrite

POLICY_WORDS: dict[type[SandboxPolicy], str] = {
    DangerFullAccess: "danger-full-access",
    ExternalSandbox: "external-sandbox",
    ReadOnly: "read-only",
    WorkspaceWrite: "workspace-write",
}
"""The ``type`` of each policy on the wire."""

DEFAULT_POLICIES: dict[str, SandboxPolicy] = {
    "read-only": ReadOnly(),
    "workspace-write": WorkspaceWrite(),
    "danger-full-access": DangerFullAccess(),
}
"""What ``--sandbox`` offers for clients that never send a state."""


@dataclass(frozen=True, kw_only=True)
class SandboxState:
    """What holds for the calls that follow.

    Attributes:
        policy: The policy.
        cwd: The policy's anchor, absolute; need not be where the script runs.
        bubblewrap: Which of the two Linux mechanisms the client prefers, ``None`` if it did not say. Advice: what is
            enforced is the same.
    """

    policy: SandboxPolicy
    cwd: Path
    bubblewrap: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Restrictions:
    """What must be enforced.

    Attributes:
        write_everywhere: Whether no write is held back; ``writable`` then is empty.
        writable: Absolute paths; files below them may be written. May name things that do not exist.
        network: Whether the network may be used.
    """

    write_everywhere: bool
    writable: tuple[Path, ...]
    network: bool

    @property
    def none(self) -> bool:
        """Whether there is nothing to enforce."""
        return self.write_everywhere and self.network


def parse_state(raw: Mapping[str, object], process_cwd: Path) -> SandboxState:
    """Check the parameters of an update.

    Args:
        raw: The JSON object.
        process_cwd: What a relative ``sandboxCwd`` starts from.

    Raises:
        SandboxStateError: A field is missing, has another type, or names an unknown policy.
    """
    policy = raw.get("sandboxPolicy")
    if not isinstance(policy, dict):
        raise SandboxStateError("sandboxPolicy: missing" if policy is None else "sandboxPolicy: expected an object")
    cwd = raw.get("sandboxCwd")
    if cwd is None:
        raise SandboxStateError("sandboxCwd: missing")
    executable = raw.get("codexLinuxSandboxExe")
    if executable is not None:
        _path(executable, "codexLinuxSandboxExe")  # checked and not needed: this server brings its own
    anchor = _path(cwd, "sandboxCwd")
    return SandboxState(
        policy=parse_policy(policy), cwd=_lexical(posixpath.join(process_cwd, anchor)), bubblewrap=_preference(raw)
    )


def _preference(raw: Mapping[str, object]) -> bool | None:
    """The newer name says the opposite of the older and wins if both are there."""
    legacy = _optional_flag(raw, "useLegacyLandlock", "")
    bubblewrap = _optional_flag(raw, "useLinuxSandboxBwrap", "")
    return bubblewrap if legacy is None else not legacy


def parse_policy(raw: Mapping[str, object]) -> SandboxPolicy:
    """Check a policy.

    Raises:
        SandboxStateError: See :func:`parse_state`.
    """
    kind = raw.get("type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        known = ", ".join(POLICY_WORDS.values())
        raise SandboxStateError(f"sandboxPolicy.type: expected one of {known}, got {kind!r}")
    return reader(raw)


def _danger_full_access(_: Mapping[str, object]) -> SandboxPolicy:
    return DangerFullAccess()


def _external(raw: Mapping[str, object]) -> SandboxPolicy:
    word = raw.get("network_access", "restricted")
    if word not in ("restricted", "enabled"):
        raise SandboxStateError(f'sandboxPolicy.network_access: expected "restricted" or "enabled", got {word!r}')
    return ExternalSandbox(network=word == "enabled")


def _read_only(raw: Mapping[str, object]) -> SandboxPolicy:
    return ReadOnly(reads=_reads(raw, "access"), network=_flag(raw, "network_access"))


def _workspace_write(raw: Mapping[str, object]) -> SandboxPolicy:
    return WorkspaceWrite(
        writable_roots=_roots(raw, "writable_roots", "sandboxPolicy."),
        reads=_reads(raw, "read_only_access"),
        network=_flag(raw, "network_access"),
        exclude_tmpdir_env_var=_flag(raw, "exclude_tmpdir_env_var"),
        exclude_slash_tmp=_flag(raw, "exclude_slash_tmp"),
    )


_READERS: dict[str, Callable[[Mapping[str, object]], SandboxPolicy]] = {
    "danger-full-access": _danger_full_access,
    "external-sandbox": _external,
    "read-only": _read_only,
    "workspace-write": _workspace_write,
}


def _reads(policy: Mapping[str, object], name: str) -> RestrictedReads | None:
    raw = policy.get(name, {"type": "full-access"})
    where = f"sandboxPolicy.{name}"
    if not isinstance(raw, dict) or raw.get("type") not in ("full-access", "restricted"):
        raise SandboxStateError(f'{where}: expected an object of type "full-access" or "restricted"')
    if raw["type"] == "full-access":
        return None
    defaults = _optional_flag(raw, "include_platform_defaults", f"{where}.")
    return RestrictedReads(
        include_platform_defaults=defaults is not False, readable_roots=_roots(raw, "readable_roots", f"{where}.")
    )


def _flag(policy: Mapping[str, object], name: str) -> bool:
    return bool(_optional_flag(policy, name, "sandboxPolicy."))


def _optional_flag(raw: Mapping[str, object], name: str, where: str) -> bool | None:
    if name not in raw:
        return None
    value = raw[name]
    if not isinstance(value, bool):
        raise SandboxStateError(f"{where}{name}: expected true or false, got {value!r}")
    return value


def _roots(raw: Mapping[str, object], name: str, where: str) -> tuple[Path, ...]:
    values = raw.get(name, [])
    if not isinstance(values, list):
        raise SandboxStateError(f"{where}{name}: expected a list of absolute paths")
    return tuple(_absolute(value, f"{where}{name}") for value in values)


def _absolute(value: object, where: str) -> Path:
    path = _path(value, where)
    if not path.startswith("/"):
        raise SandboxStateError(f"{where}: expected absolute paths, got {path!r}")
    return _lexical(path)


def _path(value: object, where: str) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise SandboxStateError(f"{where}: expected a path, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SandboxStateError(f"{where}: holds half of a surrogate pair, which is no path") from None
    return value


def _lexical(path: str) -> Path:
    """Without ``.``, ``..`` and repeated slashes; links are not followed."""
    return Path("/" + posixpath.normpath(path).lstrip("/"))


def default_state(policy: SandboxPolicy, workdir: Path) -> SandboxState:
    """What holds while no client has sent a state: the option's policy, anchored where the script runs."""
    return SandboxState(policy=policy, cwd=workdir)


def has_network(policy: SandboxPolicy) -> bool:
    """Whether the policy grants the whole network."""
    return isinstance(policy, DangerFullAccess) or policy.network


def writable_roots(policy: WorkspaceWrite, cwd: Path, environ: Mapping[bytes, bytes]) -> tuple[Path, ...]:
    """Where a workspace policy lets scripts write, in order: the roots given, the anchor, ``/tmp``, ``$TMPDIR``.

    Args:
        policy: The policy.
        cwd: Its anchor, absolute.
        environ: Where ``TMPDIR`` is looked up.
    """
    roots = [*policy.writable_roots, cwd]
    if not policy.exclude_slash_tmp and _SLASH_TMP.is_dir():
        roots.append(_SLASH_TMP)
    temporary = environ.get(b"TMPDIR", b"")
    if temporary and not policy.exclude_tmpdir_env_var:
        roots.append(_lexical(posixpath.join(Path.cwd(), temporary.decode("utf-8", "surrogateescape"))))
    return tuple(dict.fromkeys(roots))


def restrictions(state: SandboxState, environ: Mapping[bytes, bytes]) -> Restrictions:
    """What a state comes to.

    Raises:
        SandboxError: It asks for something that cannot be enforced; running without would be running open.
    """
    policy = state.policy
    if isinstance(policy, DangerFullAccess | ExternalSandbox):
        return Restrictions(write_everywhere=True, writable=(), network=True)
    if policy.reads is not None:
        raise SandboxError(
            f"the sandbox policy ({POLICY_WORDS[type(policy)]}) limits what may be read, which this server cannot "
            "enforce yet; send a policy with full-access reads"
        )
    roots = writable_roots(policy, state.cwd, environ) if isinstance(policy, WorkspaceWrite) else ()
    return Restrictions(write_everywhere=False, writable=roots, network=policy.network)


def markers(policy: SandboxPolicy) -> dict[bytes, bytes]:
    """What is added to the script's environment to tell it about the policy."""
    return {} if has_network(policy) else {NETWORK_DISABLED: b"1"}
