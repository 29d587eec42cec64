"""Discriminators and losses of training equal PyTorch's at the same weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.training import discriminators as D, losses as L

torch = pytest.importorskip("torch", reason="torch comes with the parity extra")

import training_reference as reference  # noqa: E402 - it imports torch.

pytestmark = pytest.mark.parity

RNG = np.random.default_rng(0)
X = RNG.normal(0, 0.1, (2, 1601, 1)).astype(np.float32)
Y = X + RNG.normal(0, 0.05, X.shape).astype(np.float32)


def random_params(module, x):
  """Weights that differ from any start: gains and biases too."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    values = rng.normal(0, 1, leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
    name = jax.tree_util.keystr(path)
    return (values + ("gain" in name or "scale" in name)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def compare(ours, theirs):
  """Logits and activations; ours are channels last."""
  assert len(ours) == len(theirs)
  for mine, (logits, features) in zip(ours, theirs, strict=True):
    assert len(mine.features) == len(features)
    for a, b in zip([mine.logits, *mine.features], [logits, *features], strict=True):
      b = np.moveaxis(b.detach().numpy(), 1, -1)
      assert a.shape == b.shape
      # Sums of a few thousand products in another order.
      np.testing.assert_allclose(a, b, atol=1e-4 * max(1, np.abs(b).max()), rtol=1e-4)


def sound(x):
  return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def stft():
  module = D.MultiScaleSTFT(windows=(256, 64), filters=4)
  peers = [reference.StftScale(window, 4, 1) for window in (256, 64)]
  names = [[*(f"conv_{w}_{i}" for i in range(5)), f"head_{w}"] for w in (256, 64)]
  return module, peers, names


def period(always_pad):
  module = D.MultiPeriod(periods=(2, 3), widths=(4, 8, 8), always_pad=always_pad)
  peers = [reference.Period(p, (4, 8, 8), always_pad) for p in (2, 3)]
  names = [[*(f"conv_{p}_{i}" for i in range(3)), f"head_{p}"] for p in (2, 3)]
  return module, peers, names


def wave():
  module = D.MultiScaleWave(scales=2, width=8, strides=(4, 2))
  peers = [reference.WaveScale(8, (4, 2), times) for times in range(2)]
  names = [[*(f"conv_{s}_{i}" for i in range(4)), f"head_{s}"] for s in range(2)]
  return module, peers, names


def grouped():
  module = D.MultiScaleGrouped(scales=2, width=16)
  peers = [reference.GroupedScale(16, times) for times in range(2)]
  names = [[*(f"conv_{s}_{i}" for i in range(7)), f"head_{s}"] for s in range(2)]
  return module, peers, names


def bands():
  module = D.MultiBandSTFT(windows=(256,), bands=(0.25, 1.0), filters=4)
  names = [f"conv_256_{b}_{i}" for b in range(2) for i in range(5)]
  return module, [reference.BandScale(256, (0.25, 1.0), 4)], [[*names, "head_256"]]


def layers_of(peer):
  found = [m for m in peer.modules() if isinstance(m, (torch.nn.Conv1d, torch.nn.Conv2d))]
  return [m for m in found if m is not peer.head] + [peer.head]


@pytest.mark.parametrize(
  "make",
  [stft, wave, grouped, bands, functools.partial(period, False), functools.partial(period, True)],
  ids=["stft", "wave", "grouped", "bands", "period", "period, always padded"],
)
def test_discriminators_equal_pytorch(make):
  module, peers, names = make()
  # 1600 samples, which a period of 2 divides, so that always padding shows.
  x = X[:, :1600]
  params = random_params(module, x)
  for peer, layer_names in zip(peers, names, strict=True):
    reference.copied(layers_of(peer), params, layer_names)
  ours = jax.jit(module.apply)({"params": params}, x)
  compare(ours, [peer(sound(x)) for peer in peers])


def test_patchgan_equals_pytorch():
  module, peer = D.PatchGAN(layers=2, width=4), reference.Patches(4, 2)
  x = np.random.default_rng(2).normal(0, 0.5, (2, 32, 24, 3)).astype(np.float32)
  params = random_params(module, x)
  with torch.no_grad():
    for i, part in enumerate(peer.layers):
      kernel = np.moveaxis(params[f"conv_{i}"]["kernel"], (-1, -2), (0, 1))
      part[0].weight.copy_(torch.from_numpy(kernel.copy()))
      if i == 0:
        part[0].bias.copy_(torch.from_numpy(params["conv_0"]["bias"]))
      else:
        part[1].weight.copy_(torch.from_numpy(params[f"norm_{i}_scale"]))
        part[1].bias.copy_(torch.from_numpy(params[f"norm_{i}_bias"]))
    kernel = np.moveaxis(params["head"]["kernel"], (-1, -2), (0, 1))
    peer.head.weight.copy_(torch.from_numpy(kernel.copy()))
    peer.head.bias.copy_(torch.from_numpy(params["head"]["bias"]))
  ours = jax.jit(module.apply)({"params": params}, x)
  compare(ours, [peer(sound(x))])


@pytest.mark.parametrize("dac", [True, False], ids=["dac", "encodec"])
def test_mel_losses_and_their_gradients_equal_pytorch(dac):
  scales = L.DAC_MEL if dac else L.ENCODEC_MEL
  chosen = ((64, 10), (512, 80)) if dac else ((64, 64), (1024, 64))
  scales = dataclasses.replace(scales, scales=chosen)
  ours = jax.jit(jax.value_and_grad(lambda y: L.mel_loss(X, y, 16_000, scales)))
  value, gradient = ours(Y)
  y = sound(Y).requires_grad_()
  theirs = reference.mel_loss(sound(X), y, 16_000, dac=dac)
  theirs.backward()
  np.testing.assert_allclose(value, theirs.item(), rtol=1e-4)
  wanted = np.moveaxis(y.grad.numpy(), 1, -1)
  np.testing.assert_allclose(gradient, wanted, atol=1e-3 * np.abs(wanted).max())


def test_r1_and_vqgans_weight_equal_pytorch():
  module = D.MultiPeriod(periods=(3,), widths=(4, 4))
  peer = reference.Period(3, (4, 4), False)
  params = random_params(module, X)
  reference.copied(layers_of(peer), params, ["conv_3_0", "conv_3_1", "head_3"])

  def logits(x):
    return [judged.logits for judged in module.apply({"params": params}, x)]

  @jax.jit
  def ours(x, kernel):
    penalty = L.gradient_penalty(logits, x)
    near = jax.grad(lambda k: L.l1(X, Y * k))(kernel)
    adversarial = jax.grad(lambda k: L.HINGE.generator(logits(Y * k)[0]))(kernel)
    return penalty, L.adaptive_weight(near, adversarial)

  penalty, weight = ours(jnp.asarray(X), jnp.asarray([1.1]))
  x = sound(X).requires_grad_()
  (gradient,) = torch.autograd.grad(peer(x)[0].sum(), x)
  theirs = 0.5 * gradient.square().sum(dim=(1, 2)).mean()
  np.testing.assert_allclose(penalty, theirs.item(), rtol=1e-4)
  kernel = torch.tensor([1.1], requires_grad=True)
  (near,) = torch.autograd.grad((sound(X) - sound(Y) * kernel).abs().mean(), kernel)
  (adversarial,) = torch.autograd.grad(-peer(sound(Y) * kernel)[0].mean(), kernel)
  theirs = (near.norm() / (adversarial.norm() + 1e-4)).clamp(0, 1e4)
  np.testing.assert_allclose(weight, theirs.item(), rtol=1e-3)
