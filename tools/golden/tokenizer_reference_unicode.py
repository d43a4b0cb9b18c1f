#!/usr/bin/env python3
"""Writes src/text/unicode_reference.inc: the characters that Hugging Face `tokenizers` treats as if its Unicode
tables did not know them (its normal forms, marks, punctuation and control characters are those of Unicode 8 to
11), found by asking it about every code point.     Needs: pip install tokenizers==0.23.3"""
import pathlib
import unicodedata

from tokenizers import normalizers, pre_tokenizers

OUT = pathlib.Path(__file__).resolve().parents[2] / "src/text/unicode_reference.inc"
FORMS = {name: getattr(normalizers, name)() for name in ("NFC", "NFD", "NFKC", "NFKD")}
ASCII_PUNCTUATION = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
drop_marks = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
clean = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)
strip_accents, punctuation = normalizers.StripAccents(), pre_tokenizers.Punctuation()


def kinds(c):
    category = unicodedata.category(c)
    # Alone, after a mark of a high class, before one of a low class: decomposed, reordered.
    if any(form.normalize_str(s) != unicodedata.normalize(name, s)
           for name, form in FORMS.items() for s in (c, "a\u0345" + c, "a" + c + "\u0334")):
        yield "kNormalForms"
    if category == "Mn" and drop_marks.normalize_str("a" + c) != "a":
        yield "kNonspacingMarks"
    if category[0] == "M" and strip_accents.normalize_str(c) != "":
        yield "kMarks"
    if category[0] == "P" and c not in ASCII_PUNCTUATION and len(punctuation.pre_tokenize_str("a" + c + "a")) != 3:
        yield "kPunctuation"
    if category == "Cf" and clean.normalize_str(c) != "":
        yield "kControl"


def main():
    ranges = {}
    for code in (*range(0x80, 0xD800), *range(0xE000, 0x110000)):
        if unicodedata.category(chr(code)) in ("Cn", "Co", "Cs"):
            continue
        for kind in kinds(chr(code)):
            rows = ranges.setdefault(kind, [])
            if rows and rows[-1][1] == code - 1:
                rows[-1][1] = code
            else:
                rows.append([code, code])
    lines = [f"// Written by tools/golden/tokenizer_reference_unicode.py: {{first, last, kind}}. Read by unicode_reference.cc only."]
    lines += [f"{{0x{a:x}, 0x{b:x}, {kind}}}," for kind in sorted(ranges) for a, b in ranges[kind]]
    OUT.write_text("\n".join(lines) + "\n")


main()
