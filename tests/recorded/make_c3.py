"""Records what the modules of google-deepmind/c3_neural_compression give: `c3.npz` beside this.

Command: PYTHONPATH=FOLDER python tests/recorded/make_c3.py [--out FILE]

FOLDER holds that repository as `c3_neural_compression`. It needs other packages than the library
does (jax 0.4.24, dm-haiku 0.0.11, distrax 0.1.5): use an environment of its own. Grids are those of
a picture of 13 x 21; weights are drawn, with the names and shapes of Haiku.
"""

import argparse
import pathlib

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from c3_neural_compression.model import entropy_models, laplace, latents, synthesis, upsampling
from c3_neural_compression.utils import macs
from ml_collections import config_dict

SHAPE, GRIDS, STEP = (13, 21), 4, 0.4


def drawn(shapes, seed: int):
  """Arrays for what `hk.Transformed.init` gives, as plain names."""
  rng, found = np.random.default_rng(seed), {}
  for module, arrays in shapes.items():
    for name, leaf in arrays.items():
      scale = 0.6 / np.sqrt(max(np.prod(leaf.shape[:-1]), 1))
      found.setdefault(module, {})[name] = rng.normal(0, scale, leaf.shape).astype(np.float32)
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", default=pathlib.Path(__file__).with_name("c3.npz"))
  options = parser.parse_args()
  rng, found = np.random.default_rng(0), {}
  sizes = [tuple(-(-size // 2**k) for size in SHAPE) for k in range(GRIDS)]
  grids = [STEP * np.rint(rng.laplace(0, 2, size)).astype(np.float32) for size in sizes]
  spec = config_dict.ConfigDict({"use_conditioning": False})

  def entropy(grids):
    return entropy_models.AutoregressiveEntropyModelConvImage(
      conditional_spec=spec,
      layers=(18, 18),
      context_num_rows_cols=(3, 3),
      shift_log_scale=8.0,
      scale_range=(1e-3, 150),
    )(grids)

  def pixels(x):
    module = synthesis.Synthesis(layers=(18, 18), num_residual_layers=2)
    return module(x)

  networks = {"entropy": hk.transform(entropy), "synthesis": hk.transform(pixels)}
  stretched = upsampling.jax_image_upsampling(tuple(map(jnp.asarray, grids)), SHAPE, "bilinear")
  inputs = {"entropy": tuple(map(jnp.asarray, grids)), "synthesis": stretched}
  outputs = {}
  for seed, (name, network) in enumerate(networks.items()):
    params = drawn(network.init(jax.random.PRNGKey(0), inputs[name]), seed)
    outputs[name] = network.apply(params, None, inputs[name])
    for module, arrays in params.items():
      found |= {f"{name}/{module.split('/~/')[-1]}/{key}": x for key, x in arrays.items()}
  loc, scale = outputs["entropy"]
  flat = jnp.concatenate([grid.ravel() for grid in grids])
  logs = laplace.Laplace(loc / STEP, scale / STEP).integrated_log_prob(flat / STEP)
  found |= {f"grid_{k}": grid for k, grid in enumerate(grids)}
  found |= {"loc": loc, "scale": scale, "bits": jnp.minimum(-logs / jnp.log(2.0), 16)}
  found |= {"stretched": stretched, "pixels": outputs["synthesis"]}
  x = np.linspace(-2.4, 2.6, 101).astype(np.float32)
  u = np.linspace(0.01, 0.99, 101).astype(np.float32)
  found |= {"x": x, "u": u}
  for temperature, a in ((0.3, 2.0), (0.1, 1.0), (0.2, 1.5)):
    key = f"{temperature}/{a}"
    noise = latents.kumaraswamy_inv_cdf(u, a, latents.kumaraswamy_b_fn(a))
    found[f"kumaraswamy/{key}"] = noise
    v = latents.soft_round(x, temperature) + noise - 0.5
    found[f"noisy/{key}"] = latents.soft_round_conditional_mean(v, temperature)

  def rounded(x):
    return latents.quantize(x, "ste_soft_round", soft_round_temp=0.2)

  found["hard"], pull = jax.vjp(rounded, jnp.asarray(x))
  (found["hard_gradient"],) = pull(jnp.ones_like(found["hard"]))
  counts = macs.get_macs_per_pixel(
    input_shape=(512, 768, 3),
    layers_synthesis=(18, 18),
    layers_entropy=(18, 18),
    context_size=24,
    num_grids=7,
    upsampling_type="image_resize",
    upsampling_kwargs={"interpolation_method": "bilinear"},
    downsampling_factor=2.0,
    downsampling_exponents=None,
    synthesis_num_residual_layers=2,
    synthesis_residual_kernel_shape=3,
    synthesis_per_frame_conv=False,
    entropy_use_prev_grid=False,
    entropy_prev_kernel_shape=None,
    entropy_mask_config=config_dict.ConfigDict(),
  )
  found["macs"] = np.array([counts["entropy_model"], counts["synthesis"]])
  np.savez_compressed(options.out, **{name: np.asarray(x) for name, x in found.items()})
  print(f"{options.out}: {len(found)} arrays")


if __name__ == "__main__":
  main()
