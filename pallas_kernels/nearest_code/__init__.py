"""Nearest codebook entry."""

from pallas_kernels.nearest_code.op import nearest_code as nearest_code
