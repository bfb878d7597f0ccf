"""What other processes do with a file while a test has it open; run by ``python -c``."""

DISABLE_KEY = """
import os, sys, time
from llmproxy.key_records import KeyDraft, KeyRecord
from llmproxy.stores.key_store import SqliteKeyStore
from llmproxy.stores.sqlite import SqliteFile
from twisted.internet import reactor

async def run():
    file = SqliteFile(sys.argv[1], reactor=reactor)
    store = SqliteKeyStore(file, secret=sys.argv[2].encode(), now=time.time,
        random_bytes=os.urandom, clock=reactor, on_change=print)
    try:
        await store.update(sys.argv[3], disable)
    finally:
        await file.stopService()

def disable(record):
    import attrs
    return attrs.evolve(record, status="disabled")

from twisted.internet.defer import Deferred
def begin():
    done = Deferred.fromCoroutine(run())
    done.addErrback(lambda failure: failure.printTraceback())
    done.addBoth(lambda _: reactor.stop())

reactor.callWhenRunning(begin)
reactor.run()
"""
"""Disables a key: its arguments are the file, the secret and the id."""

CRASH_IN_SYNC = """
import os, signal, sys
from hashlib import sha256
from llmproxy.key_records import KeyRecord, StoredKey
from llmproxy.stores import key_table
from llmproxy.stores.sqlite import SqliteFile
from twisted.internet import reactor

def work(connection):
    keys = [(StoredKey(record=KeyRecord(id=f"new{n}", name="x" * 5000), prefix="",
        digest=sha256(b"%d" % n).digest(), created_at_s=0, updated_at_s=0), True)
        for n in range(2000)]
    key_table.sync(connection, keys, full=True)
    if sys.argv[2] == "before":
        os.kill(os.getpid(), signal.SIGKILL)

SqliteFile(sys.argv[1], reactor=reactor).at_once(work)
os.kill(os.getpid(), signal.SIGKILL)
"""
"""Is killed ``before`` or after the end of a transaction: the file, and which of the two."""
