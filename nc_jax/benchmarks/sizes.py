"""The sizes of the benchmark, and how much memory they take."""

from typing import NamedTuple

from nc_jax.benchmarks import machine
from nc_jax.errors import UserError


class Size(NamedTuple):
  """N examples of D features in K classes."""

  name: str
  n: int
  d: int
  k: int

  def __str__(self):
    return f"{self.name}: N {self.n:,}, D {self.d:,}, K {self.k:,}"

  def feature_bytes(self, itemsize: int = 4) -> int:
    return self.n * self.d * itemsize

  def state_bytes(self) -> int:
    """What moments of this size take: reference and mean [K, D], scatter [D, D]."""
    return 4 * (2 * self.k * self.d + self.d**2)


SIZES = {
  size.name: size
  for size in (
    Size("S1", 50_000, 512, 10),
    Size("S2", 50_000, 512, 100),
    Size("S3", 100_000, 2048, 1000),
    Size("S4", 200_000, 768, 30_000),
    Size("S5", 1_797, 64, 10),
  )
}


def choose(names: str | None, n: int | None, d: int | None, k: int | None) -> list[Size]:
  """The sizes asked for; all of SIZES if nothing is. Raises UserError for what is unknown."""
  sizes = []
  for name in names.split(",") if names is not None else ():
    if name not in SIZES:
      raise UserError(f"--sizes={names}: no size {name!r}; known are {', '.join(SIZES)}.")
    sizes.append(SIZES[name])
  own = {"--n": n, "--d": d, "--k": k}
  missing = [flag for flag, value in own.items() if value is None]
  if not missing:
    for flag, value, least in (("--n", n, 2), ("--d", d, 1), ("--k", k, 2)):
      if value < least:
        raise UserError(f"{flag}={value}: must be at least {least}.")
    sizes.append(Size("own", n, d, k))
  elif len(missing) < len(own):
    raise UserError(f"--n, --d and --k go together; {' and '.join(missing)} missing.")
  return sizes or list(SIZES.values())


def check_devices(sizes: list[Size], count: int):
  """Raises UserError if a size has not an example for each device."""
  for size in sizes:
    if size.n < count:
      raise UserError(f"{size}: fewer examples than the {count} devices.")


def too_large(size: Size, devices: list) -> str | None:
  """Why a size will not fit; None if it will, or if nobody knows."""
  features, state = size.feature_bytes(), size.state_bytes()
  # NumPy's two passes hold the features, their means, their residuals, and JAX its own copy.
  needs = [(4 * features + 6 * state, machine.free_memory(), "host")]
  share = features // len(devices)
  needs += [(2 * share + 6 * state, machine.free_device_memory(d), str(d)) for d in devices]
  for need, free, where in needs:
    if free is not None and need > free:
      return f"needs about {need / 1e9:.1f} GB on {where}, where {free / 1e9:.1f} GB are free."
  return None
