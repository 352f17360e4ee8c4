"""Signatures: what makes two samples, texts or images equal, and what does not."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage

from tests.data.make import noise, picture
from vila_core.config import validate
from vila_core.data.dedupe import DedupeConfig, Signatures, SignaturesBuilder, Signer, blocks, join
from vila_core.data.dedupe.cosine import SIDE, dct2
from vila_core.data.dedupe.signature import text_hash
from vila_core.data.dedupe.table import config_of, scheme
from vila_core.data.dedupe.text import grams, normalised, words
from vila_core.data.sample import Image, Part, Sample, Text, make_sample
from vila_core.errors import Damaged, UserError
from vila_core.images import BadImage, decode

BYTES = DedupeConfig(perceptual=False)
ROOT = Path(__file__).resolve().parents[2]


def sample(*parts: Part, images: tuple[bytes, ...] = (), number: int = 0) -> Sample:
    return make_sample(f"c/0/{number:06d}", "interleaved", parts, images)


def test_words_are_those_of_any_script_and_spelling() -> None:
    assert words(" The CAT's “naïve”\tﬁle, 3.5! ") == ["the", "cat", "s", "naïve", "file", "3", "5"]
    assert words("猫在 mat 上") == ["猫", "在", "mat", "上"]
    assert words("Straße") == words("STRASSE")
    assert normalised("3.5 +  X") == "3.5 + x"


def test_grams_are_of_words_in_a_row() -> None:
    long = "one two three four five"
    assert len(grams(long, 3)) == 3
    assert len(grams("one two", 3)) == 0
    assert set(grams("ONE, two? three!", 3)) <= set(grams(long, 3))
    assert not set(grams("three two one", 3)) & set(grams(long, 3))
    assert not set(grams(long, 3)) & set(grams(long, 4))
    repeated = grams("a b a b a b", 2)
    assert repeated[0] == repeated[2] == repeated[4] != repeated[1]


@given(st.lists(st.text(max_size=5), max_size=20), st.integers(3, 6))
def test_grams_follow_from_words_alone(pieces: list[str], size: int) -> None:
    text = " ".join(pieces)
    found = words(text)
    assert grams(text, size).tolist() == grams(" , ".join(found).upper(), size).tolist() or (
        words(" ".join(found).upper()) != found  # capitals of some letters are others' too
    )
    assert len(grams(text, size)) == max(0, len(found) - size + 1)


def test_hashes_are_the_same_in_another_process() -> None:
    code = "from vila_core.data.dedupe.text import grams; print(grams('a b c d', 3).tolist())"
    other = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == str(grams("a b c d", 3).tolist())


def test_a_text_is_its_words_roles_and_places() -> None:
    text = text_hash([Image(0), Text("A red  Circle.")])
    assert text == text_hash([Image(0), Text("a red circle. ")])
    assert text != text_hash([Text("a red circle."), Image(0)])
    assert text != text_hash([Image(0), Text("a red circle")])
    assert text != text_hash([Image(0), Text("a red circle.", "user")])
    assert text_hash([Text("\ud800")]) != text_hash([Text("")])


def test_a_signature_is_small_and_goes_to_other_processes() -> None:
    one = sample(Image(0), Text("word " * 13), images=(noise(),))
    signature = Signer(BYTES)(one)
    again = pickle.loads(pickle.dumps(signature))
    assert (again.content, again.text) == (signature.content, signature.text)
    assert signature.content == int(one.digest[:16], 16)
    assert again.images.tolist() == signature.images.tolist()
    assert len(signature.phashes) == 0
    assert len(signature.grams) == 1
    assert len(pickle.dumps(signature)) < 800


def test_the_cosine_transform_is_scipys_to_the_last_bit() -> None:
    import scipy.fftpack

    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (400, SIDE, SIDE), dtype=np.uint8)
    squares[100:200] = squares[100:200, :1, :1]  # one colour
    squares[200:300, :, SIDE // 2 :] = squares[200:300, :, SIDE // 2 - 1 :: -1]  # symmetric
    squares[300:, :, 5:] = 7  # where coefficients are zero but for rounding
    for square in squares:
        wanted = scipy.fftpack.dct(scipy.fftpack.dct(square, axis=0), axis=1)
        assert np.array_equal(dct2(square), wanted)


def test_phash_is_the_librarys() -> None:
    import imagehash

    images = (noise(1), noise(2, form="PNG"), picture((1, 2, 3), form="WEBP"))
    parts = [Image(number) for number in range(3)]
    found = Signer(DedupeConfig())(sample(*parts, Text("x"), images=images)).phashes
    for value, image in zip(found.tolist(), images, strict=True):
        assert f"{value:016x}" == str(imagehash.phash(decode(image)))


def test_phash_survives_another_size_and_format() -> None:
    rng = np.random.default_rng(3)
    small = PilImage.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    copies = []
    for size, form in (((1024, 768), "JPEG"), ((640, 480), "PNG"), ((320, 240), "WEBP")):
        file = io.BytesIO()
        small.resize(size, PilImage.Resampling.BICUBIC).save(file, form)
        copies.append(file.getvalue())
    first, *others = Signer(DedupeConfig()).phashes(copies).tolist()
    assert all((first ^ other).bit_count() <= DedupeConfig().distance for other in others)
    (other,) = Signer(DedupeConfig()).phashes([noise(5)]).tolist()
    assert (first ^ other).bit_count() > 11


def test_an_image_that_cannot_be_decoded_is_said_to_be() -> None:
    with pytest.raises(BadImage, match="truncated"):
        Signer(DedupeConfig()).phashes([noise()[:200]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_words": 8}, "min_words 8 is below words 13"),
        ({"distance": 12}, "dedupe.distance: 12 is not valid"),
        ({"decontaminate": True}, "'block', 'report' or 'off'"),
        ({"perceptional": False}, "did you mean 'perceptual'"),
    ],
)
def test_mistakes_in_the_config_are_explained(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(DedupeConfig, values, where="recipe.yaml", path="dedupe")


def test_off_may_be_written_without_quotes() -> None:
    assert validate(DedupeConfig, {"decontaminate": False}, where="x").decontaminate == "off"


def table(count: int, seed: int = 0) -> tuple[Signatures, SignaturesBuilder]:
    rng, builder = np.random.default_rng(seed), SignaturesBuilder(BYTES)
    for number in range(count):
        images = [noise(number, 16) for _ in range(rng.integers(0, 3))]
        parts = [Image(n) for n in range(len(images))]
        text = " ".join(map(str, range(rng.integers(0, 40))))
        builder.add(Signer(BYTES)(sample(*parts, Text(text), images=tuple(images), number=number)))
    return builder.build(), builder


def listed(signatures: Signatures) -> list[tuple[object, ...]]:
    return [
        (one.content, one.text, one.images.tolist(), one.phashes.tolist(), one.grams.tolist())
        for one in signatures
    ]


def test_tables_are_saved_and_joined_to_the_same_bytes(tmp_path: Path) -> None:
    whole, builder = table(30)
    whole.save(tmp_path / "whole.npz")
    assert listed(Signatures.load(tmp_path / "whole.npz")) == listed(whole)
    for number, (start, stop) in enumerate([(0, 11), (11, 11), (11, 99)]):
        whole.part(start, stop).save(tmp_path / f"{number}.npz")
    join([tmp_path / "0.npz", tmp_path / "1.npz", whole.part(11, 30)], tmp_path / "joined.npz")
    assert (tmp_path / "joined.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    builder.clear()
    assert len(builder) == len(builder.build()) == 0


@pytest.mark.parametrize("rows", [1, 7, 30, 100])
def test_blocks_give_every_row(tmp_path: Path, rows: int) -> None:
    whole, _ = table(30)
    whole.save(tmp_path / "signatures.npz")
    with (tmp_path / "signatures.npz").open("rb") as file:
        parts = list(blocks(file, "signatures.npz", rows))
    assert [row for part in parts for row in listed(part)] == listed(whole)
    assert max(map(len, parts)) == min(rows, 30)


def test_a_damaged_table_and_a_mixture_of_schemes_are_refused(tmp_path: Path) -> None:
    whole, _ = table(3)
    path = tmp_path / "signatures.npz"
    whole.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(Damaged, match="signatures"):
        Signatures.load(path)
    path.write_bytes(data.replace(whole.grams[:4].tobytes(), bytes(32)))
    with path.open("rb") as file, pytest.raises(Damaged, match=r"^here: .*CRC"):
        list(blocks(file, "here"))
    other = SignaturesBuilder(BYTES.model_copy(update={"words": 5})).build()
    assert other.scheme == scheme(BYTES.model_copy(update={"words": 5})) != whole.scheme
    with pytest.raises(ValueError, match="one scheme"):
        join([whole, other], path)


def test_a_table_says_how_it_was_made() -> None:
    config = DedupeConfig(distance=5, words=8)
    assert config_of(scheme(config)) == config
    old = scheme(config).replace("imagehash.phash", "another.phash")
    with pytest.raises(ValueError, match=r"images by another.phash"):
        config_of(old)
    for broken in ("", "[]", scheme(config).replace("distance", "distances")):
        with pytest.raises(ValueError, match="says nothing"):
            config_of(broken)


def test_a_picture_that_was_decoded_already_hashes_alike() -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        coarse = PilImage.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((1024, 768), PilImage.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        sample = make_sample("c/0/000000", "caption", [Image(0), Text("x")], [file.getvalue()])
        signer = Signer(DedupeConfig())
        (fresh,) = signer(sample).phashes.tolist()
        (reused,) = signer(sample, [decode(file.getvalue(), at_least=336)]).phashes.tolist()
        assert (fresh ^ reused).bit_count() <= 2
