"""How hypothesis searches in the tests: the same examples in every run, however slow the machine is.

Who looks for new ones says so: ``pytest --hypothesis-profile random``, or the nox session ``fuzz``.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("tests", settings.get_profile("random"), derandomize=True, database=None)
settings.load_profile("tests")
