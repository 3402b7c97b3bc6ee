"""Import only what a server on stdio runs of the MCP SDK.

:func:`install` puts a finder in front of the others. It gives

* the packages ``mcp`` and ``mcp.server`` without running their own code (they import the client and HTTP framework),
* a stand-in for each name in :data:`excluded.PLACEHOLDERS`: importing it works, using what it holds raises
  :class:`NotIncludedError`,
* ``ModuleNotFoundError`` for those in :data:`excluded.ABSENT`.

The SDK's own modules run unchanged, and the server works the same without the finder (environment variable
``CODEX_SHELL_TOOL_MCP_FULL_SDK``); the tests run both, so that a new SDK that needs more is noticed.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.server import no_telemetry
from codex_shell_tool_mcp.server.excluded import ABSENT, PLACEHOLDERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FULL_SDK_VARIABLE = "CODEX_SHELL_TOOL_MCP_FULL_SDK"
"""Set to anything but the empty string: the SDK is imported whole."""

_BARE_PACKAGES = ("mcp", "mcp.server")


class NotIncludedError(RuntimeError):
    """Something was used that is not part of a server on stdio: a bug of ours, or a change in the SDK."""


class _Unusable(type):
    """Type of the stand-ins: they can be named, compared and be defaults, nothing more."""

    def __call__(cls, *_args: object, **_kwargs: object) -> object:
        raise NotIncludedError(_text(f"{cls.__module__}.{cls.__name__}"))


def _text(name: str) -> str:
    return f"{name} is not part of this program, which serves MCP on stdio only; {FULL_SDK_VARIABLE}=1 includes it"


class _StandIn(ModuleType):
    """A module whose every public name is an unusable class."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _Unusable(name, (), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class _EmptyPackage(Loader):
    """Makes a package that can be searched and holds nothing."""

    def create_module(self, spec: ModuleSpec) -> None:
        """The usual module object."""

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run."""


class _StandInLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(no_telemetry.NAMES.get(module.__name__, {}))


class StdioOnlyFinder(MetaPathFinder):
    """Answers for the bare packages, the stand-ins and what is absent; everything else is left to the others."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002 - the protocol's name
    ) -> ModuleSpec | None:
        """See :class:`importlib.abc.MetaPathFinder`."""
        if fullname in _BARE_PACKAGES:
            return _bare(fullname, path)
        if is_below(fullname, ABSENT):
            raise ModuleNotFoundError(_text(fullname), name=fullname)
        if is_below(fullname, PLACEHOLDERS):
            return ModuleSpec(fullname, _StandInLoader(), is_package=True)
        return None


def is_below(name: str, roots: Sequence[str]) -> bool:
    """Whether a module is one of ``roots`` or lies below one."""
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def _bare(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    found = PathFinder.find_spec(name, path)
    if found is not None:
        found.loader = _EmptyPackage()
    return found


def is_stand_in(module: ModuleType) -> bool:
    """Whether a loaded module is one of ours."""
    return isinstance(module, _StandIn)


def install() -> bool:
    """Put the finder in place, unless the environment says no or the SDK is already loaded; tell whether it is.

    pydantic's plugins, found by reading the metadata of every installed distribution, are switched off along with it.
    """
    if os.environ.get(FULL_SDK_VARIABLE) or "mcp" in sys.modules:
        return False
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    if not any(isinstance(finder, StdioOnlyFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, StdioOnlyFinder())
    return True


@contextmanager
def deferred_models() -> Iterator[None]:
    """Within it, pydantic models are declared and only built when first used (``ConfigDict.defer_build``).

    The SDK declares some 400, of which a session uses about 20: 140 ms of start-up.
    """
    from pydantic import BaseModel, ConfigDict, TypeAdapter  # noqa: PLC0415 - costs 100 ms, wanted here and not before

    before = BaseModel.model_config
    defaults = TypeAdapter.__init__.__kwdefaults__ or {}
    deferred = ConfigDict(defer_build=True)
    BaseModel.model_config = deferred
    defaults["config"] = deferred
    try:
        yield
    finally:
        BaseModel.model_config = before
        defaults["config"] = None
