#!/usr/bin/env python3
"""Writes src/text/unicode_reference.inc: what Hugging Face `tokenizers` takes for marks, punctuation and control
characters (its tables for these are those of Unicode 8 to 14), and the characters that its normal forms leave alone
though Unicode 16 does not; found by asking it about every code point.
Needs: pip install tokenizers==0.23.3 unicodedata2==16.0.0"""
import pathlib

import unicodedata2
from tokenizers import normalizers, pre_tokenizers

OUT = pathlib.Path(__file__).resolve().parents[2] / "src/text/unicode_reference.inc"
FORMS = {name: getattr(normalizers, name)() for name in ("NFC", "NFD", "NFKC", "NFKD")}
drop_marks = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
clean = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)
strip_accents, punctuation = normalizers.StripAccents(), pre_tokenizers.Punctuation()
ASSIGNED_ELSEWHERE = ("Cn", "Co", "Cs")


def is_left_alone(c):
    # Alone, after a mark of a high class, before one of a low class: decomposed, reordered.
    return unicodedata2.category(c) not in ASSIGNED_ELSEWHERE and any(
        form.normalize_str(s) != unicodedata2.normalize(name, s)
        for name, form in FORMS.items() for s in (c, "a\u0345" + c, "a" + c + "\u0334"))


KINDS = {
    "kControl": lambda c: clean.normalize_str(c) == "",
    "kMark": lambda c: strip_accents.normalize_str(c) == "",
    "kNonspacingMark": lambda c: drop_marks.normalize_str("a" + c) == "a",
    "kNotNormalized": is_left_alone,
    "kPunctuation": lambda c: len(punctuation.pre_tokenize_str("a" + c + "a")) == 3,
}


def main():
    lines = ["// Written by tools/golden/tokenizer_reference_unicode.py: {first, last, kind}. Read by unicode_reference.cc only."]
    for kind, holds in KINDS.items():
        rows = []
        for code in (*range(0x80, 0xD800), *range(0xE000, 0x110000)):
            if holds(chr(code)):
                if rows and rows[-1][1] == code - 1:
                    rows[-1][1] = code
                else:
                    rows.append([code, code])
        lines += [f"{{0x{first:x}, 0x{last:x}, {kind}}}," for first, last in rows]
    OUT.write_text("\n".join(lines) + "\n")


main()
