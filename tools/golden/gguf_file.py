#!/usr/bin/env python3
"""Makes tests/golden/gguf: a GGUF file with every kind of value and several element types, written by the reference
implementation (pip: gguf), which also checks what our writer made of the same content (tests/formats/gguf_test.cc).

usage: tools/golden/gguf_file.py
"""
import pathlib

import gguf
import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/gguf"


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(FOLDER / "reference.gguf", "llama")
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_uint32("test.u32", 4000000000)
    writer.add_int32("test.i32", -2000000000)
    writer.add_float32("test.f32", 0.5)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "é <|end|>")
    writer.add_uint64("test.u64", 1 << 40)
    writer.add_int64("test.i64", -(1 << 40))
    writer.add_float64("test.f64", 1e-300)
    writer.add_array("test.integers", [1, -2, 3])
    writer.add_array("test.reals", [0.25, -1.5])
    writer.add_array("test.strings", ["a", "", "ü"])
    writer.add_tensor("matrix", np.array([[1.5, -2.0, 3.25], [0.0, 1e-3, -7.0]], dtype=np.float32))
    writer.add_tensor("half", np.array([1.0, -0.5], dtype=np.float16))
    values = (np.arange(128, dtype=np.float32) - 64).reshape(2, 64) / 8
    writer.add_tensor("brain", gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16),
                      raw_dtype=gguf.GGMLQuantizationType.BF16)
    for name in ("Q8_0", "Q4_0", "Q5_1"):
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name.lower(), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
