"""The soak: a hundred thousand execs through one server, of which nothing may be left. ``nox -s soak`` runs it."""
