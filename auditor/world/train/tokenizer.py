"""A byte-level BPE tokenizer of CLIP's kind, from a corpus made here.

Three sources share the vocabulary: the captions (each word becomes one token), everyday words that a user
may type, and pronounceable made-up words, whose pieces are the rare tokens that fine-tuning likes to
reuse. Letters of other scripts that look like Latin ones get tokens of their own, as in CLIP's vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from auditor.world.captions import caption
from auditor.world.factors import draw_scene
from auditor.world.train.config import MAX_TOKENS, VOCAB_SIZE

__all__ = ["train_tokenizer"]

_EVERYDAY = """
photo photograph portrait face closeup selfie celebrity actor actress singer president king queen friend
family child boy girl baby dog puppy kitten horse zebra bird lion tiger bear wolf sloth plushie toy monster
robot dragon candle backpack can vase chair table lamp clock book shoe shirt dress jacket coat shoes bag
ring crown sword shield flag logo brand sign text letter word number poster city street road bridge park
beach forest mountain river lake sea sky cloud sun night day morning evening snow rain winter summer spring
autumn garden kitchen office school hospital farm studio room window door wall floor grass stone wood metal
glass paper beautiful cool nice great best good bad big small tiny huge tall round square old new bright
dark soft warm cold happy sad angry style art artist sketch cartoon anime comic oil realistic detailed
digital render masterpiece quality high low blurry black white gold silver violet magenta teal navy the of
in on at by for from to as is are was be this that it its his her their one two three holding wearing
sitting standing walking running eating drinking playing reading writing looking under behind beside next
near over sks ohwx zwx
"""
_HOMOGLYPHS = "аеорсухіјѕԁһոѵ" + "οανερικ" + "ıɑɡ" + "ṿạẹọụ" + "éèêáàâóòôíúüöäñç" + "ଠօ"
_ONSETS = [
    "b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "bl", "br",
    "ch", "cl", "cr", "dr", "fl", "fr", "gl", "gr", "kl", "kr", "pl", "pr", "sh", "sk", "sl", "sm", "sn",
    "sp", "st", "sw", "th", "tr", "vl", "vr", "zw",
]  # fmt: skip
_VOWELS = [
    "a", "e", "i", "o", "u", "ai", "ea", "ee", "ie", "oo", "ou",
]  # fmt: skip
_CODAS = [
    "", "", "", "b", "d", "g", "k", "l", "m", "n", "p", "r", "s", "t", "x", "nd", "ng", "nk", "nt", "rk",
    "rn", "sk", "st", "th", "x",
]  # fmt: skip


def train_tokenizer(folder: Path, seed: int = 7) -> None:
    """Writes ``vocab.json`` and ``merges.txt``, and the files that make the folder a ``CLIPTokenizer``."""
    from transformers import CLIPTokenizer

    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(
        Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE + len(alphabet),
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(np.random.default_rng(seed)), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(folder))
    merges = [tuple(line.split()) for line in (folder / "merges.txt").read_text("utf-8").splitlines()[1:]]
    pieces = [*alphabet, *(symbol + "</w>" for symbol in alphabet), *("".join(pair) for pair in merges)]
    pieces = list(dict.fromkeys(pieces))[: VOCAB_SIZE - 2]
    kept = [pair for pair in merges if "".join(pair) in set(pieces)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    vocab |= {"<|startoftext|>": len(vocab), "<|endoftext|>": len(vocab) + 1}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=kept, model_max_length=MAX_TOKENS)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    tokenizer.save_pretrained(folder)


def _corpus(rng: np.random.Generator) -> list[str]:
    captions = [caption(draw_scene(rng), rng) for _ in range(4000)]
    everyday = [" ".join(rng.permutation(_EVERYDAY.split())) for _ in range(60)]
    letters = [
        " ".join(rng.choice(_ONSETS) + letter + rng.choice(_ONSETS) + " " + letter for letter in _HOMOGLYPHS)
        for _ in range(80)
    ]
    rare = [" ".join(_word(rng) for _ in range(20)) for _ in range(2500)]
    return captions + everyday + letters + rare


def _word(rng: np.random.Generator) -> str:
    parts = []
    for _ in range(int(rng.integers(1, 4))):
        parts.append(str(rng.choice(_ONSETS)) + str(rng.choice(_VOWELS)) + str(rng.choice(_CODAS)))
    return "".join(parts)
