"""The Resource tree: what is served under which path."""
