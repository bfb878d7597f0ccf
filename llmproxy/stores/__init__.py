"""Databases and caches: connections, and what is kept in them."""
