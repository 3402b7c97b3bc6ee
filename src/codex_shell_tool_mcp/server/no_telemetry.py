"""The few names of OpenTelemetry's API that the MCP SDK calls for each request, doing nothing.

Without an exporter the real ones do nothing either; importing them costs 40 ms. ``stdio_only`` serves these names
under the modules of :data:`NAMES`.
"""

from __future__ import annotations

import enum
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class SpanKind(enum.Enum):
    """Kinds the SDK names."""

    SERVER = 1
    CLIENT = 2


class StatusCode(enum.Enum):
    """Outcomes the SDK names."""

    UNSET = 0
    OK = 1
    ERROR = 2


class Span:
    """Takes everything, keeps nothing."""

    def set_attribute(self, key: str, value: object) -> None:
        """Ignored."""

    def set_attributes(self, attributes: object) -> None:
        """Ignored."""

    def set_status(self, status: object, description: str | None = None) -> None:
        """Ignored."""

    def record_exception(self, exception: BaseException) -> None:
        """Ignored."""


class Context(dict[str, object]):
    """Never made; the SDK names it in annotations."""


class _Tracer:
    @contextmanager
    def start_as_current_span(self, name: str, **options: object) -> Iterator[Span]:  # noqa: ARG002 - the API's names
        yield Span()


def get_tracer(name: str) -> _Tracer:  # noqa: ARG001 - the API's names
    """One tracer for all."""
    return _Tracer()


def get_current_span(context: object = None) -> Span:  # noqa: ARG001 - the API's names
    """A span that keeps nothing."""
    return Span()


def inject(carrier: object) -> None:
    """Adds no trace to an outgoing message."""


def extract(carrier: object) -> None:
    """Reads no trace from an incoming message."""


NAMES: dict[str, dict[str, object]] = {
    "opentelemetry.context": {"Context": Context},
    "opentelemetry.propagate": {"extract": extract, "inject": inject},
    "opentelemetry.trace": {
        "SpanKind": SpanKind,
        "StatusCode": StatusCode,
        "get_current_span": get_current_span,
        "get_tracer": get_tracer,
    },
    "opentelemetry.trace.span": {"Span": Span},
}
"""What each module holds."""
