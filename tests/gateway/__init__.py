"""The whole daemon between scripted backends and raw clients, over real loopback sockets."""
