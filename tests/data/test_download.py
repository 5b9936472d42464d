import hashlib
import http.server
import threading

import pytest

from ecgssl_jax.data.download import DownloadError, download, download_ptbxl

FILES = {
    "ptbxl_database.csv": b"ecg_id\n" * 1000,
    "scp_statements.csv": b"NORM\n",
    "LICENSE.txt": b"CC BY",
    "records100/00000/00001_lr.dat": bytes(range(256)) * 100,
    "records500/00000/00001_hr.dat": b"five hundred",
    "example.ipynb": b"{}",
}


class _Server(http.server.ThreadingHTTPServer):
    """Serves FILES and their sums; `misbehave` maps a file to a list of faults.

    Each request for such a file takes one: "cut" (half of it, then the line is
    dead), "corrupt" (one bit flipped), or a status to answer with.
    """

    def __init__(self, knows_ranges=True):
        super().__init__(("127.0.0.1", 0), _Handler)
        lines = [f"{hashlib.sha256(v).hexdigest()} {k}\n" for k, v in FILES.items()]
        self.files = {**FILES, "SHA256SUMS.txt": "".join(lines).encode()}
        self.misbehave = {}
        self.requests = []
        self.knows_ranges = knows_ranges
        self.url = f"http://127.0.0.1:{self.server_port}/"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self):
        name, asked = self.path[1:], self.headers.get("Range")
        self.server.requests.append((name, asked))
        faults = self.server.misbehave.get(name, [])
        fault = faults.pop(0) if faults else ""
        if isinstance(fault, int) or name not in self.server.files:
            self.send_error(fault or 404)
            return
        content, status = self.server.files[name], 200
        if asked and self.server.knows_ranges:
            content = content[int(asked.removeprefix("bytes=").rstrip("-")) :]
            status = 206
            if not content:
                self.send_error(416)
                return
        if fault == "corrupt":
            content = bytes([content[0] ^ 1]) + content[1:]
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)

    def log_message(self, format, *args):
        pass


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def server(request):
    with _Server(request.param) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _download(server, root, **options):
    download(root, server.url, lambda name: True, **{"pause": 0.01, **options})


def _found(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "SHA256SUMS.txt"
    }


def test_every_file_arrives(server, tmp_path):
    _download(server, tmp_path)
    assert _found(tmp_path) == FILES


def test_ptbxl_takes_what_its_rate_needs(server, tmp_path):
    download_ptbxl(tmp_path, rate=100, base_url=server.url)
    assert sorted(_found(tmp_path)) == [
        "LICENSE.txt",
        "ptbxl_database.csv",
        "records100/00000/00001_lr.dat",
        "scp_statements.csv",
    ]


def test_a_corrupted_file_is_loaded_again(server, tmp_path):
    server.misbehave["scp_statements.csv"] = ["corrupt"]
    _download(server, tmp_path)
    assert _found(tmp_path) == FILES


def test_a_file_that_stays_corrupted_is_an_error_and_not_kept(server, tmp_path):
    server.misbehave["scp_statements.csv"] = ["corrupt"] * 4
    with pytest.raises(DownloadError, match="scp_statements.csv .*4 attempts.*SHA-256"):
        _download(server, tmp_path)
    assert "scp_statements.csv" not in _found(tmp_path)
    _download(server, tmp_path)
    assert _found(tmp_path) == FILES


def test_a_lost_connection_is_resumed_where_it_stopped(server, tmp_path):
    name = "records100/00000/00001_lr.dat"
    server.misbehave[name] = ["cut"]
    _download(server, tmp_path)
    assert _found(tmp_path) == FILES
    asked = [ranges for file, ranges in server.requests if file == name]
    assert asked == [None, f"bytes={len(FILES[name]) // 2}-"]


def test_an_interrupted_download_continues_with_the_same_command(server, tmp_path):
    name = "ptbxl_database.csv"
    server.misbehave[name] = ["cut"]
    with pytest.raises(DownloadError, match="connection lost|IncompleteRead"):
        _download(server, tmp_path, attempts=1)
    assert name not in _found(tmp_path)
    server.requests.clear()
    _download(server, tmp_path)
    assert _found(tmp_path) == FILES
    assert (name, f"bytes={len(FILES[name]) // 2}-") in server.requests


def test_a_finished_download_loads_only_the_sums_again(server, tmp_path):
    _download(server, tmp_path)
    server.requests.clear()
    _download(server, tmp_path)
    assert [name for name, _ in server.requests] == ["SHA256SUMS.txt"]


def test_a_file_changed_afterwards_is_replaced(server, tmp_path):
    _download(server, tmp_path)
    (tmp_path / "LICENSE.txt").write_bytes(b"something else")
    _download(server, tmp_path)
    assert _found(tmp_path) == FILES


def test_a_left_over_that_is_too_long_is_thrown_away(server, tmp_path):
    (tmp_path / "LICENSE.txt.part").write_bytes(FILES["LICENSE.txt"] + b"!")
    _download(server, tmp_path)
    assert _found(tmp_path) == FILES


@pytest.mark.parametrize("busy", [[503, 503], [408, 429]])
def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server, tmp_path, busy):
    server.misbehave["LICENSE.txt"] = busy
    _download(server, tmp_path)
    assert _found(tmp_path) == FILES
    del server.files["example.ipynb"]
    (tmp_path / "example.ipynb").unlink()
    server.requests.clear()
    with pytest.raises(DownloadError, match="example.ipynb: HTTP Error 404"):
        _download(server, tmp_path)
    assert [name for name, _ in server.requests].count("example.ipynb") == 1


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b"])
def test_a_path_that_leaves_the_folder_is_refused(server, tmp_path, name):
    server.files["SHA256SUMS.txt"] = f"{'0' * 64} {name}\n".encode()
    with pytest.raises(DownloadError, match="unexpected line"):
        _download(server, tmp_path / "root")
    assert list(tmp_path.rglob("outside")) == []
