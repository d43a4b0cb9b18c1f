#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/: small tokenizers made by Hugging Face `tokenizers`, and the ids that
library gives for a spread of texts; tests/text/golden_test.cc holds ours against them.
Needs: pip install tokenizers==0.23.3     Use: tools/golden/tokenizer.py TEXT_FILE (a megabyte of prose)"""
import json
import pathlib
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/tokenizer"
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3, QWEN2 = CL100K % r"\p{N}{1,3}", CL100K % r"\p{N}"
# A letter whose lower case Unicode 16 brought: utf8proc may not know it, so its texts are left out where
# a configuration makes text lower case.
TOO_NEW = set("\u1c89")
DEEPSEEK_CJK = "[一-龥\u3040-ゟ゠-ヿ]+"


def texts():
    fixed = [
        "", "a", " ", "  ", "\n", "Hello world", "Hello, world! It's 2024's 'tis I'LL we'Ve don'T 'ſ 'S 'M", "  leading",
        "trailing  ", "a\n\n\nb \n \n  c", "\t\tx\r\n\r\ny", "x  \n  ", "x\n  ", "123456789 12 1 1234", "½²③ ١٢٣ Ⅷ 1½",
        "日本語のテキスト、テスト。漢字かな", "مرحبا بالعالم", "नमस्ते दुनिया", "🙂👩‍👩‍👧🇫🇷 e\u0301 é ﬁ ǅ Å \u212b",
        "a\u00a0b\u2003 c\u3000\u3000d\u1680\u180e e\u0085f", "don't you're they've I'm he'll she'd we'd've",
        "$$$...!!!???--== ((x", "foo_bar(x[1])->y; // c\n\tif (a) {\n\t\treturn;\n\t}\n", "<|end|>", "a<|end|> b<|end|><|end|>\n",
        "<|end", "a" * 200, "ab" * 100, " " * 150, "\n" * 50 + "x", "!" * 60 + "\n\n", "\x00\x01\x7f",
        "\u0378\U000e0001\ufffd\U0001fae8\U0001f6dc", "ÀÉÎõü ß ẞ ŉ İ ı ΑΣ", "\u200b\u200c\u200d\ufeff", "한글 각 \u1112\u1161\u11ab",
        "x <mask> y", "x<mask>y", "  <mask>  <mask>\t", "the cat", "cat, concat cat's Cat cAt", "CAT cat_ _cat 9cat cat9", "é cafe\u0301 CAFÉ <É>",
        "<|a|><|ab|><|abc|>", "<|a|> <|a|>", " lo ", "yes, yes!  no", "a--b---c", "3.14 1,000,000 v2.0",
    ]
    rnd = random.Random(5)
    pools = ["abcdeXYZ", "0123456789½²", "  \t\n\r\u00a0\u3000\u2028\x85", "'stmdrevlSTLRE", "!?.-_<>|", "éßñ漢字かな한글אבג",
             "🙂👩\u200d🇫\u0301\u0308\u093f", "\u0378\U0001f6dc\U00010d40\u1c89"]
    fixed += ["".join(rnd.choice(rnd.choice(pools)) for _ in range(rnd.randint(2, 30))) for _ in range(120)]
    return fixed


def train(text, pre_tokenizer, vocab_size=520, special=("<|end|>",), normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(special),
                                                            initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert=invert)


def byte_level(use_regex, prefix=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)


def configurations(text):
    sequence = pre_tokenizers.Sequence
    yield "gpt2", train(text, byte_level(True))
    llama = train(text, sequence([split(LLAMA3), byte_level(False)]), special=("<|begin|>", "<|end|>"))
    llama.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])])
    # A token the merges cannot reach: ignore_merges finds it, plain merging does not.
    changed = json.loads(llama.to_str())
    changed["model"]["vocab"]["Ġcat"] = len(changed["model"]["vocab"])
    changed["model"]["ignore_merges"] = True
    yield "llama3", Tokenizer.from_str(json.dumps(changed))
    changed["model"]["ignore_merges"] = False
    changed["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = QWEN2
    changed["normalizer"] = {"type": "NFC"}
    yield "qwen2", Tokenizer.from_str(json.dumps(changed))
    smollm = train(text, sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]))
    smollm.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True), "<|a|>", "<|ab|>", "<|abc|>"])
    smollm.add_tokens([AddedToken("cat", single_word=True), AddedToken(" lo", rstrip=True), AddedToken("yes", lstrip=True)])
    yield "added", smollm
    lower = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(),
                                  normalizers.Replace("--", "—"), normalizers.Replace(Regex(r"\.+"), ".")])
    exotic = train(text, sequence([split(r"\p{N}{1,3}"), split(DEEPSEEK_CJK), split(r"[!?]", "merged_with_previous"),
                                   split("x", "merged_with_next"), split("-", "contiguous"), split("_", "removed"),
                                   pre_tokenizers.Digits(individual_digits=False), byte_level(True, prefix=True)]),
                   normalizer=lower)
    exotic.add_tokens([AddedToken("Cat", normalized=True), AddedToken("<É>", normalized=False)])
    exotic.post_processor = processors.RobertaProcessing(("<|end|>", 0), ("<|end|>", 0))
    yield "exotic", exotic
    for form in ("NFKC", "NFKD"):
        tokenizer = train(text, byte_level(True), vocab_size=300, normalizer=getattr(normalizers, form)())
        yield form.lower(), tokenizer


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    prose = pathlib.Path(sys.argv[1]).read_text()[:400_000].splitlines(keepends=True)
    cases = texts()
    (OUT / "texts.json").write_text(json.dumps(cases) + "\n")
    for name, tokenizer in configurations(prose):
        saved = json.loads(tokenizer.to_str())
        (OUT / f"{name}.tokenizer.json").write_text(json.dumps(saved, ensure_ascii=False, separators=(",", ":")) + "\n")
        rows = []
        for text in cases:
            if name == "exotic" and TOO_NEW & set(text):
                rows.append(None)
                continue
            rows.append({"ids": tokenizer.encode(text).ids, "plain": tokenizer.encode(text, add_special_tokens=False).ids})
            if rows[-1]["plain"] == rows[-1]["ids"]:
                del rows[-1]["plain"]
        tokenizer.encode_special_tokens = True  # control tokens in the text stay text
        for row, text in zip(rows, cases):
            if row is None:
                continue
            user = tokenizer.encode(text, add_special_tokens=False).ids
            if user != row.get("plain", row["ids"]):
                row["user"] = user
        (OUT / f"{name}.cases.json").write_text(json.dumps(rows, separators=(",", ":")) + "\n")
    for name, pre in (("gpt2", byte_level(True)), ("llama3", pre_tokenizers.Sequence([split(LLAMA3), byte_level(False)]))):
        trained = json.loads(train(cases, pre, vocab_size=700).to_str())
        merges = [list(m) for m in trained["model"]["merges"]]
        (OUT / f"trained_{name}.json").write_text(json.dumps(merges, separators=(",", ":")) + "\n")


main()
