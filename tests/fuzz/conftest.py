"""The profile with which the nox session ``fuzz`` runs hypothesis."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("fuzz", max_examples=int(os.environ.get("CODEX_FUZZ_EXAMPLES", "1000")), deadline=None)
