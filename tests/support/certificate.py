"""A certificate for this machine, and the trust in it: what test clients believe over TLS is what SSL_CERT_FILE names."""

import functools
import os
import shutil
import ssl
import subprocess
from pathlib import Path

import msgspec


class Certificate(msgspec.Struct, frozen=True):
    """PEM files."""

    chain: Path
    key: Path


def make_certificate(folder: Path) -> Certificate:
    """One for 127.0.0.1 and localhost, that signs itself. Raises: CalledProcessError, FileNotFoundError without openssl."""
    openssl = shutil.which("openssl") or "openssl"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([openssl, *command.split(), *names], cwd=folder, check=True, capture_output=True)
    return Certificate(folder / "cert.pem", folder / "key.pem")


def trust_for(scheme: str) -> ssl.SSLContext | None:
    """The client's side of TLS for this scheme of a URL; None where it has none."""
    return _trust(os.environ.get("SSL_CERT_FILE", "")) if scheme in {"https", "wss"} else None


@functools.cache
def _trust(trusted: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=trusted or None)
