"""A dataset measured on eight devices and on one."""

import jax
import micro_codec
import numpy as np
import pytest
import soundfile

from jaxcodec import metrics
from jaxcodec.bitstream import compress, decompress
from jaxcodec.data import sources
from launch.evaluate import evaluate

pytestmark = pytest.mark.unoptimized


def test_figures_are_those_of_one_device_and_of_each_file_alone(mesh, tmp_path):
  del mesh  # Eight devices are there.
  rng = np.random.default_rng(0)
  waves = [rng.normal(0, 0.1, (size, 1)).astype(np.float32) for size in (2100, 2200, 2500)]
  for i, wave in enumerate(waves):
    soundfile.write(tmp_path / f"{i}.wav", wave, 8000, subtype="FLOAT")
  (tmp_path / "bad.wav").write_bytes(b"RIFF, it says")
  source = sources.open_source(tmp_path, sources.SOUNDS)
  codec = micro_codec.codec()
  one, eight = (evaluate(codec, source, devices=jax.devices()[:n]) for n in (1, 8))
  assert (one["files"], one["skipped"]) == (3, 1)
  for name in one:
    np.testing.assert_allclose(eight[name], one[name], rtol=1e-4, err_msg=name)
  coded = [decompress(compress(codec, wave[None]), codec)[0] for wave in waves]
  alone = [metrics.si_sdr(wave, y) for wave, y in zip(waves, coded, strict=True)]
  assert one["si_sdr"] == pytest.approx(np.mean(alone), abs=1e-3)
  # 2 codebooks of 3 bits, 2000 frames a second; the last frames are whole.
  assert one["kbps"] == pytest.approx(12.0, rel=1e-2)
