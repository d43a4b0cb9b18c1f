#!/usr/bin/env python3
"""What tiktoken and Hugging Face tokenizers take for the work of bench/tokenizer.cc, as one JSON object on
stdout; started by it. FOLDER holds our tokenizer.json and ids.bin, which are compared with theirs.
Needs: pip install tokenizers tiktoken"""
import argparse
import array
import json
import os
import pathlib
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("text")
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--pattern", required=True)
parser.add_argument("--vocab", type=int, required=True)
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--rounds", type=int, default=3)
args = parser.parse_args()
os.environ["RAYON_NUM_THREADS"] = str(args.threads)  # read when the library is first used
os.environ["TOKENIZERS_PARALLELISM"] = "true"
END = "<|endoftext|>"


def best(work):
    times = []
    for _ in range(args.rounds):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return min(times), result


def byte_of_char():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


def pairs(merges):
    return [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]


def measure_tokenizers(text, ours, result):
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer.from_file(str(args.folder / "tokenizer.json"))
    tokenizer.encode("warm up")
    part = text[: 2_000_000]  # encode() of one text is slow; a part tells the rate
    chunks = part.splitlines(keepends=True)
    seconds, _ = best(lambda: [tokenizer.encode(chunk).ids for chunk in chunks])
    result["tokenizers_encode_mb_s"] = len(part.encode()) / 1e6 / seconds
    tokenizer.model = models.BPE()
    trainer = trainers.BpeTrainer(vocab_size=args.vocab, special_tokens=[END], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    seconds, _ = best(lambda: tokenizer.train_from_iterator(lines, trainer))
    result["tokenizers_train_s"] = seconds
    result["tokenizers_merges_equal"] = pairs(json.loads(tokenizer.to_str())["model"]["merges"]) == pairs(ours["model"]["merges"])


def measure_tiktoken(text, ours, result):
    import tiktoken

    patterns = {"gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""}
    pattern = patterns.get(args.pattern)
    if pattern is None:
        steps = ours["pre_tokenizer"].get("pretokenizers", [{}])
        pattern = steps[0].get("pattern", {}).get("Regex")
    if pattern is None:
        return  # not one regular expression: tiktoken cannot do it
    spelling = byte_of_char()
    vocab = ours["model"]["vocab"]
    ranks = {bytes(spelling[c] for c in token): id for token, id in vocab.items() if token != END}
    encoding = tiktoken.Encoding("bench", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END: vocab[END]})
    encoding.encode_ordinary("warm up")
    seconds, ids = best(lambda: encoding.encode_ordinary(text))
    result["tiktoken_encode_mb_s"] = len(text.encode()) / 1e6 / seconds
    our_ids = array.array("i", (args.folder / "ids.bin").read_bytes())
    result["tiktoken_ids_equal"] = our_ids.tolist() == ids


def main():
    text = pathlib.Path(args.text).read_bytes().decode()
    ours = json.loads((args.folder / "tokenizer.json").read_text())
    result = {}
    for measure in (measure_tiktoken, measure_tokenizers):
        try:
            measure(text, ours, result)
        except ImportError as error:
            print(f"SKIPPED: {error.name} is not installed (pip install {error.name})", file=sys.stderr)
    print(json.dumps(result))


main()
