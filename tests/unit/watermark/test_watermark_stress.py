"""What is counted under attack, on a small random model and on the command line."""

import json

import numpy as np
import pytest
import torch
from scipy import stats

from auditor.cli.main import run
from auditor.errors import UsageError
from auditor.pipeline.subject import Subject
from watermark.registration import candidates, searching
from watermark.removal.catalogue import SIGNAL
from watermark.schemes.hstr import Hstr
from watermark.schemes.tail_sign import TailSign
from watermark.stress import Marked, draw_marked, stress


class Glass:
    """A model whose pictures are their own noise, three channels of it."""

    class components:
        class kind:
            @staticmethod
            def patch(base):
                return 1

        class vae:
            class config:
                block_out_channels = (1,)

    def encode_image(self, images):
        return images * 4

    def decode(self, latents):
        return latents / 4

    def invert_latents(self, clean, prompts, steps):
        return clean


def marked_glass(scheme, count=4, shape=(3, 32, 32)):
    from watermark.keys import MasterKey

    key, nonces = MasterKey(bytes(32)), tuple(bytes([i]) * 12 for i in range(count))
    word = bytes([7]) * (scheme.capacity(shape).payload_bits // 8)
    noise = np.stack([scheme.embed(key, nonce, shape, word) for nonce in nonces])
    return Marked(torch.from_numpy(noise) / 4, key, nonces, word, shape)


def test_rows_count_what_is_found_and_read():
    scheme = TailSign()
    attacks = [(SIGNAL["noise"], 0.05), (SIGNAL["brightness"], 0.0), (SIGNAL["crop"], 0.7)]
    rows = stress(Glass(), scheme, marked_glass(scheme), attacks, alpha=1e-6)
    assert [(row.attack, row.found, row.payloads) for row in rows] == [
        ("none", 4, 4),
        ("noise", 4, 4),
        ("brightness", 0, rows[2].payloads),
        ("crop", 0, rows[3].payloads),
    ]
    plain, noise, _, crop = rows
    assert (plain.psnr, crop.psnr) == (None, None)
    assert noise.psnr == pytest.approx(26, abs=0.3)
    assert plain.low == pytest.approx(stats.beta.ppf(0.025, 4, 1))
    assert plain.high == 1
    assert noise.median_p < 1e-6
    json.dumps([row.document() for row in rows])


def test_a_search_finds_what_was_mirrored_and_cut_and_pays_for_it():
    scheme = Hstr()
    marked = marked_glass(scheme, count=2)
    attacks = [(SIGNAL["flip"], 1), (SIGNAL["crop"], 0.8)]
    plain = stress(Glass(), scheme, marked, attacks, alpha=1e-6)
    searched = stress(Glass(), scheme, marked, attacks, alpha=1e-6, register=True)
    assert [row.found for row in plain[1:]] == [0, 0]
    assert [row.found for row in searched] == [2, 2, 2]
    assert searched[0].median_p == pytest.approx(2 * plain[0].median_p)


def test_the_declared_search_covers_turns_mirrors_and_scales_of_whole_pictures_and_places_of_parts():
    whole = candidates((4, 16, 16), (4, 16, 16))
    assert sum(change.zoom == 1 for change in whole) == 121
    assert {round(change.zoom**2, 2) for change in whole} == {1, 0.9, 0.75, 0.5}
    assert len(candidates((4, 16, 16), (4, 12, 10))) == 5 * 7
    with pytest.raises(UsageError, match="cannot be a part"):
        candidates((4, 16, 16), (4, 17, 16))
    test = searching(lambda latents: Hstr().detect(latents, marked_glass(Hstr()).key), (3, 16, 16))
    found = test(np.random.default_rng(0).normal(size=(3, 16, 16)))
    assert found.looks in (2, 2 * len(candidates((3, 16, 16), (3, 16, 16))))


def test_a_level_out_of_reach_is_an_error():
    scheme = Hstr()
    with pytest.raises(UsageError, match="out of reach"):
        stress(Glass(), scheme, marked_glass(scheme, count=1), [], alpha=1e-80)


def test_marked_pictures_are_the_same_for_the_same_seed(tiny_base):
    view = Subject(tiny_base("sd1"), []).base
    given = {"size": 32, "steps": 2, "guidance": 1.0}
    one, again, other = (draw_marked(view, Hstr(), ["a cat"] * 2, seed=seed, **given) for seed in (1, 1, 2))
    assert (one.images == again.images).all()
    assert one.key.id == again.key.id != other.key.id
    assert one.shape == (4, 16, 16)
    with pytest.raises(UsageError, match="one picture"):
        draw_marked(view, Hstr(), [], seed=0, **given)


def test_the_command_counts_and_says_what_is_wrong(tiny_folders, capsys):
    base = ["watermark", "stress", "--model", str(tiny_folders("sd1")), "--size", "32", "--steps", "2"]
    base += ["--scheme", "hstr", "--count", "2", "--guidance", "1"]
    assert run([*base, "--attack", "jpeg=50", "--attack", "vae=1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["attack"] for row in told["rows"]] == ["none", "jpeg", "vae"]
    assert [row["n"] for row in told["rows"]] == [2, 2, 2]
    assert run([*base, "--attack", "flip"]) == 0
    out = capsys.readouterr().out
    assert "flip" in out
    assert "found: p <=" in out
    for wrong, message in (("jpge", "did you mean"), ("jpeg=x", "not a number"), ("jpeg=0", "out of range")):
        assert run([*base, "--attack", wrong]) == 64
        assert message in capsys.readouterr().err
