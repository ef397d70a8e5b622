"""Each process of a run holds a connection to rank 0. The kernel closes it when the process ends, however it ends: the others know
at once, also while they wait inside a collective, and no heartbeat has to be missed first.

::

    rank 0    accepts ── a connection ends unannounced ── reports it on all others
    others    connect ── receive it, or their own connection ends: rank 0 has ended

Where a machine loses power or its network, nothing closes a connection, and a time-out says nothing about the process: the
heartbeats in the store decide. So they do where connections are not possible (a firewall).
"""

from __future__ import annotations

import logging
import os
import secrets
import selectors
import socket
import threading
import time
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)

_CONNECT_S = 5.0
_LOOK_S = 0.2
_BYE = b"bye."
_WORD = 4
"""Bytes of a message: :data:`_BYE`, or the number of the rank that has ended."""


class Lifeline(threading.Thread):
    """The connections of this process.

    Attributes:
        ended: the rank whose connection was the first to end unannounced.
    """

    def __init__(self, rank: int, world: int, store: Any) -> None:
        super().__init__(name="qlora-fast-lifeline", daemon=True)
        self.ended: int | None = None
        self._rank, self._world = rank, world
        self._ending = threading.Event()
        self._peers: dict[socket.socket, int] = {}
        self._listening: socket.socket | None = None
        self._token = ""
        try:
            if rank == 0:
                self._listen(store)
            else:
                self._connect(store)
        except OSError as error:
            log.debug("no connections between the processes (%s): only their heartbeats are watched", error)
            if rank == 0:
                store.set("lifeline", "- 0 -")  # an address that cannot be reached

    def end(self) -> None:
        """Announce that this process ends."""
        self._ending.set()
        if self.is_alive():
            self.join(2 * _CONNECT_S)
        for peer in [*self._peers, *([self._listening] if self._listening else [])]:
            with suppress(OSError):
                if peer is not self._listening:
                    peer.sendall(_BYE)
                peer.close()

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for known in [*self._peers, *([self._listening] if self._listening else [])]:
                selector.register(known, selectors.EVENT_READ)
            while not self._ending.is_set() and selector.get_map():
                for key, _ in selector.select(_LOOK_S):
                    found: Any = key.fileobj
                    if found is self._listening:
                        if (peer := self._accept()) is not None:
                            selector.register(peer, selectors.EVENT_READ)
                    elif not self._hear(found):
                        selector.unregister(found)

    def _listen(self, store: Any) -> None:
        self._token = secrets.token_hex(16)
        self._listening = socket.create_server(("", 0), backlog=self._world)
        self._listening.settimeout(_CONNECT_S)
        store.set("lifeline", f"{_own_address()} {self._listening.getsockname()[1]} {self._token}")

    def _connect(self, store: Any) -> None:
        host, port, token = store.get("lifeline").decode().split()
        peer = socket.create_connection((host, int(port)), timeout=_CONNECT_S)
        peer.sendall(token.encode() + self._rank.to_bytes(_WORD, "big"))
        self._peers[peer] = 0

    def _accept(self) -> socket.socket | None:
        if self._listening is None:
            return None
        with suppress(OSError):
            peer, _ = self._listening.accept()
            peer.settimeout(_CONNECT_S)
            said = _receive(peer, len(self._token) + _WORD)
            rank = int.from_bytes(said[len(self._token) :], "big")
            if secrets.compare_digest(said[: len(self._token)], self._token.encode()) and 0 < rank < self._world:
                self._peers[peer] = rank
                return peer
            peer.close()
        return None

    def _hear(self, peer: socket.socket) -> bool:
        """Take a message; whether more may follow."""
        rank = self._peers[peer]
        try:
            word = _receive(peer, _WORD)
        except ConnectionError:  # the process ended with something unread
            word = b""
        except OSError:
            return False
        if word == _BYE:
            return False
        if self._rank != 0 and len(word) == _WORD:
            self._note(int.from_bytes(word, "big"))
            return True
        self._note(rank)
        if self._rank == 0:
            for other in self._peers:
                with suppress(OSError):
                    other.sendall(rank.to_bytes(_WORD, "big"))
        return False

    def _note(self, rank: int) -> None:
        if self.ended is None:
            self.ended = rank


def _receive(peer: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer where the connection ends."""
    said, until = b"", time.monotonic() + _CONNECT_S
    while len(said) < size and time.monotonic() < until:
        part = peer.recv(size - len(said))
        if not part:
            break
        said += part
    return said


def _own_address() -> str:
    """The address at which the other processes reach this one: the one that leads to the place where all meet."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((os.environ.get("MASTER_ADDR", "127.0.0.1"), 9))  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()
