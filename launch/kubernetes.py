"""A job on a Kubernetes cluster, on nodes with GPUs or on a slice of TPUs, as a JobSet.

    python -m launch.kubernetes --image=registry/ecgssl:1 --nodes=2 --gpus-per-node=8 \\
        --volume=ecgs:/data -- --config=configs/jepa.py:ptbxl,root=/data --workdir=/data/runs/jepa
    python -m launch.kubernetes --image=registry/ecgssl:1 --tpu=v5e:4x4 --volume=ecgs:/data \\
        --dry-run -- --config=configs/jepa.py:ptbxl,root=/data --workdir=/data/runs/jepa

Hands the manifest to `kubectl create`; --dry-run prints it. The cluster needs JobSet. What
follows the two dashes goes to `python -m ecgssl_jax.main` in every pod alike. Workdir and data
must lie on a volume that all pods see.

A pod that is evicted gets SIGTERM and `--notice` seconds in which all processes save. Then, and
where a pod is lost, all are started anew, at most `--requeues` times, and continue from the
checkpoint. What is wrong with config or data ends the job for good.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ecgssl_jax.launched import PLATFORM
from ecgssl_jax.planning import slices
from launch import not_negative, pairs, parse, positive

_PROGRAM = "launch.kubernetes"
_PORT = 8476
_PODS = "workers"  # the replicated job
_CHIPS = 4  # of a node of a slice, at most
# Exit codes of an error with a message, and of a wrong command line.
_FOR_GOOD = [1, 2]
# Names of GKE's node pools.
TPUS: Mapping[str, str] = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}


def make_parser() -> argparse.ArgumentParser:
    """The command line before the two dashes."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.kubernetes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--image", required=True, help="with this package installed")
    add("--name", default="ecgssl-jax", help="of the job")
    add("--namespace")
    add("--nodes", type=positive, help="with GPUs, or without; default 1")
    add("--gpus-per-node", type=positive, help="default: none")
    add("--tpu", help="a slice, such as v5e:4x4 or v5p:2x2x4, in the place of nodes")
    add("--cpus", help="of a pod, such as 16")
    add("--mem", help="of a pod, such as 64Gi")
    add("--volume", action="append", default=[], metavar="CLAIM:PATH")
    add("--env", action="append", default=[], metavar="KEY=VALUE")
    add("--service-account")
    add("--queue", help="of Kueue")
    add("--notice", type=positive, default=300, help="seconds to save in; default 300")
    add("--requeues", type=not_negative, default=100, help="how often to start anew")
    return parser


def manifest(args: argparse.Namespace, rest: Sequence[str]) -> dict[str, Any]:
    """The JobSet, jobset.x-k8s.io/v1alpha2.

    Raises:
      SystemExit: settings that contradict each other, or are none.
    """
    for flag, value in (("name", args.name), ("namespace", args.namespace)):
        if value is not None and not re.fullmatch(
            r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?", value
        ):
            raise _wrong(f"--{flag}={value}: expected small letters, digits and '-'")
    for flag, value in (("cpus", args.cpus), ("mem", args.mem)):
        if value and not re.fullmatch(r"\d+(\.\d+)?(m|[kMGTP]|[KMGTP]i)?", value):
            raise _wrong(
                f"--{flag}={value}: expected a number and a unit, as 16 or 64Gi"
            )
    if args.tpu and (args.nodes or args.gpus_per_node):
        raise _wrong("--tpu is a slice; --nodes and --gpus-per-node are for GPUs")
    if not args.image:
        raise _wrong("--image= is empty")
    pods = -(-_chips(args.tpu) // _CHIPS) if args.tpu else args.nodes or 1
    metadata: dict[str, Any] = {"name": args.name}
    if args.namespace:
        metadata["namespace"] = args.namespace
    if args.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": args.queue}
    if args.tpu:
        # The pods of a slice onto the nodes of one slice.
        key = "alpha.jobset.sigs.k8s.io/exclusive-topology"
        metadata["annotations"] = {key: "cloud.google.com/gke-nodepool"}
    failure = {
        "action": "FailJob",
        "onExitCodes": {"operator": "In", "values": _FOR_GOOD},
    }
    job = {
        "parallelism": pods,
        "completions": pods,
        "completionMode": "Indexed",
        # A pod that fails ends the others; all begin anew together.
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [failure]},
        "template": {"spec": _pod(args, rest, pods)},
    }
    rule = {
        "name": "notToBeMended",
        "action": "FailJobSet",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": args.requeues, "rules": [rule]},
            "replicatedJobs": [
                {"name": _PODS, "replicas": 1, "template": {"spec": job}},
            ],
        },
    }


def _pod(args: argparse.Namespace, rest: Sequence[str], pods: int) -> dict[str, Any]:
    words = ["python", "-m", args.module, *map(_literal, rest)]
    if args.tpu:
        words.append("--coordinator=auto")  # GKE tells them
    elif pods > 1:
        # The first pod's name, by JobSet's rules.
        host = f"{args.name}-{_PODS}-0-0.{args.name}"
        words += [f"--coordinator={host}:{_PORT}", f"--num_processes={pods}"]
        words.append("--process_id=$(PROCESS_ID)")
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    number = {"fieldRef": {"fieldPath": index}}
    environment = {"PYTHONUNBUFFERED": "1"}
    if args.tpu or args.gpus_per_node:
        environment[PLATFORM] = "tpu" if args.tpu else "gpu"
    environment |= pairs(args.env, "--env", _PROGRAM)
    if "PROCESS_ID" in environment:
        raise _wrong("--env=PROCESS_ID=...: each pod has a number of its own")
    for key in environment:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise _wrong(
                f"--env={key}=...: expected letters, digits and '_' as its name"
            )
    volumes, mounts = _volumes(args)
    resources = _resources(args)
    container: dict[str, Any] = {
        "name": "main",
        "image": args.image,
        # No shell, so that SIGTERM reaches the program.
        "command": words,
        "env": [
            {"name": "PROCESS_ID", "valueFrom": number},
            *(
                {"name": key, "value": _literal(value)}
                for key, value in environment.items()
            ),
        ],
        "ports": [{"containerPort": _PORT, "protocol": "TCP"}],
    }
    if resources:
        container["resources"] = {"requests": resources, "limits": {**resources}}
    if mounts:
        container["volumeMounts"] = mounts
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": args.notice,
        "containers": [container],
    }
    if volumes:
        pod["volumes"] = volumes
    if args.service_account:
        pod["serviceAccountName"] = args.service_account
    if args.tpu:
        kind, _, topology = args.tpu.partition(":")
        pod["nodeSelector"] = {
            "cloud.google.com/gke-tpu-accelerator": TPUS[kind],
            "cloud.google.com/gke-tpu-topology": topology,
        }
    return pod


def _literal(text: str) -> str:
    """The text, escaped: Kubernetes would replace $(NAME) by a variable."""
    return text.replace("$", "$$")


def _resources(args: argparse.Namespace) -> dict[str, str]:
    found = {"cpu": args.cpus, "memory": args.mem}
    if args.tpu:
        found["google.com/tpu"] = str(min(_CHIPS, _chips(args.tpu)))
    elif args.gpus_per_node:
        found["nvidia.com/gpu"] = str(args.gpus_per_node)
    return {name: value for name, value in found.items() if value}


def _volumes(args: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """-> volumes of the pod, and where they are mounted."""
    volumes, mounts = [], []
    for number, value in enumerate(args.volume):
        claim, colon, path = value.partition(":")
        if not claim or not colon or not path.startswith("/"):
            raise _wrong(f"--volume={value}: expected CLAIM:/PATH")
        name = f"volume-{number}"
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": name, "mountPath": path})
    if args.gpus_per_node:
        # GPUs of a node exchange by shared memory, of which pods have 64 MB.
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})
    return volumes, mounts


def _chips(name: str) -> int:
    """Of a slice."""
    chips = slices.chips(name)
    if chips is None:
        raise _wrong(
            f"--tpu={name}: expected one of {', '.join(TPUS)} and a topology of it, such "
            "as v5e:4x4 or v5p:2x2x4"
        )
    return chips


def _wrong(message: str) -> SystemExit:
    return SystemExit(f"{_PROGRAM}: {message}")


def main(argv: Sequence[str] | None = None) -> None:
    """Creates the job, or prints its manifest."""
    args, rest = parse(make_parser(), argv)
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise _wrong(
            "needs PyYAML: pip install -c constraints.txt -e '.[kubernetes]'"
        ) from error
    text = yaml.safe_dump(manifest(args, rest), sort_keys=False)
    if not args.volume:
        print(
            f"{_PROGRAM}: no --volume: what the pods write is lost with them",
            file=sys.stderr,
        )
    if args.dry_run:
        print(text, end="")
        return
    if shutil.which("kubectl") is None:
        raise _wrong("kubectl is not there; --dry-run prints the manifest for it")
    # Not `apply`, which leaves a job of the same name that has ended as it is.
    command = ["kubectl", "create", "-f", "-"]
    done = subprocess.run(command, input=text, text=True, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
