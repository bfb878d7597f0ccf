"""The backend ``demo:``, a small stand-in for an inference server inside the daemon.

It lets the gateway be tried, and its whole path be tested, without a model. It answers
deterministically, says plainly that it is no real model, and knows nothing of the gateway in front
of it: it is reached over its own loopback socket, as any other backend.
"""
