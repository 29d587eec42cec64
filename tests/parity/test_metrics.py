"""Mel and STFT distance and PESQ against other implementations of what they are made of.

The DAC authors' own program is compared with where it is installed: no extra asks for it, as it
needs an older protobuf than tensorflow-datasets does (`pip install --no-deps descript-audio-codec
descript-audiotools`, and what importing them asks for).
"""

import importlib.machinery
import io
import sys
import tarfile
import types
import warnings

import numpy as np
import pytest
import soundfile
import soxr

from jaxcodec.functional.spectral import mel_filterbank
from jaxcodec.metrics import mel_distance, pesq, stft_distance

pytestmark = pytest.mark.parity

torch = pytest.importorskip("torch", reason="torch comes with the parity extra")


def imported(name, reason):
  """A module, or a skipped test; without torchaudio.

  What is imported here would use it for things that are not used here, and an installed one may
  have been built for another torch.
  """
  with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    stand_in = types.ModuleType("torchaudio")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    patch.setitem(sys.modules, "torchaudio", stand_in)
    return pytest.importorskip(name, reason=reason)


SCALES = [(32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320)]

# Theirs is float32 arithmetic, ours float64.
TOLERANCE = 2e-5


def slaney_filters(rate, window, bands):
  audio_utils = imported("transformers.audio_utils", "transformers comes with the parity extra")
  with warnings.catch_warnings():
    # Short windows have bands without a bin.
    warnings.filterwarnings("ignore", message=".*mel filter.*")
    return audio_utils.mel_filter_bank(
      window // 2 + 1, bands, 0, rate / 2, rate, norm="slaney", mel_scale="slaney"
    )


def torch_distances(x, y, rate):
  """Both distances of waves `[time]` or `[time, channels]`, from torch's short-time spectra."""
  waves = [torch.tensor(w.reshape(len(w), -1).T, dtype=torch.float32) for w in (x, y)]

  def spectra(window):
    taper = torch.hann_window(window)
    for wave in waves:
      yield torch.stft(wave, window, window // 4, window=taper, return_complex=True).abs()

  mel = stft = 0.0
  for window, bands in SCALES:
    filters = torch.tensor(slaney_filters(rate, window, bands), dtype=torch.float32)
    mels = [(filters.T @ s).clamp(1e-5).log10() for s in spectra(window)]
    mel += (mels[0] - mels[1]).abs().mean().item()
  for window in (2048, 512):
    s_x, s_y = spectra(window)
    stft += (s_x - s_y).abs().mean().item()
    stft += (
      (s_x.clamp(1e-5).square().log10() - s_y.clamp(1e-5).square().log10()).abs().mean().item()
    )
  return mel, stft


def dac_distances(x, y, rate):
  """As `torch_distances`, by the DAC authors' program."""
  reason = "descript-audio-codec is not installed"
  audiotools = imported("audiotools", reason)
  loss = imported("dac.nn.loss", reason)
  # The settings of their training, which the paper reports with.
  mel = loss.MelSpectrogramLoss(
    n_mels=[bands for _, bands in SCALES],
    window_lengths=[window for window, _ in SCALES],
    mel_fmin=[0.0] * 7,
    mel_fmax=[None] * 7,
    pow=1.0,
    clamp_eps=1e-5,
    mag_weight=0.0,
  )
  waves = [torch.tensor(w.reshape(len(w), -1).T[None].astype(np.float32)) for w in (x, y)]
  signals = [audiotools.AudioSignal(wave, rate) for wave in waves]
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Empty filters|stft_data changed shape")
    return mel(*signals).item(), loss.MultiScaleSTFTLoss()(*signals).item()


each_reference = pytest.mark.parametrize("distances", [torch_distances, dac_distances])


def check(distances, x, y, rate):
  mel, stft = distances(x, y, rate)
  assert mel_distance(x, y, rate) == pytest.approx(mel, rel=TOLERANCE)
  assert stft_distance(x, y) == pytest.approx(stft, rel=TOLERANCE)


def speech_clips(data, count):
  with tarfile.open(data / "speech" / "speech_test.tar") as tar:
    members = sorted((m for m in tar if m.name.endswith(".flac")), key=lambda m: m.name)[:count]
    return [soundfile.read(io.BytesIO(tar.extractfile(m).read())) for m in members]


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize(("window", "bands"), SCALES)
def test_slaney_filters_equal_those_of_transformers(rate, window, bands):
  want = slaney_filters(rate, window, bands)
  got = mel_filterbank(rate, window, bands, slaney=True)
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)


@each_reference
@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
@pytest.mark.parametrize("length", [2048, 9_999, 12_345])
def test_distances_of_noise(distances, rate, length):
  rng = np.random.default_rng(length)
  x = 0.1 * rng.standard_normal(length)
  check(distances, x, np.tanh(x + 0.03 * rng.standard_normal(length)), rate)


@each_reference
def test_distances_of_stereo(distances):
  rng = np.random.default_rng(0)
  x = 0.1 * rng.standard_normal((6_000, 2)) * [1, 0.01]
  check(distances, x, x + 0.01 * rng.standard_normal((6_000, 2)), 48_000)


@each_reference
def test_distances_of_read_speech(distances, data):
  rng = np.random.default_rng(1)
  for x, rate in speech_clips(data, 4):
    y = np.round(64 * x) / 64 + 1e-3 * rng.standard_normal(len(x))
    y[: rate // 2] = 0  # Below the floor.
    check(distances, x, y, rate)


def test_pesq_averages_channels_resamples_and_cuts_long_signals(data):
  program = pytest.importorskip("pesq", reason="pesq comes with the parity extra")
  ((x, rate),) = speech_clips(data, 1)
  y = x + 0.01 * np.random.default_rng(2).standard_normal(len(x))
  want = program.pesq(16_000, x, y, "wb")
  assert pesq(x, y, rate) == want
  assert 1 < want < 4
  # The other channel is what is missing to the mean.
  assert pesq(np.stack([x, x], 1), np.stack([2 * y, 0 * y], 1), rate) == pytest.approx(want)
  narrow_x, narrow_y = (soxr.resample(wave, rate, 8_000) for wave in (x, y))
  narrow = program.pesq(8_000, narrow_x, narrow_y, "nb")
  assert pesq(narrow_x, narrow_y, 8_000) == narrow
  assert abs(narrow - want) > 0.3
  high_x, high_y = (soxr.resample(wave, rate, 48_000) for wave in (x, y))
  assert pesq(high_x, high_y, 48_000) == pytest.approx(want, abs=0.02)
  # Two pieces of 20 s each, of which one is silent throughout.
  length = 20 * 16_000
  long_x, long_y = (np.resize(wave, length) for wave in (x, y))
  pause = np.zeros(length)
  alone = program.pesq(16_000, long_x, long_y, "wb")
  assert pesq(np.r_[long_x, pause], np.r_[long_y, pause], 16_000) == alone
