"""TLS: contexts from the files that a URL names, and the reasons why a handshake failed."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forebay.errors import ConfigurationError
from forebay.stores.redis.address import Address

DIAGNOSIS_SECONDS = 1.0
"""Seconds that the search for the reason of a failed handshake takes at most."""

_REQUIREMENTS = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_WRONG_HOST = (62, 64)
"""OpenSSL's codes of a certificate for another host or address."""
_NO_TLS = "it does not speak TLS: write redis:// in place of rediss://"
_CERTIFICATE = "it asks for a client certificate, or refuses this one: check ssl_certfile and ssl_keyfile in the URL"
_REASONS = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "UNSUPPORTED_PROTOCOL": "it and this machine have no version of TLS in common",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it and this machine have no version of TLS in common",
    "NO_SHARED_CIPHER": "it and this machine have no cipher in common",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _CERTIFICATE,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _CERTIFICATE,
    "SSLV3_ALERT_BAD_CERTIFICATE": _CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_REVOKED": _CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _CERTIFICATE,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _CERTIFICATE,
    "TLSV1_ALERT_UNKNOWN_CA": _CERTIFICATE,
    "TLSV1_ALERT_ACCESS_DENIED": _CERTIFICATE,
    "TLSV1_ALERT_DECRYPT_ERROR": _CERTIFICATE,
}
"""The meanings of OpenSSL's reasons for a failed handshake."""


def context_of(options: Mapping[str, Any]) -> ssl.SSLContext:
    """The context for the `ssl_` options of a URL; `ConfigurationError` names the file that is wrong, and its option.

    The files are read anew for each connection, since certificates are renewed while a process runs.
    """
    for option in _FILES:
        if option in options:
            _read(option, options[option])
    context = ssl.create_default_context()
    requirement = _REQUIREMENTS[options.get("ssl_cert_reqs", "required")]
    context.check_hostname = requirement is not ssl.CERT_NONE and options.get("ssl_check_hostname", True)
    context.verify_mode = requirement
    authorities, certificate, key = (options.get(option) for option in _FILES)
    if authorities:
        with _naming(f"{authorities} (ssl_ca_certs in the URL) does not hold certificates in PEM form"):
            context.load_verify_locations(authorities)
    if certificate:
        files = f"{certificate} (ssl_certfile in the URL)" + (f" and {key} (ssl_keyfile)" if key else "")
        with _naming(f"{files} do not hold a certificate and its key, without a passphrase, in PEM form"):
            # Without this, OpenSSL asks for a passphrase on the terminal.
            context.load_cert_chain(certificate, key, password=lambda: b"none")
    return context


def refusal(error: BaseException | None) -> str | None:
    """The meaning of an error that came of a TLS handshake, and the remedy; None for every other error."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            if error.verify_code in _WRONG_HOST:
                return (
                    f"its certificate is for another host: {error.verify_message} (use a name of the certificate in "
                    "the URL, or ssl_check_hostname=false)"
                )
            return (
                f"its certificate is not trusted: {error.verify_message} (name the file of its authority as "
                "ssl_ca_certs in the URL)"
            )
        if isinstance(error, ssl.SSLError) and error.reason in _REASONS:
            return _REASONS[error.reason]
        error = error.__cause__ or error.__context__
    return None


async def diagnose(address: Address, options: Mapping[str, Any] | None, timeout: float) -> str | None:
    """The reason why a server that accepts connections did not answer, if TLS is the reason.

    It connects once or twice more, without credentials.
    """
    limit = min(timeout, DIAGNOSIS_SECONDS)
    if options is None:
        unverified = ssl.create_default_context()
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        answer = await _answer(address, limit, unverified, send=b"")
        is_tls = answer is None or isinstance(answer, bytes) or refusal(answer) not in (None, _NO_TLS)
        return "it speaks TLS: write rediss:// in place of redis://" if is_tls else None
    answer = await _answer(address, limit, None, send=b"PING\r\n")
    if isinstance(answer, bytes) and answer[:1] in (b"+", b"-"):
        return _NO_TLS
    # If nothing is sent, the alert is read before the connection ends.
    answer = await _answer(address, limit, context_of(options), send=b"")
    return refusal(answer) if isinstance(answer, BaseException) else None


async def _answer(
    address: Address, limit: float, context: ssl.SSLContext | None, *, send: bytes
) -> bytes | OSError | None:
    """The first bytes, or the error; None if the connection was made, and there was neither in time."""
    writer = None
    try:
        async with asyncio.timeout(limit):
            reader, writer = await asyncio.open_connection(*address, ssl=context)
            writer.write(send)
            return await reader.read(64)
    except TimeoutError as error:
        return error if writer is None else None
    except OSError as error:
        return error
    finally:
        if writer is not None:
            writer.transport.abort()


def _read(option: str, path: str) -> None:
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path} ({option} in the URL): {error.strerror}") from error


@contextlib.contextmanager
def _naming(fault: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise ConfigurationError(f"{fault}: {error.reason or 'it cannot be read'}") from error
