"""Packaging of ecgssl_jax: metadata, bounded versions, and optional extras."""

from setuptools import find_packages, setup

REQUIRED = [
    "absl-py>=2.1,<3",
    "array-record>=0.8,<0.9",
    "etils[epath]>=1.9,<2",
    # For programs of jax.export.
    "flatbuffers>=24.3,<26",
    "flax>=0.12,<0.13",
    "jax>=0.10,<0.12",
    "matplotlib>=3.9,<4",
    "ml-collections>=1.0,<2",
    "numpy>=2.0,<3",
    "optax>=0.2.5,<0.3",
    "orbax-checkpoint>=0.12,<0.13",
    "pillow>=10,<14",
    "pyarrow>=16,<27",
    "safetensors>=0.5,<1",
    # The map of embeddings in the report of an evaluation.
    "scikit-learn>=1.5,<2",
    "scipy>=1.13,<2",
    "sentencepiece>=0.2.1,<0.3",
    "tensorboardX>=2.6,<3",
    "tensorflow-datasets>=4.9.7,<5",
    "threadpoolctl>=3.1,<4",
    "tqdm>=4.66,<5",
    "wfdb>=4.1,<5",
    # TensorFlow only feeds the input pipeline; the accelerators are JAX's.
    "tensorflow-cpu>=2.18,<2.22; sys_platform != 'darwin'",
    "tensorflow>=2.18,<2.22; sys_platform == 'darwin'",
]

EXTRAS = {
    "cuda": ["jax[cuda13]>=0.10,<0.12"],
    # Also for plans, on machines without a TPU: it brings their compiler.
    "tpu": ["jax[tpu]>=0.10,<0.12"],
    "kubernetes": ["PyYAML>=6,<7"],
    "slurm": ["submitit>=1.5,<2"],
    # The counterparts that benchmarks/ measures against.
    "benchmarks": ["torch>=2.13,<2.14"],
    "test": [
        "PyYAML>=6,<7",
        "jax[tpu]>=0.10,<0.12",
        # The schemas of JobSet, as classes.
        "kubeflow-trainer-api>=2.1,<3",
        "pre-commit>=4,<5",
        # Brings its own Node.js, so that the type check needs nothing else.
        "pyright[nodejs]>=1.1.390,<2",
        "pytest>=8,<10",
        "pytest-xdist>=3.6,<4",
        "ruff>=0.17,<1",
        "submitit>=1.5,<2",
    ],
}

setup(
    name="ecgssl_jax",
    version="0.1.0",
    description="Self-supervised pre-training of ECG encoders in JAX",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["ecgssl_jax", "ecgssl_jax.*"]),
    package_data={
        "ecgssl_jax.evaluation": ["*.json"],
        "ecgssl_jax.evaluation.html_report": ["*.css", "*.js"],
    },
    install_requires=REQUIRED,
    extras_require=EXTRAS,
)
