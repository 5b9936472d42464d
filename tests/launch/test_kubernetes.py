"""Manifests against JobSet's schema, and what makes them."""

import subprocess

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from launch import kubernetes, parse

REST = ["--", "--config=configs/jepa.py:ptbxl", "--workdir=/data/runs/jepa"]
GPUS = [
    "--nodes=2",
    "--gpus-per-node=8",
    "--volume=ecgs:/data",
    "--cpus=16",
    "--mem=64Gi",
]
TPUS = ["--tpu=v5e:4x4", "--queue=team", "--namespace=ecg", "--service-account=trainer"]


def made(*flags):
    words, rest = [*flags, "--image=registry/ecgssl:1"], REST[1:]
    args, _ = parse(kubernetes.make_parser(), [*words, "--", *rest])
    return kubernetes.manifest(args, rest)


def pod_of(manifest):
    (job,) = manifest["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("flags", [[], GPUS, TPUS, ["--env=A=b=c", "--requeues=3"]])
def test_manifests_are_what_the_schema_says(flags):
    """Types are checked, and what the schema does not know is lost on the way."""
    found = made(*flags)
    assert JobsetV1alpha2JobSet.from_dict(found).to_dict() == found


def test_a_key_that_the_schema_does_not_know_would_be_found():
    wrong = made(*GPUS)
    pod_of(wrong)["containers"][0]["comand"] = ["python"]
    assert JobsetV1alpha2JobSet.from_dict(wrong).to_dict() != wrong
    wrong = made(*GPUS)
    wrong["spec"]["failurePolicy"]["maxRestarts"] = "many"
    with pytest.raises(ValueError, match="maxRestarts"):
        JobsetV1alpha2JobSet.from_dict(wrong)


def test_pods_with_gpus_know_each_other():
    found = made(*GPUS)
    (job,) = found["spec"]["replicatedJobs"]
    assert job["template"]["spec"]["parallelism"] == 2
    assert job["template"]["spec"]["completions"] == 2
    container = pod_of(found)["containers"][0]
    assert container["command"] == [
        *["python", "-m", "ecgssl_jax.main", *REST[1:]],
        "--coordinator=ecgssl-jax-workers-0-0.ecgssl-jax:8476",
        "--num_processes=2",
        "--process_id=$(PROCESS_ID)",
    ]
    limits = container["resources"]["limits"]
    assert limits == {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "8"}
    assert {x["mountPath"] for x in container["volumeMounts"]} == {"/data", "/dev/shm"}


def test_one_pod_needs_nobody():
    command = pod_of(made())["containers"][0]["command"]
    assert not [word for word in command if word.startswith("--coordinator")]


@pytest.mark.parametrize(
    ("tpu", "hosts", "accelerator"),
    [
        ("v5e:1x1", 1, "tpu-v5-lite-podslice"),
        ("v5e:4x4", 4, "tpu-v5-lite-podslice"),
        ("v4:2x2x2", 2, "tpu-v4-podslice"),
        ("v5p:4x4x4", 16, "tpu-v5p-slice"),
        ("v6e:16x16", 64, "tpu-v6e-slice"),
    ],
)
def test_a_slice_has_a_pod_for_each_of_its_nodes(tpu, hosts, accelerator):
    found = made(f"--tpu={tpu}")
    (job,) = found["spec"]["replicatedJobs"]
    assert job["template"]["spec"]["parallelism"] == hosts
    pod = pod_of(found)
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": tpu.split(":")[1],
    }
    container = pod["containers"][0]
    chips = "1" if tpu == "v5e:1x1" else "4"
    assert container["resources"]["limits"]["google.com/tpu"] == chips
    assert container["command"][-1] == "--coordinator=auto"


def test_what_is_wrong_ends_it_and_all_else_starts_anew():
    spec = made("--requeues=7")["spec"]
    assert spec["failurePolicy"]["maxRestarts"] == 7
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] == "FailJobSet"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (failure,) = job["podFailurePolicy"]["rules"]
    assert failure["onExitCodes"] == {"operator": "In", "values": [1, 2]}
    assert job["backoffLimit"] == 0


def test_it_is_printed_or_handed_to_kubectl(capsys, monkeypatch):
    words = ["--image=a/b:1", *GPUS]
    kubernetes.main([*words, "--dry-run", *REST])
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["kind"] == "JobSet"
    given = []

    def run(command, input, text, check):
        given.append((command, input))
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(kubernetes.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(kubernetes.subprocess, "run", run)
    with pytest.raises(SystemExit) as ended:
        kubernetes.main([*words, *REST])
    assert ended.value.code == 3
    assert given == [(["kubectl", "create", "-f", "-"], printed)]


def test_without_a_volume_it_is_said_that_nothing_stays(capsys):
    kubernetes.main(["--image=a/b:1", "--dry-run", *REST])
    assert "what the pods write is lost with them" in capsys.readouterr().err


def test_nothing_of_what_is_given_is_expanded():
    words = ["--image=a/b:1", "--env=A=$(B)", "--", "--workdir=/data/$(PROCESS_ID)$$"]
    container = pod_of(kubernetes.manifest(*parse(kubernetes.make_parser(), words)))
    (main,) = container["containers"]
    assert main["command"][3] == "--workdir=/data/$$(PROCESS_ID)$$$$"
    assert {"name": "A", "value": "$$(B)"} in main["env"]


def test_pods_say_which_devices_the_job_asked_for():
    for flags, platform in ((GPUS, "gpu"), (TPUS, "tpu")):
        (main,) = pod_of(made(*flags))["containers"]
        assert {"name": "ECGSSL_JAX_PLATFORM", "value": platform} in main["env"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tpu=v5e:4x4", "--nodes=2"], "--tpu is a slice"),
        (["--tpu=v9:4x4"], "expected one of v4, v5e, v5p, v6e"),
        (["--volume=ecgs"], "expected CLAIM:/PATH"),
        (["--env=A"], "--env=A: expected KEY=VALUE"),
        (["--env=9 A=1"], "expected letters, digits and '_'"),
        (["--name=My_Job"], "expected small letters"),
        (["--namespace=a b"], "--namespace=a b: expected small letters"),
        (["--cpus=abc"], "--cpus=abc: expected a number and a unit"),
    ],
)
def test_settings_that_cannot_be_are_named(flags, message):
    with pytest.raises(SystemExit, match=message):
        made(*flags)


def test_without_kubectl_and_without_a_command(monkeypatch, capsys):
    monkeypatch.setattr(kubernetes.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="--dry-run prints the manifest"):
        kubernetes.main(["--image=a/b:1", *REST])
    with pytest.raises(SystemExit):
        kubernetes.main(["--image=a/b:1"])
    assert "two dashes" in capsys.readouterr().err
