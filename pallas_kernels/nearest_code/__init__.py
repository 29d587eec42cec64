"""Nearest codebook entry."""

from pallas_kernels.nearest_code.op import nearest_code as nearest_code
from pallas_kernels.nearest_code.sharded import sharded_nearest_code as sharded_nearest_code
