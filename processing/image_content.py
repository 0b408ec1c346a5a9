"""From a path, an address or an open file to the bytes of an image, within the limits on size, time and place."""

import ipaddress
import os
import socket
import stat
import threading
from base64 import b64decode
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, Request, build_opener

from transformers.utils.hub import is_offline_mode

from .image_limits import check_bytes, max_bytes
from .pixel_rules import ImageReadError, one_line

PRIVATE_ADDRESSES_VARIABLE = "MAMBAXRAY_ALLOW_PRIVATE_URLS"
"""Environment variable; at 1, addresses of this machine and of the local network may be read."""

_TOTAL_SECONDS = 60.0
_SECONDS_WITHOUT_DATA = 30.0
_CHUNK = 2**20
_SHOWN_LENGTH = 200
_TRUE_WORDS = ("1", "ON", "TRUE", "YES")


def is_address(source: str) -> bool:
    """Whether a text is an `http(s)://` or `data:` URL and not a path."""
    return source[:8].lower().startswith(("http://", "https://", "data:"))


def read_file(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        FileNotFoundError: no such file.
        ImageReadError: a folder, a pipe or a device, a file above the limit, or one that can't be read.
    """
    name = str(path)
    try:
        found = path.stat()
        # Not opened first: a pipe would wait for its other end.
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise ImageReadError(name, "not a regular file but a pipe, a device or a socket")
        check_bytes(found.st_size, name)
        with path.open("rb") as file:
            return read_stream(file, name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: no such file") from error
    except ImageReadError:
        raise
    except (OSError, ValueError) as error:
        # Also text that is no path at all, such as base64 without `data:…,` before it.
        shown = name if len(name) <= _SHOWN_LENGTH else f"{name[:_SHOWN_LENGTH]}…"
        raise ImageReadError(shown, f"can't be read as a file ({getattr(error, 'strerror', error)})") from error


def read_stream(file: BinaryIO, name: str) -> bytes:
    """What an open binary file holds from its position on.

    Raises:
        ImageReadError: more than the limit.
        TypeError: the file gives text.
    """
    content = file.read(max_bytes() + 1)
    if not isinstance(content, bytes):
        raise TypeError(f"{name}: an open file must give bytes, not {type(content).__name__}; open it in mode 'rb'")
    check_bytes(len(content), name)
    return content


def read_address(address: str) -> tuple[bytes, str]:
    """What is at an `http(s)://` or `data:` URL, and how to call it in messages.

    `HF_HUB_OFFLINE` is obeyed. A download may take 60 seconds and the bytes of `image_limits.max_bytes`; addresses of
    this machine and of private networks are refused, also behind a redirection, unless
    `MAMBAXRAY_ALLOW_PRIVATE_URLS=1`.

    Raises:
        ImageReadError: naming the address without user, password and query, and the reason.
    """
    if address[:5].lower() == "data:":
        return _read_data_url(address)
    parts = urlsplit(address)
    # Neither a password nor a signature goes into a message.
    name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE_WORDS:
        raise ImageReadError(name, "can't be fetched while HF_HUB_OFFLINE is set; give a file")
    try:
        return _download(address, name), name
    except ImageReadError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        raise ImageReadError(name, f"can't be fetched ({one_line(error)})") from error


def _read_data_url(address: str) -> tuple[bytes, str]:
    name = "<data URL>"
    check_bytes(len(address) * 3 // 4, name)
    try:
        return b64decode(address.partition(",")[2], validate=True), name
    except ValueError as error:
        raise ImageReadError(name, "not base64") from error


def _download(address: str, name: str) -> bytes:
    open_sockets: list[socket.socket] = []
    is_over = threading.Event()

    def end() -> None:
        # A server that sends a byte now and then never runs into a timeout of its socket.
        is_over.set()
        for opened in open_sockets:
            try:
                opened.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already

    watch = threading.Timer(_TOTAL_SECONDS, end)
    watch.daemon = True
    watch.start()
    try:
        opener = build_opener(_Handler(open_sockets), _SecureHandler(open_sockets))
        with opener.open(address, timeout=_SECONDS_WITHOUT_DATA) as answer:
            content = bytearray()
            while chunk := answer.read1(_CHUNK):
                content += chunk
                check_bytes(len(content), name)
    except (OSError, HTTPException, ValueError) as error:
        if is_over.is_set():
            raise ImageReadError(name, f"can't be fetched within {_TOTAL_SECONDS:.0f} seconds") from error
        raise
    finally:
        watch.cancel()
    if is_over.is_set():
        raise ImageReadError(name, f"can't be fetched within {_TOTAL_SECONDS:.0f} seconds")
    declared = answer.headers.get("Content-Length", "")
    if declared.isdecimal() and int(declared) > len(content):
        raise ImageReadError(name, "can't be fetched (the connection ended early)")
    return bytes(content)


class _Handler(HTTPHandler):
    """`http` over connections that refuse private addresses and note their sockets."""

    def __init__(self, open_sockets: list[socket.socket]) -> None:
        super().__init__()
        self._open_sockets = open_sockets

    def http_open(self, request: Request) -> Any:
        return self.do_open(_with_checked_socket(HTTPConnection, self._open_sockets, request.has_proxy()), request)


class _SecureHandler(HTTPSHandler):
    """The same for `https`."""

    def __init__(self, open_sockets: list[socket.socket]) -> None:
        super().__init__()
        self._open_sockets = open_sockets

    def https_open(self, request: Request) -> Any:
        # A tunnel through a proxy is noted in the request before this is called.
        is_tunnel = request.has_proxy() or bool(getattr(request, "_tunnel_host", None))
        return self.do_open(_with_checked_socket(HTTPSConnection, self._open_sockets, is_tunnel), request)


def _with_checked_socket(
    kind: type[HTTPConnection], open_sockets: list[socket.socket], is_proxied: bool
) -> type[HTTPConnection]:
    """A kind of connection that looks at whom it has reached before it sends anything."""

    def connect(*arguments: Any, **options: Any) -> socket.socket:
        opened = socket.create_connection(*arguments, **options)
        # A proxy may well be in the local network; what it fetches is its own matter.
        if not (is_proxied or _is_public(opened.getpeername()[0]) or _is_private_allowed()):
            opened.close()
            raise OSError(
                f"the address belongs to this machine or a private network; {PRIVATE_ADDRESSES_VARIABLE}=1 allows it"
            )
        open_sockets.append(opened)
        return opened

    class Connection(kind):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._create_connection = connect

    return Connection


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    return (getattr(found, "ipv4_mapped", None) or found).is_global


def _is_private_allowed() -> bool:
    return os.environ.get(PRIVATE_ADDRESSES_VARIABLE, "").upper() in _TRUE_WORDS
