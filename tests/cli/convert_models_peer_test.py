"""Every tiny checkpoint of tests/golden/models through vertebra convert and through llama.cpp's own converter: the same
tensors, names, shapes and bytes (1 + weight and exp round otherwise in the last bit), and the same settings.

Started by ctest: convert_models_peer_test.py PROGRAM. Exit code 77 is ctest's sign for skipped. Needs
tools/peers/llama-cpp run once, and the Python packages torch, transformers, numpy."""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/models"
WORDS = ["[UNK]", "hello", "wor", "##ld", "a", "1", ","]


def skip(why):
    print(f"SKIPPED: {why}", file=sys.stderr)
    sys.exit(77)


def peer_converter():
    script = ROOT / "tools/peers/llama-cpp"
    if subprocess.run([script, "--where"], capture_output=True).returncode != 0:
        skip("tools/peers/llama-cpp was not run")
    source = subprocess.run([script, "--source"], capture_output=True, text=True, check=True).stdout.strip()
    sys.path[:0] = [source, source + "/gguf-py"]
    try:
        import gguf
        from conversion import base, get_model_class
    except ImportError as error:
        skip(f"llama.cpp's converter does not start: {error}")
    base.TextModel.set_vocab = lambda self: self._set_vocab_none()

    def convert(folder, file):
        hparams = base.ModelBase.load_hparams(folder, False)
        kind = get_model_class(base.get_model_architecture(hparams, base.ModelType.TEXT))
        inner = getattr(kind, "Ministral3Model", kind)
        for each in {kind, inner}:
            each.set_vocab = lambda self: self._set_vocab_none()
            each.no_mtp = True
        if kind.__name__ == "Gemma3Model":  # which cuts the embedding to the tokenizer's size
            kind.modify_tensors = lambda self, data, name, layer: base.TextModel.modify_tensors(
                self, data + self.norm_shift(name), name, layer)
        kind(folder, gguf.LlamaFileType.ALL_F32, file, eager=True).write()

    return convert, gguf.GGUFReader


def prepare(name, folder):
    """The checkpoint with a tokenizer, and settings changed that GGUF has no words for."""
    shutil.copytree(GOLDEN / name, folder)
    config = json.loads((folder / "config.json").read_text())
    if name == "gemma3":
        config["query_pre_attn_scalar"] = config["head_dim"]
    if name == "smollm3":
        config["no_rope_layers"] = [1, 1, 1]
    if name == "gpt2":
        config["n_ctx"] = config["n_positions"]
    if name == "gemma4-experts":
        config["rope_parameters"]["full_attention"] |= {"rope_type": "proportional", "partial_rotary_factor": 1.0}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "post_processor": None,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                       "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {word: i for i, word in enumerate(WORDS)}}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def compare(ours, theirs, np):
    a, b = ({tensor.name: tensor for tensor in file.tensors} for file in (ours, theirs))
    # Of layers that use the keys of others they keep keys that nobody reads.
    assert set(a) <= set(b) and all(".attn_k" in name or ".attn_v" in name for name in set(b) - set(a)), set(a) ^ set(b)
    for name, tensor in a.items():
        assert list(tensor.shape) == list(b[name].shape), (name, tensor.shape, b[name].shape)
        assert tensor.tensor_type == b[name].tensor_type, (name, tensor.tensor_type, b[name].tensor_type)
        x, y = np.asarray(tensor.data), np.asarray(b[name].data)
        assert np.array_equal(x, y) or np.allclose(x, y, rtol=1e-6, atol=1e-7), (name, np.abs(x - y).max())
    checked = 0
    for key, field in theirs.fields.items():
        if key.startswith(("GGUF.", "general.", "tokenizer.")):
            continue
        wanted, found = field.contents(), ours.fields[key].contents() if key in ours.fields else None
        same = wanted == found or (isinstance(found, list) and set(found) == {wanted})
        if isinstance(wanted, float) and isinstance(found, float):
            same = abs(wanted - found) <= 1e-6 * abs(wanted)
        assert same, (key, found, wanted)
        checked += 1
    return len(a), checked


def main():
    program = pathlib.Path(sys.argv[1])
    convert, reader = peer_converter()
    import numpy as np
    for name in sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()):
        if name == "qwen3_moe":  # it has a layer without experts, which llama.cpp does not know
            continue
        with tempfile.TemporaryDirectory() as temporary:
            at = pathlib.Path(temporary)
            prepare(name, at / "folder")
            done = subprocess.run([program, "convert", at / "folder", at / "ours.gguf"], capture_output=True, text=True)
            assert done.returncode == 0, (name, done.stderr)
            convert(at / "folder", at / "theirs.gguf")
            tensors, keys = compare(reader(at / "ours.gguf"), reader(at / "theirs.gguf"), np)
            print(f"{name}: {tensors} tensors and {keys} settings are the same")


main()
