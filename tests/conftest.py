"""Four virtual CPU devices for every test, set up before JAX is imported."""

import atexit
import gc
import os
import shutil
import signal
import tempfile

import pytest

DEVICES = 4

# A shell lets what it runs in the background ignore Ctrl-C, which tests send themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)
# XLA's CPU client runs devices and dispatch on one thread pool; with fewer than two threads a
# device, queued collectives wait for each other for ever (openxla DefaultThreadPoolSize).
os.environ.setdefault("PJRT_NPROC", str(2 * DEVICES))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_flag = "--xla_force_host_platform_device_count"
if _flag not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}={DEVICES}"
# XLA's threads and OpenBLAS's would wait for one another (see nc_jax/main.py).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Tests and the processes they start compile the same programs: once is enough.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache = tempfile.mkdtemp(prefix="nc_jax_cache_")
  atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
  """A suite that kept every compiled program to its end was seen to die of a segmentation fault
  within XLA, late, while it compiled one more."""
  yield
  import jax

  jax.clear_caches()
  gc.collect()
