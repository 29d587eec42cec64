"""The learned prior of `speech-16khz`: 2.0 million weights of 8 bits over its codes.

Command: python -m launch.train_prior --data SPEECH_DIR --out DIR --minutes 50
"""

import dataclasses

from jaxcodec.entropy.prior_model import PriorConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What a run of `launch.train_prior` needs.

  Attributes:
    codec: name of the bundled codec whose codes are learnt.
    passes: times the training speech is coded, each after the first with its clips shifted by part
      of a frame and at another loudness, from the third on at another speed too.
    active_choices: numbers of codebooks that each step draws from.
    books_per_step: codebooks of them whose codes count in a step.
    batch_size: crops of `frames` frames.
    peak_lr: of Adam.
    report_every: steps between looks at the validation speech.
  """

  codec: str
  prior: PriorConfig
  passes: int
  active_choices: tuple[int, ...]
  books_per_step: int
  batch_size: int
  frames: int
  peak_lr: float
  report_every: int
  seed: int


def get_config() -> Config:
  prior = PriorConfig(
    num_codebooks=12,
    codebook_size=1024,
    latent=64,
    features=128,
    layers=2,
    heads=4,
    hidden=384,
    window=128,
    depth_hidden=192,
    output=96,
  )
  return Config(
    codec="speech-16khz",
    prior=prior,
    passes=4,
    active_choices=(2, 3, 4, 6, 8, 10, 12, 12, 12, 12, 12),
    books_per_step=3,
    batch_size=8,
    frames=160,
    peak_lr=2e-3,
    report_every=500,
    seed=0,
  )
