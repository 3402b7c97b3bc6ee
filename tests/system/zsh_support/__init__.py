"""zsh's own test suite, run in several ways."""
