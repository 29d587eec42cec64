"""Weights of CompressAI's picture codecs, drawn the same under any version of NumPy."""

import math

import numpy as np

# What a state dict holds beside weights.
BUFFERS = (
  *("pedestal", "bound", "target", "mask", "scale_table", "scale_bound"),
  *("_offset", "_quantized_cdf", "_cdf_length"),
)


def is_buffer(name: str) -> bool:
  return name.split(".")[-1] in BUFFERS


def draw(names_and_shapes: dict[str, list[int]], seed: int = 0) -> dict[str, np.ndarray]:
  """An array for each name, about as large as trained ones are; zeros for buffers."""
  words = np.random.PCG64(seed)
  arrays = {}
  for name, shape in names_and_shapes.items():
    if is_buffer(name):
      arrays[name] = np.zeros(shape, np.float32)
      continue
    raw = words.random_raw(math.prod(shape)) >> np.uint64(40)
    u = raw.astype(np.float64).reshape(shape) / 2**23 - 1  # In [-1, 1).
    arrays[name] = _of_size(name, u).astype(np.float32)
  return arrays


def _of_size(name: str, u: np.ndarray) -> np.ndarray:
  if name.endswith(".beta"):
    return 1 + 0.3 * u
  if name.endswith(".gamma"):
    return 0.15 * (1 + u)
  if name.endswith("quantiles"):
    return np.array([-10, 0, 10]) + 0.4 * u
  if ".matrices." in name:
    return math.log(math.expm1(10**-0.2 / u.shape[1])) + 0.3 * u
  if ".biases." in name or ".factors." in name:
    return 0.4 * u
  if name.endswith("bias"):
    # Scales, the first half of the parameters, as wide as the latents: else most of these would
    # lie so far out that their likelihoods have no digits in common between two float32 programs.
    last = name.endswith(("h_s.4.bias", "entropy_parameters.4.bias"))
    return 0.2 * u + 4 * last * (np.arange(len(u)) < len(u) / 2)
  gain = {"g_a": 1.5, "g_s": 0.6, "entropy_parameters": 0.7}.get(name.split(".")[0], 1.2)
  if name == "g_a.6.weight":
    gain = 4.0
  if name.split(".")[-2] in ("conv2", "conv3") or ".conv.4." in name:
    gain = 0.3  # What is added to an identity.
  return gain * u * math.sqrt(3 / math.prod(u.shape[1:]))


def draw_mlic(names_and_shapes: dict[str, list[int]], seed: int = 0) -> dict[str, np.ndarray]:
  """An array for each name of an MLIC++ state dict, such that latents keep their size."""
  words = np.random.PCG64(seed)
  arrays = {}
  for name, shape in names_and_shapes.items():
    raw = words.random_raw(math.prod(shape)) >> np.uint64(40)
    u = raw.astype(np.float64).reshape(shape) / 2**23 - 1  # In [-1, 1).
    last = name.endswith("fusion.6.bias")
    if last:  # Scales, the first half of the parameters, as wide as the latents.
      u = 0.2 * u + 3 * (np.arange(len(u)) < len(u) / 2)
    elif ".norm" in name and name.endswith("weight"):
      u = 1 + 0.2 * u
    elif name.endswith("relative_position_table"):
      u = 0.5 * u
    elif name.endswith(("lrp_transform.4.weight", "fusion.6.weight")):
      u = 0.5 * u * math.sqrt(3 / math.prod(shape[1:]))
    elif name == "g_a.analysis_transform.6.weight":
      u = 4 * u * math.sqrt(3 / math.prod(shape[1:]))
    elif len(shape) == 4 and not name.startswith(("g_a", "g_s")):
      u = 1.4 * u * math.sqrt(3 / math.prod(shape[1:]))
    elif len(shape) == 4:
      gain = 0.5 if name.startswith("g_s") else 1.0
      u = gain * u * math.sqrt(3 / math.prod(shape[1:]))
    else:
      arrays[name] = _of_size(name, u).astype(np.float32)
      continue
    arrays[name] = u.astype(np.float32)
  return arrays


def draw_sound(names_and_shapes: dict[str, list[int]], seed: int = 0) -> dict[str, np.ndarray]:
  """An array for each name of a sound codec's state dict, such that signals keep their size."""
  words = np.random.PCG64(seed)
  arrays = {}
  for name, shape in names_and_shapes.items():
    raw = words.random_raw(max(1, math.prod(shape))) >> np.uint64(40)
    u = raw.astype(np.float64).reshape(shape) / 2**23 - 1  # In [-1, 1).
    arrays[name] = _sound_of_size(name.split(".")[-1], u).astype(np.float32)
  return arrays


def _sound_of_size(name: str, u: np.ndarray) -> np.ndarray:
  if name in ("weight_g", "gamma"):
    return 0.8 + 0.2 * u
  if name.startswith("bias") or name == "shift":
    return 0.03 * u
  if u.ndim < 2 or name == "scale":
    return 1 + 0.2 * u
  return u * math.sqrt(3 / math.prod(u.shape[1:]))


def draw_lmu(
  names_and_shapes: dict[str, list[int]], seed: int, gain: float
) -> dict[str, np.ndarray]:
  """An array for each name of an LMUFormer's state dict; `gain` is of its matrices."""
  words = np.random.PCG64(seed)
  arrays = {}
  for name, shape in names_and_shapes.items():
    raw = words.random_raw(max(1, math.prod(shape))) >> np.uint64(40)
    u = raw.astype(np.float64).reshape(shape) / 2**23 - 1  # In [-1, 1).
    last = name.split(".")[-1]
    if last == "num_batches_tracked":
      arrays[name] = np.zeros(shape, np.int64)
      continue
    if last == "running_var":
      u = 0.6 + 0.4 * u
    elif last == "weight" and len(shape) == 1:
      u = 1.2 + 0.3 * u
    elif len(shape) > 1:
      u = gain * u * math.sqrt(3 / math.prod(shape[1:]))
    else:
      u = 0.2 * u
    arrays[name] = u.astype(np.float32)
  return arrays


def draw_signal(seed: int, *shape: int) -> np.ndarray:
  """Noise within [-0.5, 0.5)."""
  raw = np.random.PCG64(seed).random_raw(math.prod(shape)) >> np.uint64(40)
  return (raw.astype(np.float64).reshape(shape) / 2**24 - 0.5).astype(np.float32)
