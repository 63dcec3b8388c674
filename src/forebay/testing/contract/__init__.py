"""The contract suite: what every store promises, as tests that any store can inherit.

    class TestMyStore(StoreContract):
        @pytest.fixture
        async def store(self) -> AsyncIterator[Store]:
            async with MyStore() as store:
                yield store

        @pytest.fixture
        def plant(self, store: MyStore) -> Plant:
            return store.insert_raw

        @pytest.fixture
        def survives(self) -> tuple[str, str, str]:
            return "kept", "kept", "at risk"

The other fixtures of `Contract` state a capability that a store may lack. The store is empty at the start of each
test. The tests are coroutines: run them with pytest-asyncio in its auto mode. They do not sleep; all that takes time
has a deadline. `pytest.register_assert_rewrite("forebay.testing.contract")` before the import shows more of a failed
assertion.
"""

from __future__ import annotations

from forebay.testing.contract.arrivals import ArrivalsContract
from forebay.testing.contract.base import Fields, Plant
from forebay.testing.contract.dead_letters import DeadLettersContract
from forebay.testing.contract.fencing import FencingContract
from forebay.testing.contract.home import HomeContract
from forebay.testing.contract.inspection import InspectionContract
from forebay.testing.contract.leases import LeasesContract
from forebay.testing.contract.log import LogContract
from forebay.testing.contract.notes import NotesContract
from forebay.testing.contract.ordered import OrderedContract
from forebay.testing.contract.outlook import OutlookContract
from forebay.testing.contract.scheduling import SchedulingContract
from forebay.testing.contract.settling import SettlingContract
from forebay.testing.contract.several_streams import SeveralStreamsContract
from forebay.testing.contract.texts import TextsContract
from forebay.testing.contract.transfer import TransferContract
from forebay.testing.contract.trimmed_unread import TrimmedUnreadContract
from forebay.testing.contract.unknown_names import UnknownNamesContract

__all__ = ["Fields", "Plant", "StoreContract"]


class StoreContract(
    LogContract,
    SchedulingContract,
    ArrivalsContract,
    LeasesContract,
    SeveralStreamsContract,
    OrderedContract,
    OutlookContract,
    SettlingContract,
    FencingContract,
    DeadLettersContract,
    InspectionContract,
    TrimmedUnreadContract,
    NotesContract,
    TextsContract,
    TransferContract,
    UnknownNamesContract,
    HomeContract,
):
    """Every promise of the `Store` protocol."""
