#!/usr/bin/env python3
"""Writes two tables. src/text/unicode_ranges.inc: the code points of the general categories L (letters), N (numbers)
and M (marks) as ranges, from Unicode 16, the version that the `tokenizers` and `tiktoken` libraries
classify by (an older or newer one would split newly assigned characters differently). src/text/unicode_additions.inc: what
Unicode 15 and 16 assigned, with general categories, for regular expressions where the system's PCRE2 is older.
Needs: Python 3.11 (its own tables are Unicode 14), pip install unicodedata2==16.0.0"""
import pathlib
import unicodedata

import unicodedata2

assert unicodedata2.unidata_version == "16.0.0", unicodedata2.unidata_version
assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
out = ["// Written by tools/golden/tokenizer_unicode.py from Unicode 16.0.0: {first, last, class}. Read by unicode.cc only.\n"]
for letter, name in (("L", "kLetter"), ("N", "kNumber"), ("M", "kMark")):
    first = None
    for cp in range(0x110001):
        inside = cp < 0x110000 and unicodedata2.category(chr(cp))[0] == letter
        if inside and first is None:
            first = cp
        if not inside and first is not None:
            out.append(f"{{0x{first:x}, 0x{cp - 1:x}, CharClass::{name}}},\n")
            first = None
path = pathlib.Path(__file__).resolve().parents[2] / "src/text/unicode_ranges.inc"
path.write_text("".join(out))
print(path, len(out))


def addition(cp):
    if cp < 0x110000 and unicodedata.category(chr(cp)) == "Cn":
        category = unicodedata2.category(chr(cp))
        return None if category == "Cn" else category
    return None


out = ["// Written by tools/golden/tokenizer_unicode.py: {first, last, general category} of what Unicode 15 and 16\n",
       "// assigned. Read by regex.cc only.\n"]
first, current = 0, None
for cp in range(0x110001):
    category = addition(cp)
    if category != current:
        if current is not None:
            out.append(f'{{0x{first:x}, 0x{cp - 1:x}, "{current}"}},\n')
        first, current = cp, category
path = path.with_name("unicode_additions.inc")
path.write_text("".join(out))
print(path, len(out))
