"""Formats on the wire, as pure functions and scanners: no Twisted, no I/O, no clock."""
