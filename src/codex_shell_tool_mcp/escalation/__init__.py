"""Escalation: the wire format, the server that answers it, and what it hands over."""
