"""Measures of what a codec costs and of what it loses."""

from jaxcodec.metrics.audio import log_mel_distance, si_sdr, snr, stoi

__all__ = ["log_mel_distance", "si_sdr", "snr", "stoi"]
