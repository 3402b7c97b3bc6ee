"""The profile with which the nox session ``fuzz`` runs hypothesis."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile(
    "fuzz", settings.get_profile("random"), max_examples=int(os.environ.get("CODEX_FUZZ_EXAMPLES", "1000"))
)
