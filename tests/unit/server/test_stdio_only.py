"""Only the parts of the SDK that stdio needs are imported, by an exact list."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

from codex_shell_tool_mcp.server import excluded, no_telemetry, stdio_only
from support import sources

LOAD = """
import json, sys
from codex_shell_tool_mcp.server import stdio_only
installed = stdio_only.install()
import asyncio
from codex_shell_tool_mcp.server import app, transport
from codex_shell_tool_mcp.escalation import server
print(json.dumps({
    "installed": installed,
    "real": [name for name, module in sys.modules.items() if not stdio_only.is_stand_in(module)],
    "stand_ins": [name for name, module in sys.modules.items() if stdio_only.is_stand_in(module)],
}))
"""

WHOLE = """
import json, sys
import mcp.server, mcp.server.stdio
print(json.dumps(list(sys.modules)))
"""


def run(code: str, *, full: bool = False) -> str:
    environment = sources.environment(**{stdio_only.FULL_SDK_VARIABLE: "1" if full else ""})
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    return ran.stdout


@cache
def loaded(*, full: bool) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(run(LOAD, full=full))
    return found


@cache
def whole_sdk() -> frozenset[str]:
    return frozenset(json.loads(run(WHOLE)))


def roots(names: list[str], wanted: tuple[str, ...]) -> list[str]:
    return [name for name in names if stdio_only.is_below(name, wanted)]


def test_none_of_the_excluded_modules_is_loaded() -> None:
    found = loaded(full=False)
    assert found["installed"]
    assert roots(found["real"], excluded.EXCLUDED_MODULES) == []


def test_nothing_but_the_listed_is_a_stand_in() -> None:
    found = loaded(full=False)["stand_ins"]
    assert found
    assert roots(found, excluded.PLACEHOLDERS) == found


@pytest.mark.parametrize("name", excluded.PLACEHOLDERS)
def test_each_placeholder_is_needed(name: str) -> None:
    """Something the server runs imports it: without its line the real one would be loaded, or the import fail."""
    assert roots(loaded(full=False)["stand_ins"], (name,))


@pytest.mark.parametrize("name", excluded.EXCLUDED_MODULES)
def test_each_excluded_module_is_really_dragged_in(name: str) -> None:
    assert roots(list(whole_sdk()), (name,)), f"{name} is no longer imported by the SDK: drop its line"


def test_the_server_loads_without_the_finder() -> None:
    found = loaded(full=True)
    assert not found["installed"]
    assert found["stand_ins"] == []
    assert roots(found["real"], ("starlette",))


def test_a_stand_in_says_what_it_is() -> None:
    code = """
from codex_shell_tool_mcp.server import stdio_only
stdio_only.install()
import starlette.applications
try:
    starlette.applications.Starlette(debug=True)
except stdio_only.NotIncludedError as error:
    print(error)
try:
    import _hashlib
except ModuleNotFoundError as error:
    print(error.name)
import hashlib
assert hashlib.sha256(b"").hexdigest().startswith("e3b0c442")
"""
    told, absent = run(code).splitlines()
    assert told == (
        "starlette.applications.Starlette is not part of this program, which serves MCP on stdio only; "
        "CODEX_SHELL_TOOL_MCP_FULL_SDK=1 includes it"
    )
    assert absent == "_hashlib"


def test_it_does_nothing_once_the_sdk_is_loaded() -> None:
    before = list(sys.meta_path)
    assert "mcp" in sys.modules or __import__("mcp")
    assert not stdio_only.install()
    assert sys.meta_path == before


def test_it_is_installed_once() -> None:
    code = """
import sys
from codex_shell_tool_mcp.server import stdio_only
assert stdio_only.install() and stdio_only.install()
print(sum(isinstance(finder, stdio_only.StdioOnlyFinder) for finder in sys.meta_path))
"""
    assert run(code) == "1\n"


def test_a_missing_sdk_is_still_missing() -> None:
    code = """
import sys
from codex_shell_tool_mcp.server import stdio_only
stdio_only.install()
sys.path[:] = [entry for entry in sys.path if "site-packages" not in entry]
try:
    import mcp.server
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert run(code) == "mcp\n"


def test_models_are_deferred_only_while_asked() -> None:
    code = """
from codex_shell_tool_mcp.server import stdio_only
from pydantic import BaseModel, TypeAdapter
with stdio_only.deferred_models():
    class Late(BaseModel):
        x: int
    late = TypeAdapter(list[int])
class Early(BaseModel):
    x: int
assert not Late.__pydantic_complete__ and Early.__pydantic_complete__
assert not late.pydantic_complete and TypeAdapter(list[int]).pydantic_complete
assert Late(x="3").x == 3 and late.validate_python(["4"]) == [4]
assert TypeAdapter(Early).validate_python({"x": 1}).x == 1
print("done")
"""
    assert run(code) == "done\n"


def test_the_telemetry_that_is_not() -> None:
    tracer = no_telemetry.get_tracer("x")
    with tracer.start_as_current_span("name", kind=no_telemetry.SpanKind.CLIENT) as span:
        span.set_attribute("a", 1)
        span.set_attributes({})
        span.set_status(no_telemetry.StatusCode.ERROR, "text")
        span.record_exception(ValueError())
    carrier: dict[str, object] = {}
    no_telemetry.inject(carrier)
    assert carrier == {}
    no_telemetry.extract({"traceparent": "x"})
    assert isinstance(no_telemetry.get_current_span(), no_telemetry.Span)
