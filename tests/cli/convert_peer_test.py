"""A real model through vertebra convert, to a folder and back to GGUF: llama.cpp continues a text with our files as we
do, and we open what llama.cpp quantized. What a quantization costs is what llama-perplexity says.

Started by ctest: convert_peer_test.py PROGRAM. Exit code 77 is ctest's sign for skipped. Needs tools/peers/llama-cpp
run once, and VERTEBRA_TEST_GGUF: a GGUF file of a small model with byte-level BPE (SmolLM2-135M-Instruct)."""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROMPT = "The capital of France is"
TOKENS = "16"


def run(*command):
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout


TEXT = ROOT / "docs" / "tour.md"
WINDOWS = "2"  # of 512 tokens


def check_quality(program, peer, folder):
    """What eval --against says of a quantized file, against llama-perplexity on the same windows."""
    program_json = run(program, "eval", folder / "q4_k_m.gguf", "--against", folder / "f32.gguf", "--task", TEXT,
                       "--limit", WINDOWS, "--json")
    ours = json.loads(program_json)
    base = folder / "logits"
    common = ["-f", TEXT, "-c", "512", "-b", "512", "--chunks", WINDOWS, "-t", "2", "--kl-divergence-base", base]
    run(peer / "llama-perplexity", "-m", folder / "f32.gguf", *common)
    said = run(peer / "llama-perplexity", "-m", folder / "q4_k_m.gguf", *common, "--kl-divergence")

    def theirs(label):
        return float(re.search(re.escape(label) + r"\s*:\s*([-0-9.]+)", said).group(1))

    assert ours["tokens"] == 2 * 255, ours["tokens"]
    for found, wanted, within in (
            (ours["perplexity"]["model"], theirs("Mean PPL(Q)"), 0.03),
            (ours["perplexity"]["reference"], theirs("Mean PPL(base)"), 0.01),
            (ours["kl_divergence"]["mean"], theirs("Mean    KLD"), 0.05),
            (ours["kl_divergence"]["p99"], theirs("99.0%   KLD"), 0.15),
            (100 * ours["same_top_token"]["mean"], theirs("Same top p"), 0.03)):
        assert abs(found - wanted) <= within * wanted, (found, wanted, ours, said[-3000:])
        print(f"quality: {found:.6g}, llama-perplexity says {wanted:.6g}")


def main():
    program, model = sys.argv[1], os.environ.get("VERTEBRA_TEST_GGUF", "")
    where = subprocess.run([ROOT / "tools/peers/llama-cpp", "--where"], capture_output=True, text=True)
    if where.returncode != 0 or not pathlib.Path(model).is_file():
        what = "tools/peers/llama-cpp was not run" if where.returncode != 0 else "VERTEBRA_TEST_GGUF names no file"
        print(f"SKIPPED: {what}", file=sys.stderr)
        sys.exit(77)
    peer = pathlib.Path(where.stdout.strip())

    def ours(path):
        return run(program, "generate", path, "-p", PROMPT, "--max-tokens", TOKENS).strip()

    def theirs(path):
        return run(peer / "llama-completion", "-m", path, "-p", PROMPT, "-n", TOKENS, "--temp", "0", "-no-cnv").strip()

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run(program, "convert", model, folder / "hf", "--quantize", "f32")
        for kind in ("f32", "q8_0"):
            run(program, "convert", folder / "hf", folder / f"{kind}.gguf", "--quantize", kind)
            found, wanted = ours(folder / f"{kind}.gguf"), theirs(folder / f"{kind}.gguf")
            assert found.startswith(PROMPT) and len(found) > len(PROMPT) and found == wanted, (kind, found, wanted)
            print(f"{kind}: {found!r}")
        run(peer / "llama-quantize", folder / "f32.gguf", folder / "theirs.gguf", "Q8_0")
        found, wanted = ours(folder / "theirs.gguf"), theirs(folder / "theirs.gguf")
        assert found == wanted, (found, wanted)
        for kind in ("q4_k_m", "q5_k_m"):
            run(program, "convert", folder / "hf", folder / f"{kind}.gguf", "--quantize", kind)
            text = theirs(folder / f"{kind}.gguf")
            assert "Paris" in text and "Paris" in ours(folder / f"{kind}.gguf"), (kind, text)
        if (peer / "llama-perplexity").is_file():
            check_quality(program, peer, folder)


main()
