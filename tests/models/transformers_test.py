"""Loads what write_model_folder wrote with transformers, unchanged, and holds its logits against ours.

Started by ctest: transformers_test.py PROGRAM, which writes a folder per architecture when given
VERTEBRA_WRITE_MODELS. Exit code 77 is ctest's sign for skipped. Needs: pip install torch transformers"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM
except ImportError as error:
    print(f"SKIPPED: {error.name} is not installed (pip install torch transformers)", file=sys.stderr)
    sys.exit(77)


def check(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32,
                                                       attn_implementation="eager")
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the others take no double precision
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{folder.name}: {kind} {info[kind]}"
    ours = load_file(folder / "logits" / "logits.safetensors")
    tokens = ours["tokens"].long()[None]
    with torch.no_grad():
        theirs = model.double().eval()(tokens, use_cache=False).logits[0].float()
    error = (ours["logits"] - theirs).abs().max().item()
    largest = theirs.abs().max().item()
    assert largest > 0.1, f"{folder.name}: logits of {largest} prove nothing"
    assert error < 1e-4 * largest, f"{folder.name}: logits differ by {error}, the largest is {largest}"
    assert model.generation_config.eos_token_id == 5, model.generation_config
    config = json.loads((folder / "config.json").read_text())
    print(f"{folder.name}: {config['architectures'][0]}, logits equal within {error / largest:.1e}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, VERTEBRA_WRITE_MODELS=folder)
        subprocess.run([sys.argv[1], "--gtest_filter=WriteModels.*"], check=True, env=environment)
        folders = sorted(pathlib.Path(folder).iterdir())
        assert len(folders) >= 20, folders
        for each in folders:
            check(each)


main()
