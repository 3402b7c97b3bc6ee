"""Fuzzing: both codecs, and a whole server spoken to by a hostile script. ``nox -s fuzz`` runs it; see ``run.py``."""
