"""Writes tests/golden/safetensors/reference.safetensors with the reference implementation, and checks
that it reads written.safetensors, which our writer made (tests/formats/safetensors_test.cc compares
with both). Needs: pip install safetensors numpy. Run: python3 tools/golden/safetensors_file.py"""
import pathlib

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/safetensors"
TENSORS = {
    "weight.é": np.array([[1.5, -2.0, 3.25], [0.0, 1e-3, -7.0]], np.float32),
    "half": np.array([1.0, -0.5], np.float16),
    "ids": np.array([-1, 2**40], np.int64),
    "mask": np.array([True, False, True]),
    "bytes": np.array([0, 255], np.uint8),
    "scalar": np.array(2.5, np.float64),
    "nothing": np.zeros((0, 4), np.float32),
}

FOLDER.mkdir(parents=True, exist_ok=True)
save_file(TENSORS, FOLDER / "reference.safetensors", metadata={"format": "np", "by": "reference"})
written = FOLDER / "written.safetensors"
if written.exists():
    found = load_file(written)
    assert list(found) and set(found) == set(TENSORS), found.keys()
    for name, wanted in TENSORS.items():
        assert found[name].dtype == wanted.dtype and found[name].shape == wanted.shape, name
        assert np.array_equal(found[name], wanted), name
    with safe_open(written, "np") as file:
        assert file.metadata() == {"format": "pt"}, file.metadata()
    print("written.safetensors: the reference implementation reads what we wrote")
