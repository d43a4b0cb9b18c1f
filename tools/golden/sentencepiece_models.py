#!/usr/bin/env python3
"""Writes tests/golden/sentencepiece/: small models trained by `sentencepiece` (BPE and Unigram with what a model may
be set to), the ids that library gives for a spread of texts, and what it decodes them to;
tests/text/sentencepiece_test.cc holds ours against them. Character maps come from rules made here, a few hundred of
what nmt_nfkc and nmt_nfkc_cf do: the whole maps take a quarter of a megabyte each.
Needs: pip install sentencepiece==0.2.3     Use: tools/golden/sentencepiece_models.py"""
import contextlib
import io
import json
import pathlib
import random
import tempfile
import unicodedata

import sentencepiece

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/sentencepiece"
WORDS = ("the of and to in is that for it as was with be by on not he his but at are this have from or had an they which "
         "one you were all she there would their we him been has when who will more no if out so said what up its about "
         "into than them can only other new some could time these two may then do first any my now such like "
         "under over people year way day man thing woman life child world school state family student group").split()
POOLS = ["abcdeXYZ", "0123456789½²", "   \t\n\u00a0\u3000", "'stmdre", "!?.-_<>|", "éßñ漢字かな한글", "🙂👩\u200d\u0301\u0308",
         "ﬁ①㍿ａＢ", "▁▁ ", "ΑΣσς", "привет"]
USER = ["<sep>", "New York", "the", "▁the", "ab c", "é", "ﬁ", "  ", "<USER>"]


def corpus():
    rnd = random.Random(3)
    lines = [" ".join(rnd.choice(WORDS[:rnd.choice([20, 60, len(WORDS)])]) for _ in range(rnd.randint(4, 18))) for _ in range(400)]
    lines = [line.capitalize() + rnd.choice([".", "!", "?", ", 42", " 1999."]) for line in lines]
    return lines + ["Été à la plage, où l'on mange. Straße", "привет мир как дела", "日本語の漢字かな テスト", "x = (a + b) * 2;"] * 8


def texts():
    rnd = random.Random(11)
    fixed = ["", " ", "a", "   ", "Hello world", " leading", "trailing ", "two  spaces   three", "a\nb\n\nc\td", "New York, new york NEW YORK",
             "the theory of them", " the the", "ab cab c", "<sep><sep> <sep>", "ﬁn ﬁ ①", "ＡＢＣ ａｂｃ", "▁under▁ ▁", "<0x41> <s> </s> <unk>",
             "e\u0301 é É", "ΑΣ σς", "🙂👩\u200d", "\u3000全角\u3000", "\u00a0nbsp\u00a0", "  <USER>  x", "a" * 60, "don't", "1234567890", "ЁЖИК",
             "\u200b\ufeffx", "the  ab c  é", "<user>", "\x07bell\x7f"]
    fixed += ["".join(rnd.choice(rnd.choice(POOLS)) for _ in range(rnd.randint(1, 24))) for _ in range(40)]
    fixed += [rnd.choice(["", " "]) + rnd.choice([" ", "  ", "\n"]).join(rnd.choice(WORDS + USER) for _ in range(rnd.randint(1, 12))) for _ in range(40)]
    return fixed


def rules(fold):
    """Lines of a rule file: code points, a tab, code points."""
    out = {"\u0007": "", "\u007f": "", "\u200b": " ", "\ufeff": "", "\u00a0": " ", "\u3000": " ", "\t": " ", "\n": " ", "e\u0301": "é", "E\u0301": "É"}
    for cp in [*range(0xFF01, 0xFF5F), *range(0xFB00, 0xFB05), *range(0x2460, 0x2470), 0xB2, 0xBD, 0x337F]:
        out[chr(cp)] = unicodedata.normalize("NFKC", chr(cp))
    if fold:
        out = {key: value.casefold() for key, value in out.items()}
        for cp in [*range(0x41, 0x5B), *range(0xC0, 0xE0), 0x391, 0x3A3, 0x3C2, *range(0x410, 0x430), 0x401]:
            out[chr(cp)] = chr(cp).casefold()
    points = lambda text: " ".join(f"{ord(c):X}" for c in text)
    return "".join(f"{points(key)}\t{points(value)}\n" for key, value in sorted(out.items()) if key != value)


def configurations():
    plain, mapped, folded = {"normalization_rule_name": "identity"}, {"rules": rules(False)}, {"rules": rules(True)}
    bytes_, user = {"byte_fallback": True, "vocab_size": 520}, {"user_defined_symbols": USER}
    for kind in ("bpe", "unigram"):
        yield f"{kind}_plain", {"model_type": kind, **plain}
        yield f"{kind}_mapped", {"model_type": kind, **mapped, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
        yield f"{kind}_folded_user", {"model_type": kind, **folded, **user}
        yield f"{kind}_bytes_user", {"model_type": kind, **mapped, **user, **bytes_}
        yield f"{kind}_spaces", {"model_type": kind, **plain, **bytes_, "remove_extra_whitespaces": False, "split_digits": True,
                                 "allow_whitespace_only_pieces": True}
        yield f"{kind}_no_prefix", {"model_type": kind, **mapped, "add_dummy_prefix": False}
        yield f"{kind}_gemma", {"model_type": kind, **plain, **bytes_, "remove_extra_whitespaces": False, "add_dummy_prefix": False,
                                "user_defined_symbols": ["\n", "\n\n", "\t", "▁▁", "▁▁▁", "<b>"], "pad_id": 0, "eos_id": 1, "bos_id": 2,
                                "unk_id": 3}
        yield f"{kind}_suffix", {"model_type": kind, **plain, "treat_whitespace_as_suffix": True}
        yield f"{kind}_across_words", {"model_type": kind, **plain, "split_by_whitespace": False, "max_sentencepiece_length": 24}


def train(options):
    options = {"vocab_size": 300, "hard_vocab_limit": False, "character_coverage": 1.0, "num_threads": 1, "minloglevel": 2, **options}
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # the model remembers the file's name
        if "rules" in options:
            pathlib.Path("rules.tsv").write_text(options.pop("rules"))
            options["normalization_rule_tsv"] = "rules.tsv"
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus()), model_writer=model, **options)
    return model.getvalue()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    lines = texts()
    (OUT / "texts.json").write_text(json.dumps(lines) + "\n")
    for name, options in configurations():
        model = train(options)
        (OUT / f"{name}.model").write_bytes(model)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        ids = processor.encode(lines)
        # The library shows what it does not know as a mark of its own between spaces; ours is the piece.
        unknown = processor.id_to_piece(processor.unk_id())
        rows = [{"ids": row, "text": processor.decode(row).replace(" \u2047 ", unknown)} for row in ids]
        (OUT / f"{name}.cases.json").write_text(json.dumps(rows, ensure_ascii=False, separators=(",", ":")) + "\n")
        print(f"{name}: {len(model)} bytes, {processor.get_piece_size()} pieces")


if __name__ == "__main__":
    main()
