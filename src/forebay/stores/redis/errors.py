"""The error replies of servers in one table: their meaning, and the remedy."""

from __future__ import annotations

import re
from enum import Enum

import hiredis

from forebay.errors import NotFound, StoreDamaged, StoreDenied, StoreError, StoreFull, StoreUnavailable

Meaning = type[StoreError] | type[NotFound]

_CHECK_ACL = "check the user and password in the URL, and the user's rights (ACL)"
_RIGHT = "give the user the right to this command, and to these keys"
_WAIT = "try again"
_LAST_ID = "an entry has the highest possible id, so the stream accepts no more: copy it to a new one"

TABLE: dict[str, tuple[Meaning, str]] = {
    # StoreUnavailable and StoreFull may pass: the move was surely not done, and may be tried again.
    "READONLY": (StoreUnavailable, "this server is a replica now; the next try connects anew"),
    "LOADING": (StoreUnavailable, "the server is reading its data from disk; " + _WAIT),
    "MASTERDOWN": (StoreUnavailable, "a replica has lost its master; " + _WAIT),
    "CLUSTERDOWN": (StoreUnavailable, "the cluster has no master for this stream; " + _WAIT),
    "TRYAGAIN": (StoreUnavailable, "the stream is moving to another node; " + _WAIT),
    "MOVED": (StoreUnavailable, "the cluster is changing; " + _WAIT),
    "ASK": (StoreUnavailable, "the cluster is changing; " + _WAIT),
    "BUSY": (StoreUnavailable, "a script has been running for long; " + _WAIT),
    "NOREPLICAS": (StoreUnavailable, "too few replicas are connected (min-replicas-to-write)"),
    "MISCONF": (StoreUnavailable, "the server cannot write to its disk; look at the server's log"),
    # The key vanished or moved while a read was blocked; the reply does not say which.
    "UNBLOCKED": (StoreUnavailable, "the server gave up a blocked read; " + _WAIT),
    "OOM": (StoreFull, "the server's memory is full; raise maxmemory, or trim streams"),
    "NOGROUP": (NotFound, "join the group first"),
    "ERR no such key": (NotFound, "there is no such stream"),
    "ERR The XGROUP subcommand requires the key to exist": (NotFound, "there is no such stream"),
    "ERR max number of clients reached": (StoreUnavailable, "raise maxclients"),
    "NOAUTH": (StoreDenied, _CHECK_ACL),
    "WRONGPASS": (StoreDenied, _CHECK_ACL),
    "NOPERM": (StoreDenied, _RIGHT),
    # In a script, without the word: Redis 6.2 and 7.0, then Redis 7.2 and Valkey.
    "The user executing the script can't": (StoreDenied, _RIGHT),
    "ACL failure in script": (StoreDenied, _RIGHT),
    "ERR invalid password": (StoreDenied, _CHECK_ACL),
    "ERR DB index is out of range": (StoreDenied, "the URL names a database that the server does not have"),
    "ERR The stream has exhausted the last possible ID": (StoreDamaged, _LAST_ID),
    "ERR The ID specified in XADD is equal or smaller than the target stream top item": (StoreDamaged, _LAST_ID),
    "WRONGTYPE": (StoreDamaged, "the key belongs to something else; choose another namespace"),
}
"""From the beginning of an error reply to its meaning and the remedy."""

HEALABLE = {"READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "UNBLOCKED", "NOREPLICAS"}
"""Errors of a server that is not, or not yet, the master: its name may stand for another server now."""


class Fate(Enum):
    """The remedy for an error reply."""

    TRANSIENT = "the same connection may be asked again"
    HEALABLE = "the server has to be found again: resolve its name, connect, ask for the master"
    FATAL = "the configuration has to be changed"


_KNOWN = re.compile("(" + "|".join(map(re.escape, TABLE)) + r")\b")


def fate(reply: hiredis.ReplyError) -> Fate:
    """The remedy for an error reply."""
    word = _word(str(reply))
    if word in HEALABLE:
        return Fate.HEALABLE
    passes = word is not None and TABLE[word][0] in (StoreUnavailable, StoreFull)
    return Fate.TRANSIENT if passes else Fate.FATAL


def translate(reply: hiredis.ReplyError, name: str, key: str = "") -> StoreError | NotFound:
    """The error to raise, from `reply`, for an error reply of the server called `name` to a command on `key`."""
    text = str(reply)
    word = _word(text)
    if word is None:
        return StoreError(f"{name} answered: {text}")
    kind, advice = TABLE[word]
    if advice == _RIGHT:
        advice += f": {_patterns(key)} (docs/redis.md lists the rights that each role needs)"
    return kind(f"{name} answered: {text} ({advice})")


def _word(text: str) -> str | None:
    # Redis before 7 puts the error of a command in a script into the middle of the script's own.
    found = _KNOWN.match(text) or ("script" in text and _KNOWN.search(text))
    return found.group(1) if found else None


def _patterns(key: str) -> str:
    """The keys of the namespace of `key`, as ACL patterns."""
    namespace = key.removeprefix("{").partition(":")[0] or "NAMESPACE"
    return f"~{namespace}:* and ~{{{namespace}:*}}:*"
