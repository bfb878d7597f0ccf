"""Logs: the daemon's own, and one line per request."""
