"""The arithmetic of tries and waits."""

from llmproxy.wire.backoff import Backoff


def test_allows_so_many_further_tries() -> None:
    """``max_retries`` counts the tries after the first."""
    assert [Backoff(max_retries=2).allows(attempts) for attempts in (1, 2, 3)] == [
        True,
        True,
        False,
    ]
    assert not Backoff(max_retries=0).allows(1)


def test_waits_grow_up_to_a_limit() -> None:
    """Each wait is longer than the last by the multiplier, never over the limit."""
    backoff = Backoff(initial_wait_s=0.1, max_wait_s=0.5, multiplier=2)
    assert [backoff.wait_s(waits) for waits in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
