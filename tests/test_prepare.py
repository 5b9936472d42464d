import functools
import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import wfdb

from ecgssl_jax import prepare
from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.data.publishing import PrepareError
from ecgssl_jax.data.synthetic import synthetic_record
from ecgssl_jax.data.text import open_vocabulary
from ecgssl_jax.leads import LEADS
from ecgssl_jax.prepare import main


def _ecgs(count, seed=0):
    return np.stack([synthetic_record(k, seed=seed).ecg for k in range(count)])


def _prepare(*arguments):
    """Runs the command and returns its exit message, "" if it succeeds."""
    try:
        main([str(x) for x in arguments])
    except SystemExit as error:
        return str(error)
    return ""


def test_synthetic(tmp_path):
    output = tmp_path / "set"
    command = ["synthetic", "--num-records=20", "--seed=3", f"--output={output}"]
    assert _prepare(*command) == ""
    expected = np.rint(_ecgs(20, seed=3).astype(np.float64) * 1000)
    np.testing.assert_array_equal(open_prepared(output).load(), expected)


def test_flags_of_the_reports(tmp_path, capsys):
    output = tmp_path / "set"
    command = ["synthetic", "--num-records=20", f"--output={output}"]
    assert _prepare(*command, "--vocabulary-size=50", "--sort-phrases") == ""
    vocabulary = open_vocabulary(open_prepared(output))
    assert vocabulary.size == 50 and vocabulary.sort_phrases
    assert "20 of 20 records have a report" in capsys.readouterr().out
    message = _prepare(*command, "--overwrite", "--vocabulary-size=2")
    assert "vocabulary_size must be at least 6, found 2" in message


def test_array_with_flags(tmp_path):
    ecgs = _ecgs(4)
    order = [6, 0, 1]
    np.save(tmp_path / "x.npy", (ecgs[:, :, order] * 1000).transpose(0, 2, 1))
    output = tmp_path / "set"
    command = [
        "array",
        f"--source={tmp_path / 'x.npy'}",
        "--layout=NCT",
        "--source-rate=100",
        "--unit=uV",
        "--leads=V1,I,II",
        "--rate=50",
        "--seconds=5",
        f"--output={output}",
    ]
    assert _prepare(*command) == ""
    prepared = open_prepared(output)
    assert (prepared.rate, prepared.length, len(prepared)) == (50.0, 250, 8)
    assert prepared.index["offset"].tolist() == [0, 250] * 4
    valid = [lead in ("I", "II", "V1") for lead in LEADS]
    assert prepared.index["lead_valid"].tolist() == [valid] * 8


def test_manifest_with_flags(tmp_path):
    for number, ecg in enumerate(_ecgs(3)):
        np.save(tmp_path / f"{number}.npy", ecg)
    rows = ["path,patient,labels", "0.npy,a,x", "1.npy,a,none", "2.npy,b,"]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    command = ["manifest", f"--source={tmp_path / 'table.csv'}", "--source-rate=100"]
    command += ["--unit=mV", f"--leads={','.join(LEADS)}", f"--output={tmp_path / 's'}"]
    assert _prepare(*command) == ""
    prepared = open_prepared(tmp_path / "s")
    assert prepared.index["patient"].tolist() == [0, 0, 1]
    assert prepared.index["labels_valid"].tolist() == [[1], [1], [0]]


def _publish_ptbxl(folder):
    """Two records in PTB-XL's layout, at 500 Hz only, with their checksums."""
    rows = ["ecg_id,patient_id,scp_codes,strat_fold,filename_lr,filename_hr"]
    for number in (1, 2):
        name = f"records500/00000/{number:05d}_hr"
        ecg = synthetic_record(number, rate=500.0).ecg
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        wfdb.wrsamp(
            f"{number:05d}_hr",
            fs=500,
            units=["mV"] * 12,
            sig_name=list(LEADS),
            p_signal=ecg.astype(np.float64),
            fmt=["16"] * 12,
            write_dir=str(folder / name.rpartition("/")[0]),
        )
        rows.append(f"{number},{number + 6}.0,{{'NORM': 100.0}},{number},,{name}")
    (folder / "ptbxl_database.csv").write_text("\n".join(rows) + "\n")
    (folder / "scp_statements.csv").write_text(
        ",description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\n"
        "NORM,normal ECG,1.0,,,NORM,NORM\n"
    )
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(folder)}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    (folder / "SHA256SUMS.txt").write_text("".join(sums))


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


def test_ptbxl_is_downloaded_and_prepared_at_a_rate_between(tmp_path):
    _publish_ptbxl(tmp_path / "published")
    handler = functools.partial(_QuietHandler, directory=tmp_path / "published")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        command = ["ptbxl", f"--source={tmp_path / 'raw'}", "--download", "--rate=250"]
        command += [f"--base-url=http://127.0.0.1:{server.server_port}"]
        message = _prepare(*command, f"--output={tmp_path / 's'}")
        server.shutdown()
        thread.join()
    assert message == ""
    prepared = open_prepared(tmp_path / "s")
    assert (prepared.rate, prepared.length, len(prepared)) == (250.0, 2500, 2)
    assert prepared.index["fold"].tolist() == [1, 2]
    assert prepared.index["patient"].tolist() == [0, 1]
    assert prepared.label_table["NORM"]["description"] == "normal ECG"


def test_a_mistaken_unit_is_explained_at_once(tmp_path):
    np.save(tmp_path / "x.npy", _ecgs(4) * 1000)
    command = ["array", f"--source={tmp_path / 'x.npy'}", "--layout=NTC", "--unit=mV"]
    command += ["--source-rate=100", f"--leads={','.join(LEADS)}"]
    message = _prepare(*command, f"--output={tmp_path / 's'}")
    assert "4 of 4 windows rejected" in message
    assert "are these microvolts?" in message
    assert not (tmp_path / "s").exists()
    assert (tmp_path / "s.quality.csv").exists()


ARRAY = ["array", "--source=x.npy", "--layout=NTC", "--source-rate=100", "--unit=mV"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wfdb", "--source=absent"], "holds no WFDB records"),
        (["ptbxl", "--source=absent"], "scp_statements.csv is missing"),
        (["manifest", "--source=absent.csv"], "cannot be read as a table"),
        (["array", "--source=absent.npy", "--layout=NTC"], "--source-rate, --unit"),
        (["synthetic", "--reject=typo"], "cannot reject 'typo'"),
        (["synthetic", "--seconds=-1"], "seconds must be positive, found -1"),
        (["synthetic", "--seconds=0.001"], "0.001 s holds no sample at 100 Hz"),
        (["synthetic", "--seconds=inf"], "seconds must be positive, found inf"),
        (["synthetic", "--rate=inf"], "rate must be positive, found inf"),
        (["synthetic", "--rate=1e9"], "rate must be at most 100000 Hz, found 1e+09"),
        (["synthetic", "--rate=5000"], "cannot sample synthetic records at 5000"),
        (["synthetic", "--scale=0.5"], "scale must be at most 0.1 mV, found 0.5"),
        (["synthetic", "--max-rejected=nan"], "must be a share, 0 to 1, found nan"),
        (["synthetic", "--min-leads=13"], "min_leads must be 0 to 12, found 13"),
        (["synthetic", "--workers=0"], "workers must be at least 1, found 0"),
        (["synthetic", "--num-records=-5"], "-5 synthetic records; expected 0"),
        (["synthetic", "--seed=-1"], "a seed of -1; expected 0 or more"),
        ([*ARRAY, "--leads=DI,DII,DIIII"], "'DIIII': no standard lead; did you mean"),
        (["synthetic", "--num-records=0"], "no records"),
    ],
)
def test_mistakes_end_in_one_clear_line(tmp_path, arguments, message):
    assert message in _prepare(*arguments, f"--output={tmp_path / 's'}")
    assert not (tmp_path / "s").exists()


def test_an_existing_set_needs_overwrite(tmp_path):
    command = ["synthetic", "--num-records=3", f"--output={tmp_path / 's'}"]
    assert _prepare(*command) == ""
    assert "pass --overwrite" in _prepare(*command)
    assert _prepare(*command, "--overwrite") == ""


def test_an_existing_set_is_noticed_before_anything_is_read(tmp_path):
    (tmp_path / "s").mkdir()
    command = ["wfdb", "--source=absent", f"--output={tmp_path / 's'}"]
    assert "pass --overwrite" in _prepare(*command)
    assert "no WFDB records" in _prepare(*command, "--overwrite")


@pytest.mark.parametrize("output", ["raw", "raw/../raw", ".", "raw/set", "link"])
def test_source_and_output_inside_each_other_are_refused(tmp_path, output):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "RECORDS").write_text("a\n")
    (tmp_path / "link").symlink_to(tmp_path / "raw")
    command = ["wfdb", f"--source={tmp_path / 'raw'}", "--overwrite"]
    message = _prepare(*command, f"--output={tmp_path / output}")
    assert "overlap; choose an output outside" in message
    found = sorted(path.name for path in tmp_path.rglob("*"))
    assert found == ["RECORDS", "link", "raw"]


@pytest.mark.parametrize("error", [PrepareError, PermissionError])
def test_failures_to_plan_for_end_in_one_line_and_mistakes_of_ours_do_not(
    tmp_path, monkeypatch, error
):
    def fail(*args, **kwargs):
        raise error("what happened")

    monkeypatch.setattr(prepare, "prepare_dataset", fail)
    command = ["synthetic", f"--output={tmp_path / 's'}"]
    assert _prepare(*command) == "prepare: what happened"
    error = ValueError
    with pytest.raises(ValueError):
        _prepare(*command)


def test_what_a_table_does_not_say_is_printed(tmp_path, capsys):
    np.save(tmp_path / "0.npy", _ecgs(1)[0])
    (tmp_path / "table.csv").write_text("path,age\n0.npy,50\n")
    command = ["manifest", f"--source={tmp_path / 'table.csv'}", "--unit=mV"]
    command += ["--source-rate=100", f"--leads={','.join(LEADS)}"]
    assert _prepare(*command, f"--output={tmp_path / 's'}") == ""
    printed = capsys.readouterr().out
    assert (
        "no column 'patient'" in printed and "attributes, as they are: age" in printed
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs an affinity mask")
def test_the_default_is_a_worker_for_each_core_that_may_be_used():
    args = prepare.make_parser().parse_args(["synthetic", "--output=s"])
    assert args.workers == len(os.sched_getaffinity(0))


def _children(pid):
    """Living children of a process: (pid, start time), which no other one shares."""
    found = []
    for child in filter(str.isdigit, os.listdir("/proc")):
        stat = _stat(child)
        if stat and stat[1] == str(pid):
            found.append((child, stat[19]))
    return found


def _stat(pid):
    """Fields of /proc/PID/stat from the state on, [] for a process that is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] in "ZX" else fields


def _lives(process):
    stat = _stat(process[0])
    return bool(stat) and stat[19] == process[1]


@pytest.mark.skipif(not os.path.exists("/proc"), reason="needs /proc")
def test_kill_9_leaves_nothing_that_opens_and_no_worker(tmp_path):
    output = tmp_path / "sets" / "s"
    command = [sys.executable, "-m", "ecgssl_jax.prepare", "synthetic"]
    command += ["--num-records=2000", "--workers=2", f"--output={output}"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    scratch = output.with_name(".s.incomplete")
    deadline = time.monotonic() + 60
    while not (scratch.exists() and len(list(scratch.iterdir())) > 1):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    children = _children(process.pid)
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    with pytest.raises(FileNotFoundError):
        open_prepared(output)
    while any(map(_lives, children)):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)
    command = ["synthetic", "--num-records=5", f"--output={output}"]
    assert _prepare(*command) == ""
    assert len(open_prepared(output)) == 5
    assert [path.name for path in output.parent.iterdir()] == ["s"]
