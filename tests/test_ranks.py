"""Ranks: what one of them leaves behind when it is done."""

import socket
import time
from typing import Any

import pytest

from normscope.ranks import Ranks


class SlowStore:
    """A store whose answers take a while."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.begun = 0

    def set(self, key: str, value: str) -> None:
        self.begun += 1
        time.sleep(0.3)
        self._store.set(key, value)


def test_no_thread_is_left_in_the_stores_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the interpreter's end it would abort the process: "terminate called without an active exception"."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setattr("normscope.ranks.PULSE", 0.01)
    with Ranks(0, 1) as ranks:
        slow: Any = SlowStore(ranks._store)
        ranks._store = slow
        deadline = time.monotonic() + 10
        while not slow.begun and time.monotonic() < deadline:
            time.sleep(0.005)
        monkeypatch.setattr("normscope.ranks.PULSE", 5.0)
    assert slow.begun
    assert not ranks._pulse.is_alive()
