"""The blocks of one archive among several processes: each computes those that it claims."""

import threading
import time
from collections.abc import Iterator

from gp_response.claims import LEASE, Claim, Claims
from gp_response.response.store import BlockStore

PAUSE = 0.2  # seconds between looks for blocks that others hold


def shared(store: BlockStore, *, lease: float = LEASE) -> Iterator[int]:
    """Blocks to compute here, each claimed; one must be written before the next is asked for. Ends when none is pending anywhere.

    Where a claim is lost (this process slept through its lease) a block is computed twice, and written twice with the same numbers.
    """
    claims = Claims(store.path.with_name(f".{store.path.name}.claims"), lease=lease)
    while left := store.pending():
        found = _first(claims, left)
        if found is None:
            time.sleep(PAUSE)
            continue
        block, claim = found
        with _Beating(claim, lease):
            if block in store.pending():  # else another wrote it between the look and the claim
                yield block
        claim.release()


def _first(claims: Claims, left: list[int]) -> tuple[int, Claim] | None:
    for block in left:
        if claim := claims.take(str(block)):
            return block, claim
    return None


class _Beating:
    """A claim's heartbeat while a `with` lasts, from a thread, for the block itself computes without a pause."""

    def __init__(self, claim: Claim, lease: float):
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(claim, lease / 6), daemon=True)

    def _run(self, claim: Claim, pause: float) -> None:
        while not self._end.wait(pause):
            claim.beat()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


__all__ = ["shared"]
