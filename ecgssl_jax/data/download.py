"""Downloads a data set in PhysioNet's layout, resumable and checked.

A folder there has a file SHA256SUMS.txt that names every other file.
"""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from ecgssl_jax.errors import UserError

PTBXL_URL = "https://physionet.org/files/ptb-xl/1.0.3"
SUMS = "SHA256SUMS.txt"
_BLOCK = 1 << 20
_SECONDS = 60.0
_CONNECTIONS = 8
_BUSY = (408, 429)  # request timeout, too many requests: these pass


class DownloadError(UserError):
    """A file that could not be downloaded, or whose checksum is wrong."""


def download_ptbxl(root: str | Path, *, rate: int, base_url: str = PTBXL_URL) -> None:
    """Downloads PTB-XL's tables and the recordings at `rate` Hz into `root`."""
    folder = f"records{rate}/"
    tables = ("ptbxl_database.csv", "scp_statements.csv", "LICENSE.txt")
    download(root, base_url, lambda name: name in tables or name.startswith(folder))


def download(
    root: str | Path,
    base_url: str,
    wanted: Callable[[str], bool],
    *,
    attempts: int = 4,
    pause: float = 1.0,
) -> None:
    """Downloads the wanted files of a folder, checking each against its SHA-256.

    Files that are there and right are not loaded again; one that was interrupted
    is continued where it stopped. A file has its name only when it is complete.

    Args:
      root: where to.
      base_url: of the folder that holds SHA256SUMS.txt.
      wanted: whether to load a file, by its path in the folder.
      attempts: for each file, before giving up.
      pause: seconds before the second attempt; doubled each time.

    Raises:
      DownloadError: names the file, and what to do.
    """
    root, base_url = Path(root), base_url.rstrip("/")
    root.mkdir(parents=True, exist_ok=True)
    sums = root / SUMS
    sums.unlink(missing_ok=True)  # it may have changed, and has no checksum itself
    _fetch(f"{base_url}/{SUMS}", sums, None, attempts, pause)
    files = [(name, digest) for name, digest in read_sums(sums) if wanted(name)]
    if not files:
        raise DownloadError(f"{base_url}/{SUMS} names none of the files wanted")

    def load(file: tuple[str, str]) -> None:
        name, digest = file
        _fetch(f"{base_url}/{name}", root / name, digest, attempts, pause)

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        try:
            for _ in tqdm(
                pool.map(load, files), total=len(files), unit="file", desc="download"
            ):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def read_sums(path: Path) -> Sequence[tuple[str, str]]:
    """(file, SHA-256) of every line; DownloadError if one is not of that form."""
    files = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        digest, _, name = line.partition(" ")
        name = name.strip().lstrip("*")
        parts = PurePosixPath(name).parts
        outside = not parts or parts[0] == "/" or ".." in parts
        if outside or len(digest) != 64:
            raise DownloadError(f"{path}: unexpected line {line!r}")
        files.append((name, digest.lower()))
    return files


def _fetch(
    url: str, path: Path, digest: str | None, attempts: int, pause: float
) -> None:
    """Loads one file, continuing what is there of it."""
    if digest is not None and path.exists():
        if _sha256(path) == digest:
            return
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    problem = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            _continue(url, part)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # what is there is longer than the file
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in _BUSY:
                raise DownloadError(f"{url}: {error}") from error
            problem = str(error)
        except (OSError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
        else:
            found = _sha256(part)
            if digest is None or found == digest:
                part.replace(path)
                return
            problem = f"its SHA-256 is {found}, {SUMS} says {digest}"
            part.unlink()
    raise DownloadError(
        f"{url} could not be downloaded in {attempts} attempts: {problem}. The same "
        "command continues with what is there."
    )


def _continue(url: str, part: Path) -> None:
    """Appends to `part` what is missing of `url`."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url)
    if start:
        request.add_header("Range", f"bytes={start}-")
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        # A server that knows no ranges sends the whole file again.
        resumes = start > 0 and answer.status == 206
        expected = answer.headers.get("Content-Length")
        received = 0
        with part.open("ab" if resumes else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                received += len(block)
    if expected is not None and received != int(expected):
        raise ConnectionError(f"connection lost after {received} of {expected} bytes")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
