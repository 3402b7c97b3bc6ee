"""The native programs, driven by hand-made frames."""
