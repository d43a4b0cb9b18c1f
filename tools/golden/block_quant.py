"""Writes tests/golden/block_quant.json: random blocks of every block-quantized type as hexadecimal bytes, and the
bits of the floats that the `gguf` package makes of them. Needs: pip install gguf numpy. Run:
python3 tools/golden/block_quant.py"""
import json
import pathlib

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quant_shape_to_byte_shape

PATH = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/block_quant.json"
TYPES = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4"]
# Byte offsets of the f16 scales, which random bytes would make infinite.
SCALES = {"Q4_1": [0, 2], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2],
          "Q6_K": [208], "MXFP4": []}

random = np.random.default_rng(5)
golden = {}
for name in TYPES:
    kind = Type[name]
    size = quant_shape_to_byte_shape((256,), kind)[0]  # bytes of 256 elements
    blocks = random.integers(0, 256, (1, size), dtype=np.uint8)
    step = size if name.endswith("_K") else size // 8
    for start in range(0, size, step):
        for offset in SCALES.get(name, [0]):
            scale = np.float16(random.normal() * 0.01)
            blocks[0, start + offset:start + offset + 2] = np.frombuffer(scale.tobytes(), np.uint8)
        if name == "MXFP4":
            blocks[0, start] = random.integers(100, 140)
    values = dequantize(blocks, kind).astype(np.float32)
    golden[name.lower()] = {"blocks": blocks.tobytes().hex(), "values": values.tobytes().hex()}
PATH.write_text(json.dumps(golden, indent=0) + "\n")
