"""How each shell is built: one module a shell, and what they share."""
