"""Where the bytes of an image come from: files, streams and addresses, within limits."""

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mambaxray.processing import image_content
from mambaxray.processing.image_reading import ImageReadError, load_xray

ALLOW = "MAMBAXRAY_ALLOW_PRIVATE_URLS"
LIMIT = "MAMBAXRAY_MAX_IMAGE_MB"


def _difference(source: object, grey: np.ndarray) -> int:
    return int(np.abs(np.asarray(load_xray(source)).astype(int) - grey).max())


def _refused(source: object, *words: str) -> None:
    with pytest.raises(ImageReadError) as caught:
        load_xray(source)
    for word in words:
        assert word in str(caught.value)


@contextmanager
def _served(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _file(content: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/absent"):
            request.send_error(404)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return answer


# Files and streams


def test_open_files_are_read_from_where_they_are(png: Path, grey: np.ndarray) -> None:
    with png.open("rb") as file:
        assert _difference(file, grey) == 0
    behind = io.BytesIO(b"something" + png.read_bytes())
    behind.seek(len(b"something"))
    assert _difference(behind, grey) == 0


def test_file_opened_as_text_is_a_type_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with (tmp_path / "a.txt").open() as file, pytest.raises(TypeError, match="open it in mode 'rb'"):
        load_xray(file)


def test_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    start = time.monotonic()
    _refused(tmp_path / "pipe.png", "pipe.png", "not a regular file")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null"])
def test_device_is_refused(name: str) -> None:
    _refused(name, name, "not a regular file")


# One limit


def test_one_setting_limits_files_streams_addresses_and_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grey: np.ndarray
) -> None:
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(3 * 2**20)
    monkeypatch.setenv(LIMIT, "2")
    _refused(large, "large.png", "too large (more than 2 MiB of bytes)", LIMIT)
    _refused(large.read_bytes(), "too large")
    _refused(io.BytesIO(large.read_bytes()), "too large")
    _refused("data:image/png;base64," + "A" * (3 * 2**20), "too large")
    monkeypatch.setenv(ALLOW, "1")
    with _served(_file(large.read_bytes())) as address:
        _refused(f"{address}/a.png", "too large")
    pixels = np.tile(grey, (8, 8))
    _refused(pixels, "too large (640 x 768 pixels; at most 262,144")
    monkeypatch.setenv(LIMIT, "4")
    assert load_xray(pixels).size == (640, 768)


@pytest.mark.parametrize("value", ["0", "many", "-3"])
def test_limit_that_is_no_positive_number_is_an_error_of_the_setting(
    value: str, monkeypatch: pytest.MonkeyPatch, png: Path
) -> None:
    monkeypatch.setenv(LIMIT, value)
    with pytest.raises(ValueError, match=f"{LIMIT} is '{value}'"):
        load_xray(png)


def test_deflated_dicom_is_not_unpacked_beyond_the_limit(
    write_dicom: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, grey: np.ndarray
) -> None:
    path = write_dicom(grey, syntax=DeflatedExplicitVRLittleEndian)
    assert _difference(path, grey) == 0
    bomb = write_dicom(grey, syntax=DeflatedExplicitVRLittleEndian, EncapsulatedDocument=bytes(8 * 2**20))
    assert bomb.stat().st_size < 2**16
    monkeypatch.setenv(LIMIT, "4")
    _refused(bomb, "more than 4 MiB of unpacked data")


# Addresses


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW, "1")


@pytest.mark.usefixtures("allowed")
def test_picture_behind_a_url_is_read_and_a_missing_one_is_named(png: Path, grey: np.ndarray) -> None:
    with _served(_file(png.read_bytes())) as address:
        assert _difference(f"{address}/{png.name}", grey) == 0
        _refused(f"{address}/absent.png?signature=Secretname", "absent.png: can't be fetched")


def test_address_of_this_machine_is_refused_unless_allowed(png: Path) -> None:
    with _served(_file(png.read_bytes())) as address:
        _refused(f"{address}/a.png", "private network", f"{ALLOW}=1")
        _refused(address.replace("127.0.0.1", "localhost") + "/a.png", "private network")


def test_redirection_to_a_private_address_is_refused(png: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def redirect(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        request.send_response(302)
        request.send_header("Location", f"{target}/inside.png")
        request.end_headers()

    # What only this test can change: to the first server a public address is pretended.
    with _served(_file(png.read_bytes())) as target, _served(redirect) as address:
        known = iter([True, False])
        monkeypatch.setattr(image_content, "_is_public", lambda host: next(known))
        _refused(f"{address}/outside.png", "private network")
    assert asked == ["/outside.png"]


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
    ],
)
def test_private_addresses_are_known(address: str, is_public: bool) -> None:
    assert image_content._is_public(address) == is_public


@pytest.mark.usefixtures("allowed")
def test_offline_mode_is_obeyed(monkeypatch: pytest.MonkeyPatch, png: Path, grey: np.ndarray) -> None:
    asked = []
    with _served(lambda request: asked.append(request.path)) as address:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        _refused(f"{address}/a.png", "HF_HUB_OFFLINE is set")
    assert not asked
    assert _difference(png, grey) == 0


@pytest.mark.usefixtures("allowed")
def test_message_holds_neither_password_nor_query() -> None:
    with _served(_file(b"no picture")) as address:
        with pytest.raises(ImageReadError) as caught:
            load_xray(address.replace("//", "//user:Secretname@") + "/a.png?token=Secretname")
        assert "Secretname" not in str(caught.value)


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("part", ["header", "body"])
def test_server_that_never_ends_is_left_after_the_total_time(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_content, "_TOTAL_SECONDS", 0.5)
    stopped = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"\r\n" if part == "body" else b"X-Slow: "))
        while not stopped.wait(0.05):
            try:
                request.wfile.write(b"x")
                request.wfile.flush()
            except OSError:
                return

    with _served(drip) as address:
        start = time.monotonic()
        _refused(f"{address}/a.png", "can't be fetched within")
        assert time.monotonic() - start < 10
        stopped.set()


@pytest.mark.usefixtures("allowed")
def test_download_that_ends_early_is_refused(png: Path) -> None:
    def cut(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100000")
        request.end_headers()
        request.wfile.write(png.read_bytes()[:500])

    with _served(cut) as address:
        _refused(f"{address}/a.png", "can't be fetched")
