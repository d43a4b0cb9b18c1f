#!/usr/bin/env python3
"""Writes to tests/golden/tokenizer/ a small tokenizer.json, made by Hugging Face `tokenizers`, for each way that
published models build theirs and that tokenizer.py does not have: WordPiece, Unigram, SentencePiece BPE, WordLevel,
words with an end mark, the pre-tokenizers of Falcon, BLOOM, DeepSeek and gpt-oss; ids and decoded text of texts.json
by that library. tests/text/golden_test.cc holds ours against them. Training breaks ties as it likes: files
differ a little from run to run.
Needs: pip install tokenizers==0.23.3 sentencepiece==0.2.3 protobuf     Use: tools/golden/tokenizer_kinds.py"""
import json
import pathlib

from sentencepiece import sentencepiece_model_pb2
from sentencepiece_models import corpus, rules, train
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/tokenizer"
LINES = corpus()
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
            r"\s*[\r\n]+|\s+(?!\S)|\s+")
sequence = pre_tokenizers.Sequence
plain_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert=invert)


def byte_level(pre_tokenizer, special=("<|end|>",)):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    tokenizer.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=380, special_tokens=list(special), initial_alphabet=ALPHABET,
                                                            show_progress=False))
    return tokenizer


def without_added_bytes(tokenizer, **model):
    """Byte tokens belong to the model alone."""
    changed = json.loads(tokenizer.to_str())
    changed["added_tokens"] = [token for token in changed["added_tokens"] if token["content"] not in BYTE_TOKENS]
    changed["model"].update(model)
    return changed


def sentencepiece_bpe(normalizer, pre_tokenizer, decoder, **model):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(LINES, trainers.BpeTrainer(
        vocab_size=520, special_tokens=["<unk>", "<s>", "</s>", *BYTE_TOKENS], show_progress=False))
    changed = without_added_bytes(tokenizer, byte_fallback=True, fuse_unk=True, unk_token="<unk>", **model)
    changed["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(changed))
    tokenizer.normalizer, tokenizer.decoder = normalizer, decoder
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def unigram(normalizer, pre_tokenizer, decoder, byte_fallback=False):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    special = ["<pad>", "</s>", "<unk>", *(BYTE_TOKENS if byte_fallback else [])]
    tokenizer.train_from_iterator(LINES, trainers.UnigramTrainer(
        vocab_size=520 if byte_fallback else 300, special_tokens=special, unk_token="<unk>", show_progress=False))
    if byte_fallback:
        tokenizer = Tokenizer.from_str(json.dumps(without_added_bytes(tokenizer, byte_fallback=True)))
    tokenizer.decoder = decoder
    return tokenizer


def wordpiece(normalizer, pre_tokenizer, **model):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", **model))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(LINES, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return tokenizer


def configurations():
    spaces = normalizers.Replace(" ", "▁")
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    llama = sentencepiece_bpe(normalizers.Sequence([normalizers.Prepend("▁"), spaces]), None,
                              decoders.Sequence([*back, decoders.Strip(" ", 1, 0)]))
    llama.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    llama.add_tokens([AddedToken("<|end|>", special=True, normalized=False), AddedToken("the", normalized=True),
                      AddedToken("yes", rstrip=True, normalized=False)])
    yield "llama2", llama
    yield "metaspace_bpe", sentencepiece_bpe(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
                                             decoders.Sequence([*back, decoders.Strip(" ", 1, 0)]))
    gemma = sentencepiece_bpe(spaces, pre_tokenizers.Split(" ", "merged_with_previous"), decoders.Sequence(back), ignore_merges=True)
    gemma.add_tokens([AddedToken(text, normalized=False) for text in ("\n", "\n\n", "▁▁", "<mask>")])
    yield "gemma", gemma
    charsmap = sentencepiece_model_pb2.ModelProto.FromString(
        train({"model_type": "unigram", "rules": rules(False)})).normalizer_spec.precompiled_charsmap
    mapped = normalizers.Precompiled(charsmap)
    t5 = unigram(mapped, pre_tokenizers.Metaspace(), decoders.Metaspace())
    t5.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    t5.add_special_tokens(["<|end|>"])
    t5.add_tokens([AddedToken("cat", single_word=True)])
    yield "t5", t5
    yield "albert", unigram(normalizers.Sequence([
        normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(), normalizers.StripAccents(),
        normalizers.Lowercase(), mapped, normalizers.Replace(Regex(" {2,}"), " ")]), pre_tokenizers.Metaspace(), decoders.Metaspace())
    yield "xlmr", unigram(normalizers.Sequence([mapped, normalizers.Strip(left=False, right=True)]),
                          sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]), decoders.Metaspace())
    yield "unigram_bytes", unigram(spaces, pre_tokenizers.Metaspace(prepend_scheme="never", split=False), decoders.Sequence(back), True)
    bert = wordpiece(normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer())
    bert.add_tokens([AddedToken("cat", single_word=True), AddedToken("<mask>", lstrip=True, normalized=False)])
    yield "bert", bert
    yield "bert_cased", wordpiece(normalizers.BertNormalizer(lowercase=False), pre_tokenizers.BertPreTokenizer(),
                                  max_input_chars_per_word=9)
    words = wordpiece(normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]),
                      pre_tokenizers.Whitespace())
    words.decoder, words.post_processor = decoders.WordPiece(cleanup=False), processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    yield "wordpiece_words", words
    clip = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    clip.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    clip.pre_tokenizer = sequence([split(r"<\|end\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", "removed", True),
                                   plain_bytes])
    clip.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=640, special_tokens=["<unk>", "<|end|>"], initial_alphabet=ALPHABET,
                                                       end_of_word_suffix="</w>", show_progress=False))
    clip.decoder = decoders.BPEDecoder(suffix="</w>")
    yield "clip", clip
    level = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    level.pre_tokenizer = pre_tokenizers.Whitespace()
    level.train_from_iterator(LINES, trainers.WordLevelTrainer(vocab_size=90, special_tokens=["[UNK]"], show_progress=False))
    yield "word_level", level
    roberta = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), ("<s>", "</s>", "<mask>"))
    roberta.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    yield "roberta", roberta
    yield "falcon", byte_level(sequence([
        pre_tokenizers.Punctuation(behavior="contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False), split("[0-9][0-9][0-9]")]))
    yield "bloom", byte_level(sequence([split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), plain_bytes]))
    yield "deepseek", byte_level(sequence([split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK), plain_bytes]))
    yield "gpt_oss", byte_level(sequence([split(O200K), plain_bytes]))


def main():
    texts = json.loads((OUT / "texts.json").read_text())
    for name, tokenizer in configurations():
        saved = json.loads(tokenizer.to_str())
        (OUT / f"{name}.tokenizer.json").write_text(json.dumps(saved, ensure_ascii=False, separators=(",", ":")) + "\n")
        rows = []
        for text in texts:
            ids = tokenizer.encode(text).ids
            plain = tokenizer.encode(text, add_special_tokens=False).ids
            rows.append({"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False)})
            if plain != ids:
                rows[-1]["plain"] = plain
        (OUT / f"{name}.cases.json").write_text(json.dumps(rows, ensure_ascii=False, separators=(",", ":")) + "\n")
        print(f"{name}: {tokenizer.get_vocab_size()} tokens")


main()
