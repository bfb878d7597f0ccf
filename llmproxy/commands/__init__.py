"""The operator's commands that talk to a running daemon, through its admin API and nothing else.

They know no store, no file of the daemon but its configuration, and no Twisted: what they can do,
any other client of the API can do, and they work from another host as well.
"""
