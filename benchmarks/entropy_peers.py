"""CompressAI's and torchac's coders on symbols of `benchmarks/entropy.py`, which runs this.

It imports nothing of ours, as it runs in the peers' environment. CompressAI's coder is loaded from
its file: its package asks for much that coding does not need. Prints one line of JSON.
"""

import importlib.machinery
import importlib.util
import json
import pathlib
import sys
import time

import numpy as np


def compressai_coder():
  package = importlib.util.find_spec("compressai").submodule_search_locations[0]
  path = str(next(pathlib.Path(package).glob("ans*.so")))
  loader = importlib.machinery.ExtensionFileLoader("compressai.ans", path)
  module = importlib.util.module_from_spec(
    importlib.util.spec_from_loader("compressai.ans", loader)
  )
  loader.exec_module(module)
  return module


def best(function):
  times = []
  for _ in range(3):
    start = time.perf_counter()
    result = function()
    times.append(time.perf_counter() - start)
  return min(times), result


def compressai(rows, symbols, cdf, folder: pathlib.Path) -> dict:
  ans = compressai_coder()
  # Its interface takes lists; making them is part of every call there, and left out here.
  tables = np.concatenate([cdf, np.full((len(cdf), 1), cdf[0, -1])], axis=1).tolist()
  shared = rows.tolist(), tables, [cdf.shape[1]] * len(cdf), [0] * len(cdf)
  values = symbols.tolist()
  spent, data = best(lambda: ans.RansEncoder().encode_with_indexes(values, *shared))
  read, found = best(lambda: ans.RansDecoder().decode_with_indexes(data, *shared))
  assert found == values
  (folder / "compressai.bin").write_bytes(data)
  return {"name": "CompressAI's C++ rANS", "bytes": len(data), "seconds": [spent, read]}


def torchac(rows, symbols, cdf) -> dict:
  import torch
  import torchac as coder

  # A table a symbol, in 16 bits of which the last bound, 2^16, is written as 0.
  tables = torch.from_numpy(cdf[rows].astype(np.uint16).view(np.int16))
  values = torch.from_numpy(symbols.astype(np.int16))
  spent, data = best(lambda: coder.encode_int16_normalized_cdf(tables, values))
  read, found = best(lambda: coder.decode_int16_normalized_cdf(tables, data))
  assert torch.equal(found, values)
  return {"name": "torchac", "bytes": len(data), "seconds": [spent, read]}


def main() -> None:
  path = pathlib.Path(sys.argv[1])
  given = np.load(path)
  arrays = given["rows"], given["symbols"], given["cdf"]
  print(json.dumps([compressai(*arrays, path.parent), torchac(*arrays)]))


if __name__ == "__main__":
  main()
