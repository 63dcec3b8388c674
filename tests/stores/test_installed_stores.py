"""The store of an installed package is opened by its URL; forebay's own schemes need no search for packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from forebay import ConfigurationError, EventBus, connect
from forebay.stores.memory import MemoryStore
from forebay.urls import BUILT_IN, open_store

MODULE = """
from forebay.errors import ConfigurationError
from forebay.stores.memory import MemoryStore
from forebay.stores.url import check_options, split

class DrawerStore(MemoryStore):
    opened = None

def from_url(url, *, namespace, read_only):
    check_options(split(url), {})
    store = DrawerStore(namespace=namespace)
    store.opened = (url, namespace, read_only)
    return store

def not_a_store(url, *, namespace, read_only):
    return url
"""


def _install(folder: Path, name: str, module: str, *points: str) -> None:
    """A package as pip would lay it out."""
    (folder / f"{module}.py").write_text(MODULE)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join(["[forebay.stores]", *points]))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("drawers")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


async def test_the_store_of_an_installed_package_is_opened_by_its_url(packages: Path) -> None:
    _install(packages, "forebay-drawers", "drawers_a", "drawer = drawers_a:from_url")

    async with connect("drawer://oak:secret@house/second", namespace="mine") as bus:
        await bus.publish("t", "s", 1)

        assert "DrawerStore" == type(bus.store).__name__
        assert ("drawer://oak:secret@house/second", "mine", False) == getattr(bus.store, "opened", None)
        assert ["t"] == await bus.streams()
        assert "drawer://oak:***@house/second" == bus.url


def test_a_scheme_is_found_in_any_case_and_gets_the_wish_to_only_read(packages: Path) -> None:
    _install(packages, "forebay-drawers", "drawers_b", "drawer = drawers_b:from_url")

    store = open_store("Drawer://x", read_only=True)

    assert ("Drawer://x", "events", True) == getattr(store, "opened", None)


def test_an_unknown_scheme_says_what_to_install() -> None:
    with pytest.raises(ConfigurationError) as refused:
        connect("postgres://localhost/events")

    assert "unknown store 'postgres://': install the package whose store has this scheme" in str(refused.value)
    assert "the entry point 'postgres' in the group 'forebay.stores'" in str(refused.value)
    assert "sqlite://" in str(refused.value)


def test_two_packages_for_one_scheme_are_refused_by_name(packages: Path) -> None:
    _install(packages, "forebay-drawers", "drawers_c", "drawer = drawers_c:from_url")
    _install(packages, "other-drawers", "drawers_d", "drawer = drawers_d:from_url")

    with pytest.raises(ConfigurationError, match="drawers_c:from_url, drawers_d:from_url; uninstall all but one"):
        connect("drawer://x")


@pytest.mark.parametrize("value", ["drawers_missing:from_url", "drawers_e:missing"])
def test_a_package_that_cannot_be_imported_is_named(packages: Path, value: str) -> None:
    _install(packages, "forebay-drawers", "drawers_e", f"drawer = {value}")

    with pytest.raises(ConfigurationError, match=f"drawer:// cannot be imported: {value}"):
        connect("drawer://x")


@pytest.mark.parametrize("text", ["raise RuntimeError('no disk')", "def ("])
def test_a_package_whose_import_raises_any_error_is_named(packages: Path, text: str) -> None:
    module = f"drawers_raise_{len(text)}"
    _install(packages, "forebay-drawers", module, f"drawer = {module}:from_url")
    (packages / f"{module}.py").write_text(text)

    with pytest.raises(
        ConfigurationError, match=r"drawer:// cannot be imported: .*(RuntimeError: no disk|SyntaxError)"
    ):
        connect("drawer://x")


def test_a_package_that_declares_no_function_is_refused(packages: Path) -> None:
    _install(packages, "forebay-drawers", "drawers_module", "drawer = drawers_module")

    with pytest.raises(ConfigurationError, match="declares drawers_module, a module, which is not a function"):
        connect("drawer://x")


def test_the_class_of_a_store_is_no_store() -> None:
    with pytest.raises(ConfigurationError, match="on a store, not a type"):
        EventBus(MemoryStore)  # type: ignore[arg-type]  # the mistake


def test_what_is_not_a_store_is_refused(packages: Path) -> None:
    _install(packages, "forebay-drawers", "drawers_f", "drawer = drawers_f:not_a_store")

    with pytest.raises(ConfigurationError, match="returned a str, which is not a store"):
        connect("drawer://x")


def test_a_package_does_not_take_over_a_scheme_of_forebay(packages: Path) -> None:
    _install(packages, "forebay-drawers", "drawers_g", "memory = drawers_g:from_url")

    assert MemoryStore is type(open_store("memory://"))


@pytest.mark.parametrize("url", ["memory://", "sqlite:///x.db", "redis://localhost"])
def test_forebays_own_schemes_search_no_packages(url: str) -> None:
    program = f"import importlib.metadata as m, forebay; m.entry_points = None; forebay.connect({url!r})"

    subprocess.run([sys.executable, "-c", program], check=True)


def test_importing_forebay_does_not_import_what_searches_packages() -> None:
    program = "import sys, forebay; forebay.connect('sqlite:///x.db'); print(*sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert "importlib.metadata" not in loaded


@pytest.mark.parametrize("scheme", BUILT_IN)
def test_each_scheme_of_forebay_is_opened_without_a_connection(scheme: str) -> None:
    url = {"memory": "memory://", "sqlite": "sqlite:///x.db", "unix": "unix:///run/redis.sock"}.get(
        scheme, f"{scheme}://localhost:1/main" if "sentinel" in scheme else f"{scheme}://localhost:1"
    )

    assert open_store(url).clone() is not None
