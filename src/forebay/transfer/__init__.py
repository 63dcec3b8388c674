"""Moving all streams of one store into another, whatever the two are."""

from __future__ import annotations

from forebay.transfer.copy import Copied, copy
from forebay.transfer.verify import Compared, verify

__all__ = ["Compared", "Copied", "copy", "verify"]
