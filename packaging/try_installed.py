"""What cibuildwheel runs after it has installed the wheel: the release's own trial, by what is installed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from shell_tool_release import errors, wheel_trial

sys.exit(errors.run_main(lambda: wheel_trial.main(["--installed"])))
