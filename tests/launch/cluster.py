"""A SLURM cluster of two nodes on this machine, from Debian's packages, for tests."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NODES = 2
_PACKAGES = ("slurm-wlm", "munge")
# Every node is this host, told apart by its port. Requeued jobs start again once their
# credential has expired, for which the default is two minutes.
_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=26817
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=10
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
KillWait=30
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=t[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[27001-{last}] CPUs={cores} State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class UnavailableError(Exception):
    """There is no cluster to be had here, and why."""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Path]:
    """Starts a cluster in the folder, and ends it; gives its slurm.conf.

    Raises:
      UnavailableError: no root, no packages, or nodes that do not come up.
    """
    if os.getuid() != 0:
        raise UnavailableError("SLURM's daemons need root")
    _install()
    try:
        _munge()
        _name_nodes()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UnavailableError(f"the machine does not let it: {error}") from error
    (folder / "state").mkdir(parents=True)
    config = folder / "slurm.conf"
    config.write_text(
        _CONFIG.format(
            folder=folder,
            host="localhost",
            nodes=NODES,
            last=27000 + NODES,
            cores=os.cpu_count(),
        )
    )
    daemons = [["slurmctld", "-D", "-c", "-f", str(config)]]
    daemons += [
        ["slurmd", "-D", "-f", str(config), "-N", f"t{node}"]
        for node in range(1, NODES + 1)
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(words, **quiet) for words in daemons]  # type: ignore[call-overload]
    try:
        _wait_for_nodes(config)
        yield config
    finally:
        for daemon in reversed(started):
            daemon.terminate()
        for daemon in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=10)
            daemon.kill()


def _install() -> None:
    if shutil.which("slurmctld") and shutil.which("munged"):
        return
    if not shutil.which("apt-get"):
        raise UnavailableError("SLURM is not installed")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", *_PACKAGES]):
        try:
            found = subprocess.run(
                ["apt-get", "-qq", *words],
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnavailableError("SLURM cannot be installed in time") from error
        if found.returncode and words[0] == "install":
            last = found.stderr.strip().splitlines()[-1:]
            raise UnavailableError(f"SLURM cannot be installed: {last}")


def _munge() -> None:
    """Its daemon, which signs what SLURM's say to each other."""
    if (
        subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode
        == 0
    ):
        return
    Path("/run/munge").mkdir(exist_ok=True)
    if not Path("/etc/munge/munge.key").exists():
        subprocess.run(["mungekey", "--create"], check=True)
    folders = ["/run/munge", "/etc/munge", "/var/log/munge", "/var/lib/munge"]
    subprocess.run(["chown", "-R", "munge:munge", *folders], check=True)
    subprocess.run(["su", "-s", "/bin/sh", "munge", "-c", "munged"], check=True)


def _name_nodes() -> None:
    """JAX looks the first node up by its name."""
    hosts = Path("/etc/hosts")
    known = hosts.read_text().split()
    missing = [f"t{node}" for node in range(1, NODES + 1) if f"t{node}" not in known]
    if missing:
        with hosts.open("a") as file:
            file.writelines(f"127.0.0.1 {name}\n" for name in missing)


def _wait_for_nodes(config: Path) -> None:
    environment = {**os.environ, "SLURM_CONF": str(config)}
    for _ in range(60):
        found = subprocess.run(
            ["sinfo", "-h", "-t", "idle", "-o", "%D"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if found.stdout.strip() == str(NODES):
            return
        time.sleep(0.5)
    raise UnavailableError(f"the nodes did not come up; {config.parent} has their logs")
