"""TLS: connections that work, and the errors of those that do not."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.errors import ConfigurationError, StoreDenied, StoreUnavailable
from forebay.event import to_record
from forebay.stores.redis import RedisStore
from tests.support.redis_servers import Server, binaries, free_port

pytestmark = pytest.mark.skipif(
    not shutil.which("openssl") or not shutil.which("redis-server"),
    reason="needs openssl, and a redis-server that was built with TLS",
)

FORMS = ["rediss://localhost:{port}", "rediss+sentinel://localhost:{port}/main", "rediss+cluster://localhost:{port}"]


class Secured:
    """A server with a TLS port that asks for client certificates, one that does not, and their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = _certificate(folder, "authority", "/CN=authority")
        self.stranger = _certificate(folder, "stranger", "/CN=stranger")
        _certificate(folder, "server", "/CN=localhost", by="authority", names="DNS:localhost")
        _certificate(folder, "client", "/CN=client", by="authority")
        locked = ("-aes256", "-passout", "pass:x", "-out", "locked.key")
        subprocess.run(["openssl", "ec", "-in", "client.key", *locked], cwd=folder, check=True, capture_output=True)
        self.mutual, self.mutual_old, self.open = free_port(), free_port(), free_port()
        self.servers = [
            self._serve("--tls-port", str(self.mutual), "--tls-auth-clients", "yes"),
            self._serve("--tls-port", str(self.mutual_old), "--tls-auth-clients", "yes", "--tls-protocols", "TLSv1.2"),
            self._serve("--tls-port", str(self.open), "--tls-auth-clients", "no"),
        ]

    def _serve(self, *options: str) -> Server:
        files = {"cert-file": "server.crt", "key-file": "server.key", "ca-cert-file": "authority.crt"}
        paths = (text for name, file in files.items() for text in (f"--tls-{name}", str(self.folder / file)))
        return Server(str(shutil.which("redis-server")), self.folder, *paths, *options)

    def file(self, name: str) -> str:
        return str(self.folder / name)


def _certificate(folder: Path, name: str, subject: str, by: str = "", names: str = "") -> str:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key, found = (
        ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"),
        f"{name}.crt",
    )
    if not by:
        openssl("req", "-x509", *key, "-out", found, "-days", "2", "-subj", subject)
        return str(folder / found)
    (folder / f"{name}.ext").write_text(f"subjectAltName={names}\n" if names else "")
    openssl("req", *key, "-out", f"{name}.csr", "-subj", subject)
    signing = ("-CA", f"{by}.crt", "-CAkey", f"{by}.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext")
    openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", found)
    return str(folder / found)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    found = Secured(tmp_path_factory.mktemp("tls"))
    yield found
    for server in found.servers:
        server.stop()


async def _open(url: str) -> None:
    async with RedisStore(url):
        pass


@pytest.mark.parametrize("form", FORMS)
async def test_a_certificate_of_an_unknown_authority_is_denied_by_name(secured: Secured, form: str) -> None:
    url = form.format(port=secured.open)

    for options in ("", f"?ssl_ca_certs={secured.stranger}"):
        with pytest.raises(StoreDenied, match=r"certificate is not trusted.*ssl_ca_certs"):
            await _open(url + options)


@pytest.mark.parametrize("form", FORMS)
async def test_a_certificate_for_another_host_is_denied_by_name(secured: Secured, form: str) -> None:
    url = form.format(port=secured.open).replace("localhost", "127.0.0.1")

    with pytest.raises(StoreDenied, match=r"another host.*ssl_check_hostname"):
        await _open(f"{url}?ssl_ca_certs={secured.authority}")


@pytest.mark.parametrize("form", FORMS)
async def test_a_client_certificate_that_is_missing_or_strange_is_denied_by_name(secured: Secured, form: str) -> None:
    strange = f"&ssl_certfile={secured.file('stranger.crt')}&ssl_keyfile={secured.file('stranger.key')}"

    for port in (secured.mutual, secured.mutual_old):
        for options in ("", strange):
            with pytest.raises(StoreDenied, match="ssl_certfile"):
                await _open(f"{form.format(port=port)}?ssl_ca_certs={secured.authority}{options}")


@pytest.mark.parametrize(("form", "password"), [*zip(FORMS, ["", ":secret@", ""], strict=True), (FORMS[0], ":secret@")])
async def test_a_server_without_tls_at_a_tls_url_is_named(
    secured: Secured, servers: dict[str, Server], form: str, password: str
) -> None:
    for port in {secured.servers[0].port, servers[binaries()[0]].port}:
        url = form.format(port=port).replace("://", f"://{password}")

        with pytest.raises(StoreDenied, match="does not speak TLS: write redis://"):
            await _open(f"{url}?ssl_ca_certs={secured.authority}&timeout=1")


@pytest.mark.parametrize(("form", "password"), [*zip(FORMS, ["", ":secret@", ""], strict=True), (FORMS[0], ":secret@")])
async def test_a_server_with_tls_at_a_plain_url_is_named(secured: Secured, form: str, password: str) -> None:
    plain = form.replace("rediss", "redis").replace("://", f"://{password}")

    for port in (secured.open, secured.mutual, secured.mutual_old):
        with pytest.raises(StoreDenied, match="speaks TLS: write rediss://"):
            await _open(plain.format(port=port))


@pytest.mark.parametrize("form", FORMS)
async def test_a_file_that_cannot_be_used_is_named_with_its_option(secured: Secured, form: str) -> None:
    url, folder = form.format(port=secured.open), secured.folder
    (folder / "empty.crt").write_text("")
    right, key = secured.file("client.crt"), secured.file("client.key")

    for options, names in (
        (f"ssl_ca_certs={folder}/nope.crt", ("nope.crt", "ssl_ca_certs", "No such file")),
        (f"ssl_ca_certs={folder}", ("ssl_ca_certs", "Is a directory")),
        (f"ssl_ca_certs={folder}/empty.crt", ("empty.crt", "ssl_ca_certs", "PEM")),
        (f"ssl_certfile={folder}/nope.crt", ("nope.crt", "ssl_certfile", "No such file")),
        (f"ssl_certfile={right}&ssl_keyfile={folder}/nope.key", ("nope.key", "ssl_keyfile", "No such file")),
        (f"ssl_certfile={right}", ("client.crt", "ssl_certfile")),
        (f"ssl_certfile={right}&ssl_keyfile={folder}/stranger.key", ("stranger.key", "ssl_keyfile")),
        (f"ssl_certfile={right}&ssl_keyfile={folder}/locked.key", ("locked.key", "passphrase")),
        (f"ssl_keyfile={key}", ("ssl_certfile",)),
    ):
        with pytest.raises(ConfigurationError) as refused:
            await _open(f"{url}?{options}")
        assert [] == [name for name in names if name not in str(refused.value)], refused.value


async def test_files_that_vanish_while_a_store_is_open_are_waited_for(secured: Secured) -> None:
    authority = secured.folder / "renewed.crt"
    authority.write_bytes(Path(secured.authority).read_bytes())
    async with RedisStore(f"rediss://localhost:{secured.open}?ssl_ca_certs={authority}", namespace="renewed") as store:
        authority.unlink()
        [node] = store._client.topology.masters()
        node.renew()

        with pytest.raises(StoreUnavailable, match=r"renewed\.crt"):
            await store.scan("order_placed")
        authority.write_bytes(Path(secured.authority).read_bytes())
        assert [] == await store.scan("order_placed")


@pytest.mark.parametrize(
    "options",
    [
        "ssl_ca_certs={folder}/authority.crt",
        "ssl_ca_certs={folder}/authority.crt&ssl_certfile={folder}/client.crt&ssl_keyfile={folder}/client.key",
        "ssl_cert_reqs=none",
        "ssl_ca_certs={folder}/authority.crt&ssl_check_hostname=false",
    ],
)
async def test_right_use_works(secured: Secured, options: str) -> None:
    port = secured.mutual if "certfile" in options else secured.open
    host = "localhost" if options.endswith(("authority.crt", "client.key")) else "127.0.0.1"
    url = f"rediss://{host}:{port}?{options.format(folder=secured.folder)}"
    async with RedisStore(url) as store:
        assert await store.append("order_placed", [to_record("order_placed", source="shop", data="x" * 200_000)])


async def test_a_closed_port_is_not_reported_as_a_tls_error() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        for scheme in ("redis", "rediss"):
            with pytest.raises(StoreUnavailable, match="cannot reach"):
                await _open(f"{scheme}://127.0.0.1:{port}")
