"""The command: ``python -m tests.fuzz --minutes 10 [--seed N] [--target NAME]``.

Prints how it goes, and each new kind of fault with an input that shows it; ends with 1 if there was
one. Without ``--keep-going`` it ends at the first.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence

from twisted.logger import globalLogBeginner

from tests.fuzz.run import Found, Run

TARGETS_OF = {
    "edge": ("edge",),
    "backend": ("backend",),
    "both": ("edge", "backend"),
    "stream": ("stream",),
    "all": ("edge", "backend", "stream"),
}
REPORT_EVERY_S = 30.0


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def told(found: Found, seed: int) -> str:
    """Tell of a fault, so that it can become a test."""
    lines = [
        f"FAULT in {found.target}: {found.kind}",
        f"  seed {seed}, input {found.number}; again: python -m tests.fuzz --target {found.target}"
        f" --seed {seed} --first {found.number} --inputs 1",
        f"  word={found.case.word!r} seed={found.case.seed}",
    ]
    for part in found.case.parts:
        lines += [f"  octets={part.octets!r}", f"  cuts={part.cuts!r} word={part.word!r}"]
    return "\n".join((*lines, found.text))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to run")
    parser.add_argument("--inputs", type=int, default=0, help="how many at most; 0: no bound")
    parser.add_argument("--seed", type=int, default=None, help="random if not given, and printed")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--target", choices=TARGETS_OF, default="all")
    parser.add_argument("--keep-going", action="store_true", help="go on after a fault")
    chosen = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 32) if chosen.seed is None else chosen.seed
    # Else the log's beginning would be kept in memory for an observer that never comes.
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    run = Run(seed, TARGETS_OF[chosen.target], first=chosen.first)
    began_s = reported_s = time.monotonic()
    until_s = began_s + 60 * chosen.minutes

    def done() -> bool:
        return time.monotonic() >= until_s or bool(chosen.inputs and run.inputs >= chosen.inputs)

    say(f"seed {seed}, target {chosen.target}")
    for found in run.inputs_until(done):
        if found is not None:
            say(told(found, seed))
            if not chosen.keep_going:
                break
        elif time.monotonic() - reported_s >= REPORT_EVERY_S:
            reported_s = time.monotonic()
            say(summary(run, reported_s - began_s))
    say(summary(run, time.monotonic() - began_s))
    for kind, count in sorted(run.seen_again.items()):
        say(f"  {count} times {kind}")
    return 1 if run.found else 0


def summary(run: Run, took_s: float) -> str:
    """Tell how it stands."""
    return (
        f"{run.inputs} inputs in {took_s:.0f} s ({run.inputs / max(took_s, 0.001):.0f}/s), "
        f"{len(run.found)} kinds of faults, memory {run.memory.growth_bytes / 1024:+.0f} KiB "
        "since it was warm"
    )


if __name__ == "__main__":
    sys.exit(main())
