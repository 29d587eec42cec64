"""Agreement of a codec's entries with what frozen models, the teachers, say of the same sound.

Shapes: B rows, N frames, D features. A teacher's frames need not be as many as the codec's: the
first ones that both have are compared.
Source: DM-Codec, https://arxiv.org/abs/2410.15017, section 3; codec/trainer/loss.py of its code.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcodec.data.taught import Taught

# PyTorch's least norm.
_EPSILON = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation:
  """How a codec with `learnt` follows teachers.

  Attributes:
    weights: of each teacher.
    stages: whose entries stand before each teacher.
    by_frame: whether frames are compared one by one (`by_frame`), or each feature's way through
      time (`by_feature`).
    teachers: functions of the sound [B, T, C] that give features [B, N, D]; () where the data
      bring them, as `data.taught.Taught`.
  """

  weights: tuple[float, ...] = (0.5, 0.5)
  stages: tuple[int, ...] = (0, 0)
  by_frame: bool = False
  teachers: tuple[Callable[[Any], Any], ...] = ()


def by_feature(student, teacher, there=None):
  """Mean over rows and features of -log sigmoid of the cosine over time, 0.31 to 1.31.

  Args:
    student, teacher: `[B, N, D]`; the frames may differ in number.
    there: bool `[B, N]`, the frames of the teacher that exist; None for all. The source pads text
      and compares with the padding too.
  """
  return -jax.nn.log_sigmoid(cosines(student, teacher, there)).mean()


def by_frame(student, teacher, there=None, similarity: float = 1.0):
  """L1, plus `similarity` times the mean over frames of -log sigmoid of the cosine of features.

  Args: as of `by_feature`.
  """
  student, teacher, there = _common(student, teacher, there)
  distance = jnp.abs(student - teacher).mean(axis=-1)
  apart = -jax.nn.log_sigmoid(_cosine(student, teacher, axis=-1))
  each = jnp.where(there, distance + similarity * apart, 0)
  return each.sum() / jnp.maximum(there.sum(), 1)


def cosines(student, teacher, there=None):
  """The cosines of `by_feature`, [B, D]."""
  student, teacher, there = _common(student, teacher, there)
  student, teacher = (jnp.where(there[..., None], x, 0) for x in (student, teacher))
  return _cosine(student, teacher, axis=1)


def loss(codec, z, codes, x, lesson: Taught | None, how: Distillation):
  """The weighted sum over teachers, of a bound codec's latents z [B, F, D] and their codes."""
  total, compare = jnp.zeros(()), by_frame if how.by_frame else by_feature
  for i, (weight, stage) in enumerate(zip(how.weights, how.stages, strict=True)):
    if lesson is None:
      features, there = jax.lax.stop_gradient(how.teachers[i](x)), None
    else:
      features, there = lesson.features[:, i], lesson.there[:, i]
    total += weight * compare(codec.learnt(z, codes, stage), features, there)
  return total


def _common(student, teacher, there):
  frames = min(student.shape[1], teacher.shape[1])
  if there is None:
    there = jnp.ones(teacher.shape[:2], bool)
  return student[:, :frames], teacher[:, :frames], there[:, :frames]


def _cosine(a, b, axis: int):
  # The square root's slope at zero is infinite.
  norms = [jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=axis), _EPSILON**2)) for x in (a, b)]
  return jnp.sum(a * b, axis=axis) / (norms[0] * norms[1])
