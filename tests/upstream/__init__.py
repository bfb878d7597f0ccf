"""Tests of the way to one backend, over memory and over real loopback sockets."""
