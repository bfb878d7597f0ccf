"""Strategies that choose among backends, one file each, without Twisted in them."""
