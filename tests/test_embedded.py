"""The embedded codec: its vocabulary, its target format, its checkpoint."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from palimpsest.codecs.embedded.architecture import TOKEN_DIM, fresh_model
from palimpsest.codecs.embedded.cell_reader import CellReader
from palimpsest.codecs.embedded.target import ALPHABET, AddressedTarget, page_ids, template
from palimpsest.codecs.embedded.vocabulary import (
    BOS,
    EOS,
    FIRST_CELL,
    FIRST_TOKEN,
    FIRST_X,
    FIRST_Y,
    GRIDS,
    IMAGE,
    MODE_NAMES,
    STEPS,
    SYMBOLS,
    first_token_ids,
    vocabulary_size,
)
from palimpsest.codecs.modes import MODES
from palimpsest.lab.training.guidance import FREE, HEADS, places_to_look
from palimpsest.lab.training.ideal_reading import looks_at_image, read_ideally
from palimpsest.pages.characters import LATIN
from palimpsest.pages.layouts.grid import Grid, lay_out
from palimpsest.pages.normalise import normalise
from palimpsest.settings import presets_folder

TARGET = AddressedTarget()
STARTS = torch.zeros(1, dtype=torch.int64)
texts = st.text(alphabet=st.sampled_from(LATIN + "\n\t   漢я"), min_size=1, max_size=400).map(normalise).filter(bool)


def test_ids_do_not_collide() -> None:
    firsts = first_token_ids()
    edges = [FIRST_CELL, FIRST_CELL + len(SYMBOLS), FIRST_Y, FIRST_Y + STEPS, FIRST_X + STEPS, FIRST_TOKEN]
    edges += [firsts[name] + MODES[name].num_vision_tokens for name in MODE_NAMES]
    assert edges == sorted(edges) and edges[-1] <= vocabulary_size()
    assert [firsts[name] for name in MODE_NAMES[1:]] == edges[6:-1]


@given(texts, st.sampled_from(GRIDS), st.sampled_from(MODE_NAMES))
def test_a_page_is_spelled_and_read_back(text: str, grid: str, mode: str) -> None:
    page = next(lay_out(text, Grid.parse(grid, "latin")))
    shown = text[: page.char_end]
    ids = TARGET.encode(shown, *map(int, grid.split("x")), MODES[mode])
    assert ids[-1] == EOS and max(ids) < vocabulary_size()
    assert TARGET.decode(ids) == shown


@pytest.mark.parametrize("mode", MODE_NAMES)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_cell_follows_its_place_and_the_address_of_its_own_token(grid: str, mode: str) -> None:
    columns, rows = map(int, grid.split("x"))
    side, first = MODES[mode].grid, first_token_ids()[mode]
    ids, cells = template(columns, rows, mode)
    assert len(cells) == columns * rows and (np.diff(cells) > 0).all()
    found: dict[tuple[int, int, int], tuple[int, int]] = {}
    token = height = place = -1
    for position, written in enumerate(ids.tolist()):
        if written >= FIRST_TOKEN:
            token, place = written - first, -1
        elif written >= FIRST_X:
            place = written - FIRST_X
        elif written:
            height = written - FIRST_Y
        else:
            row, column = divmod(int(np.searchsorted(cells, position)), columns)
            y, x = (row + 0.5) * side / rows, (column + 0.5) * side / columns
            assert token == int(y) * side + int(x)
            assert (height, place) == (int(y % 1 * STEPS), int(x % 1 * STEPS))
            assert found.setdefault((token, height, place), (row, column)) == (row, column)


@pytest.mark.parametrize("mode", MODE_NAMES)
@pytest.mark.parametrize("grid", ("64x32", "80x40", "112x56", "160x80"))
def test_guidance_looks_at_the_patch_that_holds_a_cell_s_centre(grid: str, mode: str) -> None:
    columns, rows = map(int, grid.split("x"))
    side, prefix = MODES[mode].grid, 100
    ids, cells = template(columns, rows, mode)
    given = torch.from_numpy(ids.astype(np.int64))[None]
    first, second, third = (
        look[0].T[torch.from_numpy(cells - 1)].numpy()
        for look in places_to_look(given, STARTS, Grid(columns, rows), mode, prefix)
    )
    row, column = np.divmod(np.arange(rows * columns), columns)
    py, px = (int_centre * side * 4 // (2 * count) % 4 for int_centre, count in ((2 * row + 1, rows), (2 * column + 1, columns)))
    carrying = second[np.arange(len(cells)), py // 2 * 8 + px // 2 * 4 + py % 2 * 2 + px % 2]
    leading = np.maximum.accumulate(np.where(ids >= FIRST_TOKEN, np.arange(len(ids)), 0))[cells]
    assert (carrying == prefix + leading).all() and np.isin(second, [0, *np.unique(prefix + leading)]).all()
    assert (first[:, 0] == prefix + leading + 1).all() and (first[:, -1] == 0).all() and (third == 0).all()


def test_guidance_gathers_what_the_ids_between_cells_follow_from() -> None:
    grid, prefix = Grid(64, 32, ALPHABET), 74
    whole = TARGET.encode(("In the beginning was the page. " * 50)[:900], 64, 32, MODES["tiny"])
    given = torch.tensor([whole, [*whole[:500], *[-100] * (len(whole) - 500)]])
    first, second, third = (look.numpy() for look in places_to_look(given, torch.tensor([0, 36]), grid, "tiny", prefix))
    token, height, place, cell = 36, 37, 40, 41  # of the third visual token of a row; each has eight cells
    kinds = [whole[at] >= first_id for at, first_id in ((token, FIRST_TOKEN), (height, FIRST_Y), (place, FIRST_X))]
    assert all(kinds) and FIRST_CELL <= whole[cell] < FIRST_Y
    assert first[0, :, cell].tolist() == np.repeat(prefix + np.array([place, token, height, -1]), 4).tolist()
    assert first[0, :, height].tolist() == np.repeat(prefix + np.array([token, token, height, -1]), 4).tolist()
    assert (third[0, :, token] == prefix + token - 1).all() and (third[0, :, [height, place, cell]] == 0).all()
    assert (second[0, :, [token, height, cell]] == 0).all()
    assert (third[0, :, 0] == prefix - 1).all() and (third[1, :, 0] == FREE).all()  # from within, what stood before is not given
    assert all((look[1, :, 500:] == FREE).all() for look in (first, second, third))


@pytest.mark.parametrize(("name", "mode"), [("64x32", "tiny"), ("80x40", "tiny"), ("96x48", "small")])
def test_cells_are_read_ideally_as_the_decoder_reads_them_where_it_looks_right(name: str, mode: str) -> None:
    """Against the decoder's own layers over the whole target, every attention set to where guidance wants it."""
    torch.manual_seed(0)
    model, grid = fresh_model(0).double(), Grid.parse(name, ALPHABET)
    side, decoder = MODES[mode].grid, model.model.language_model
    ids, cells = template(grid.columns, grid.rows, mode)
    wanted = slice(2 * grid.columns, 2 * grid.columns + 20)  # cells of the third row
    upto = cells[wanted][-1]
    given = torch.from_numpy(ids[:upto].astype(np.int64))[None]
    features = torch.randn(1, side * side, TOKEN_DIM, dtype=torch.float64)
    rows = torch.cat([features.view(1, side, side, -1), torch.randn(1, side, 1, TOKEN_DIM).double()], 2).flatten(1, 2)
    hidden = torch.cat([decoder.embed_tokens(torch.tensor([[BOS]])), rows, decoder.embed_tokens(given)], 1)
    prefix = 1 + rows.shape[1]
    for layer, look in zip(decoder.layers, places_to_look(given, STARTS, grid, mode, prefix), strict=True):
        at = torch.cat([torch.zeros(1, HEADS, prefix, dtype=torch.int64), look.clamp(min=0)], 2)
        value = layer.self_attn.v_proj(layer.input_layernorm(hidden)).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        seen = value.gather(2, at[..., None].expand(-1, -1, -1, value.shape[-1])).transpose(1, 2).flatten(2)
        hidden = hidden + layer.self_attn.o_proj(seen)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    expected = model.lm_head(decoder.norm(hidden))[:, prefix + torch.from_numpy(cells[wanted] - 1)]
    chosen = torch.arange(grid.columns * grid.rows)[wanted]
    found = read_ideally(decoder, model.lm_head, features, grid, mode, chosen)
    torch.testing.assert_close(found, expected[..., FIRST_CELL : FIRST_CELL + len(SYMBOLS)])


@pytest.mark.parametrize(("name", "mode"), [("64x32", "tiny"), ("96x48", "small")])
def test_ids_look_at_the_image_ideally_as_the_decoder_looks(name: str, mode: str) -> None:
    """Against the attentions that the stock layer reports for one id at its position in the target."""
    torch.manual_seed(0)
    model, grid, side = fresh_model(0), Grid.parse(name, ALPHABET), MODES[mode].grid
    decoder = model.model.language_model
    decoder.config._attn_implementation = "eager"
    before = torch.randn(2, side * (side + 1) + 3, TOKEN_DIM)
    torch.manual_seed(1)
    scores, expected = looks_at_image(decoder, before, grid, mode, 5)
    torch.manual_seed(1)
    whole, _ = template(grid.columns, grid.rows, mode)
    at = np.flatnonzero(whole >= FIRST_TOKEN)
    for number, chosen in enumerate(at[torch.randint(len(at), (5,)).numpy()].tolist()):
        token = int(whole[chosen]) - first_token_ids()[mode]
        assert expected[number] == 1 + token // side * (side + 1) + token % side
        named = decoder.embed_tokens(torch.tensor([[whole[chosen]]] * 2))
        positions = torch.cat([torch.arange(before.shape[1]), torch.tensor([before.shape[1] + chosen])])[None]
        layer = decoder.layers[0]
        hidden = layer.input_layernorm(torch.cat([before, named], 1))
        _, weights = layer.self_attn(hidden, decoder.rotary_emb(hidden, position_ids=positions), attention_mask=None)
        seen = weights[:, :, -1, :-1]
        torch.testing.assert_close(scores[:, :, number].softmax(-1), seen / seen.sum(-1, keepdim=True))


def test_the_prompt_names_the_grid_and_holds_the_image() -> None:
    mode = MODES["tiny"]
    prompt = TARGET.prompt(80, 40, mode)
    assert prompt[0] == BOS and prompt.count(IMAGE) == mode.num_context_tokens
    assert prompt[-1] != TARGET.prompt(64, 32, mode)[-1]
    with pytest.raises(ValueError, match=r"70x35.*64x32"):
        TARGET.prompt(70, 35, mode)


def test_what_does_not_fit_or_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 2 pages"):
        TARGET.encode("x" * 2049, 64, 32, MODES["tiny"])
    russian = next(lay_out("я", Grid(64, 32)))
    with pytest.raises(ValueError, match=r"U\+044F.*latin"):
        page_ids(russian.cells, Grid(64, 32), "tiny")


@given(st.lists(st.integers(0, 5000), max_size=200))
def test_reading_ids_is_total(ids: list[int]) -> None:
    assert isinstance(TARGET.decode(ids), str)


def test_the_checkpoint_that_ships_is_whole() -> None:
    weights = files("palimpsest.codecs.embedded") / "weights"
    config = json.loads((weights / "config.json").read_text())
    assert config["model_type"] == "unlimited_ocr" and config["text_config"]["vocab_size"] == vocabulary_size()
    assert sum(len(entry.read_bytes()) for entry in weights.iterdir()) <= 40 << 20
    tokenizer = Tokenizer.from_str((weights / "tokenizer.json").read_text())
    assert tokenizer.get_vocab_size() == vocabulary_size()
    cells = "Hello, wörld \U000f0000"
    ids = tokenizer.encode(cells, add_special_tokens=False).ids
    assert ids == [FIRST_CELL + SYMBOLS.index(ord(cell)) for cell in cells]
    assert tokenizer.decode(ids) == cells


def test_the_codec_that_ships_reads_what_it_stores_and_not_an_empty_page() -> None:
    """Public-domain prose and random characters through image, encoder, int8 storage and cell reader."""
    from palimpsest.codecs.adapter import load_codec
    from palimpsest.codecs.token_storage import pack, unpack
    from palimpsest.pages.atlas import atlas
    from palimpsest.verification.fidelity import precision

    codec = load_codec("embedded")
    mode, grid = codec.mode("tiny"), Grid(64, 32, "latin")
    prose = normalise((presets_folder() / "sample" / "austen.txt").read_text())
    noise = "".join(
        np.random.default_rng(5).choice(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789#$%&;:?"), 1500)
    )
    pages = [next(lay_out(text, grid)) for text in (prose, noise)]
    texts = [text[: page.char_end] for text, page in zip((prose, noise), pages, strict=True)]
    images = atlas(grid, mode.px).render(np.stack([page.cells for page in pages]))
    images = np.concatenate([images, np.full_like(images[:1], 255)])
    tokens = unpack("int8", pack("int8", codec.encode(images, mode)), mode.num_vision_tokens, codec.token_dim)
    read = [codec.decode_ids(ids) for ids in codec.read_cells(tokens, (grid.columns, grid.rows))]
    of_prose, of_noise, of_nothing = precision([*texts, texts[0]], read)
    assert of_prose > 0.97 and of_noise > 0.93 and of_nothing < 0.3


def _page(counts: dict[str, int], doubtful: tuple[str, str], margin: float, doubt: int = 5) -> tuple[torch.Tensor, list[str]]:
    """Logits of certain cells, and of `doubt` cells that say the first of two letters with a margin; and what is read in each."""
    reader = CellReader(TOKEN_DIM)
    letters = [letter for letter, count in counts.items() for _ in range(count)] + [doubtful[0]] * doubt
    logits = torch.full((len(letters), len(SYMBOLS)), -30.0)
    for cell, letter in enumerate(letters):
        logits[cell, SYMBOLS.index(ord(letter))] = 10.0
    logits[-doubt:, SYMBOLS.index(ord(doubtful[1]))] = 10.0 - margin
    best, symbols = logits.max(-1)
    kept = logits.clone()
    reader._apply_prior(logits, best, symbols)
    assert torch.equal(logits, kept)
    return logits, [chr(SYMBOLS[symbol]) for symbol in symbols.tolist()]


def test_a_page_s_own_letters_decide_between_those_that_look_alike() -> None:
    straight = {"e": 300, "'": 40}
    assert _page(straight, ("’", "'"), 0.4)[1][-5:] == ["'"] * 5
    assert _page(straight, ("’", "'"), 4.0)[1][-5:] == ["’"] * 5  # what the cell says clearly stays
    assert _page({"e": 300, "’": 40}, ("’", "'"), 0.4)[1][-5:] == ["’"] * 5
    assert _page(straight, ("’", "'"), 0.4)[1][:-5] == ["e"] * 300 + ["'"] * 40


def test_a_page_that_is_read_badly_does_not_know_its_letters() -> None:
    assert _page({"e": 100, "'": 40}, ("’", "'"), 0.4, doubt=40)[1][-40:] == ["’"] * 40


def test_the_generative_decoder_that_ships_reads_what_it_stores() -> None:
    """Random characters, which no language model could guess, written id by id and checked with drafts: the same, and right."""
    from palimpsest.codecs.adapter import load_codec
    from palimpsest.codecs.token_storage import pack, unpack
    from palimpsest.pages.atlas import atlas
    from palimpsest.verification.fidelity import precision
    from palimpsest.verification.greedy import decode
    from palimpsest.verification.reading import DraftedPage

    codec = load_codec("embedded", dtype=torch.float32)
    mode, grid = codec.mode("tiny"), Grid(64, 32, "latin")
    noise = "".join(
        np.random.default_rng(7).choice(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789#$%&;:?"), 120)
    )
    page = next(lay_out(noise, grid))
    images = atlas(grid, mode.px).render(page.cells[None])
    tokens = unpack("int8", pack("int8", codec.encode(images, mode)), mode.num_vision_tokens, codec.token_dim)
    features, prompt = codec.features(tokens, mode), codec.prompt_ids(mode, (64, 32))
    wanted = codec.encode_text(noise, mode, (64, 32))
    limit = len(wanted) + 40
    written = codec.generate(features, [prompt], limit)[0]
    assert precision([noise], [codec.decode_ids(written)])[0] > 0.9
    drafted = DraftedPage(features=features[0], prompt_ids=prompt, draft_ids=wanted, max_new_tokens=limit)
    read = decode(codec, [drafted])[0]
    assert list(read.ids) == written and read.passes < len(written) / 4
