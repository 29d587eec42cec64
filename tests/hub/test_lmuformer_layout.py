"""LMUFormer from files as its authors publish them, compared with what their program gave."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest
from drawn_weights import draw_lmu, draw_signal
from written_archive import Archive

import jaxcodec
from jaxcodec.hub.classifier import load_classifier

# Seeds of the weights, and their size: neurons need more to fire.
KINDS = {"plain": (1, 1.0), "spiking": (3, 1.5)}
EVERY = pytest.mark.parametrize("kind", KINDS)


def recorded(name):
  with np.load(pathlib.Path(__file__).parents[1] / "recorded" / "lmuformer.npz") as file:
    return file[name]


@functools.cache
def state_dict(kind):
  """With the constants that a checkpoint holds, of its own shapes."""
  drawn = draw_lmu(json.loads(str(recorded(f"{kind}/shapes"))), *KINDS[kind])
  drawn["block.0.attn.lmu.A"] = recorded(f"{kind}/A")
  return {f"module.{name}": array for name, array in drawn.items()}


def write(path, kind, less=(), **more):
  arrays = {name: array for name, array in state_dict(kind).items() if name not in less}
  # Only shapes matter, and the archive's writer knows float32 alone.
  Archive().write(path, {k: v.astype(np.float32) for k, v in (arrays | more).items()})
  return path


def error_of(path):
  with pytest.raises(jaxcodec.CodecError) as caught:
    load_classifier(path)
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  return message


@EVERY
def test_logits_are_those_of_the_authors_program(kind, tmp_path):
  found = load_classifier(write(tmp_path / "best_model.pth", kind))
  config = found.module.config
  assert (config.classes, config.width, config.theta) == (5, 16, 128)
  assert (config.memory, config.spiking) == ((32, True) if kind == "spiking" else (16, False))
  assert found.names == tuple("01234")
  mel = 4 * draw_signal(KINDS[kind][0] + 1, 2, 128, 12)

  @jax.jit
  def run(params, mel):
    apply = functools.partial(found.module.apply, {"params": params})
    each, _ = apply(mel)
    parts, state = [], None
    for start, stop in ((0, 40), (40, 88), (88, 128)):
      part, state = apply(mel[:, start:stop], state, stop == 128)
      parts.append(part)
    return each, apply(mel, method="whole"), parts

  each, whole, parts = run(found.params, mel)
  np.testing.assert_allclose(whole, recorded(f"{kind}/whole"), atol=1e-4)
  np.testing.assert_allclose(each, recorded(f"{kind}/each"), atol=1e-4)
  assert [part.shape[1] for part in parts] == [35, 48, 45]
  np.testing.assert_allclose(np.concatenate(parts, axis=1), each, atol=1e-4)
  assert np.std(whole, axis=0).max() > 0.01


@pytest.mark.parametrize(
  ("kind", "name"),
  [
    ("plain", "block.0.attn.lmu.W_h.weight"),
    ("plain", "block.0.attn.lmu.H"),
    ("plain", "patch_embed.conv_layers.2.3.running_var"),
    ("plain", "head.weight"),
    ("spiking", "block.0.attn.lmu.bn_m.bias"),
    ("spiking", "patch_embed.proj_bn3.running_mean"),
  ],
)
def test_a_weight_that_is_missing_is_named(tmp_path, kind, name):
  path = write(tmp_path / "model.pth", kind, less=(f"module.{name}",))
  assert error_of(path).endswith(f"lacks the weight {name}")


def test_another_file_is_refused_in_a_line(tmp_path):
  path = write(tmp_path / "model.pth", "plain", **{"module.block.0.extra": np.zeros(1)})
  assert "block.0.extra" in error_of(path)
  assert "holds no config.json" in error_of(tmp_path)
