"""Picture codecs at the drawn weights of `recorded/make_image.py`."""

import dataclasses
import functools
import json
import pathlib
import re

import jax
import numpy as np
from drawn_weights import draw
from random_params import draw_params

from jaxcodec.hub import compressai
from jaxcodec.hub.checkpoint import Tensors
from jaxcodec.image.channelwise import ChannelWise
from jaxcodec.image.checkerboard import Checkerboard
from jaxcodec.image.elic import Elic
from jaxcodec.image.latent_codec import LatentCodec, latent_codec
from jaxcodec.image.mlic import mlic_v2

PATH = pathlib.Path(__file__).parent / "recorded" / "image.npz"
RECORDED = dict(np.load(PATH))


def read(case: str):
  """Module and parameters of a case."""
  if case == "mlic":
    return drawn_mlic()
  if case == "groups":
    return drawn_groups()
  arrays = draw(json.loads(str(RECORDED[f"{case}/weights"])))
  if case not in ("channelwise", "checkerboard"):  # CompressAI has no files of these two.
    return compressai.read_compressai(Tensors(PATH, arrays), arrays)
  module = Checkerboard(filters=8, latents=12)
  if case == "channelwise":
    module = ChannelWise(filters=8, latents=12, slices=3, max_support=2, widths=(10, 9))
    arrays = {re.sub(r"^(means|scales|residuals)\.", r"\1_", name): x for name, x in arrays.items()}
  tensors = Tensors(PATH, arrays)
  for name in arrays:
    if compressai.is_buffer(name):
      tensors.ignore(name)
  return module, compressai.read_params(module, tensors)


def drawn_mlic():
  """MLICv2 at weights that nobody recorded: latents of deviation 4, scales and means about fitting,
  of each slice one channel that is left out."""
  module = mlic_v2(filters=8, latents=16, slices=2)
  params = draw_params(module, np.zeros((1, 64, 64, 3), np.float32))
  params = jax.tree.map(np.array, params)
  params["g_a"]["layers_8"]["kernel"] *= 0.6
  params["entropy_bottleneck"] = read("mean_scale")[1]["entropy_bottleneck"]
  for name, own in params.items():
    if name.startswith("entropy_parameters"):
      own["layers_6"]["kernel"] *= 0.1
      own["layers_6"]["bias"][:8] = [-0.2, 4, 4, 4, 4, 4, 4, 4]
  return module, params


def drawn_groups():
  """ELIC's contexts over the joint model's transforms, at weights that nobody recorded."""
  module = Elic(filters=8, latents=12, groups=(2, 4, 6), transform="gdn", widths=(10, 9))
  params = jax.tree.map(np.array, draw_params(module, np.zeros((1, 64, 64, 3), np.float32)))
  of_joint, entropy_bottleneck = (read(case)[1] for case in ("autoregressive", "mean_scale"))
  for name in ("g_a", "g_s"):
    params[name] = of_joint[name]
  params["entropy_bottleneck"] = entropy_bottleneck["entropy_bottleneck"]
  return module, params


@functools.cache
def codec(case: str) -> LatentCodec:
  return latent_codec(*read(case), name=case)


@functools.cache
def fitting(case: str) -> LatentCodec:
  """`codec(case)`, with scales about as wide as its latents are: what the tables hold then costs
  what its likelihood says, which is not so far out in a tail."""
  found = codec(case)
  of_groups = ("entropy_parameters_", 8)
  wider = {
    "scale": ("h_s", 4),
    "channelwise": ("scales_", 30),
    "elic": of_groups,
    "groups": of_groups,
  }
  if case not in wider:
    return found
  start, more = wider[case]
  params = dict(found.params)
  for name, own in found.params.items():
    if name.startswith(start):
      bias = np.array(own["layers_4"]["bias"])
      bias[: len(bias) // 2 if start == of_groups[0] else len(bias)] += more
      params[name] = own | {"layers_4": own["layers_4"] | {"bias": bias}}
  return dataclasses.replace(found, params=params)


LEVELS = 3
LOGS = (np.linspace([-1.0] * 12, [2.0] * 12, LEVELS) + np.arange(12) / 50).astype(np.float32)


@functools.cache
def many_rates() -> LatentCodec:
  """The checkerboard codec with gains for three qualities."""
  one = codec("checkerboard")
  gains = {"gains": {"logarithms": LOGS}, "inverse_gains": {"logarithms": -LOGS}}
  module = one.module.clone(levels=LEVELS)
  return dataclasses.replace(one, module=module, params=one.params | gains, name="many-rates")
