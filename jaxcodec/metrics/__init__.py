"""Measures of what a codec costs and of what it loses."""

from jaxcodec.metrics.intelligibility import pesq, stoi
from jaxcodec.metrics.picture import bd_rate, ms_ssim, psnr
from jaxcodec.metrics.rate import CodebookUse, bitrate, codebook_use
from jaxcodec.metrics.spectral import mel_distance, stft_distance
from jaxcodec.metrics.waveform import si_sdr, snr

__all__ = [
  "CodebookUse",
  "bd_rate",
  "bitrate",
  "codebook_use",
  "mel_distance",
  "ms_ssim",
  "pesq",
  "psnr",
  "si_sdr",
  "snr",
  "stft_distance",
  "stoi",
]
