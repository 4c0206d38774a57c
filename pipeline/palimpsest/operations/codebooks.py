"""The codebook of a corpus whose tokens are stored as pq: found in the corpus, or fitted before its first unit.

It is fitted to pages of the run's own documents and to pages of random characters, so that a corpus of one kind of text can take
others later. Its hash becomes the setting `storage.codebook`: the fingerprint of a job names it, and so does its recorded
configuration.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from palimpsest import telemetry
from palimpsest.config import ConfigError, JobConfig
from palimpsest.corpus.codebooks import keep_codebook, purpose_key, read_codebook, read_purpose
from palimpsest.errors import PalimpsestError
from palimpsest.flow.recipe import Recipe
from palimpsest.flow.stages import Encode
from palimpsest.flow.stages.paginate import why_not_covered
from palimpsest.operations.resolving import identify
from palimpsest.pages.layouts.protocol import LaidOutPage, Layout
from palimpsest.pages.normalise import normalise
from palimpsest.sources.documents import Document
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.tables import plan_units, read_unit
from palimpsest.storage.object_store import ObjectStore

if TYPE_CHECKING:
    from palimpsest.codecs.adapter import Codec
    from palimpsest.codecs.modes import Mode

OBJECTS, PAGES, PER_DOCUMENT = 16, 96, 8  # sources looked at, pages of them, pages of one document
SAMPLED = 4096  # sources of a long list among which OBJECTS are chosen
RANDOM_PAGES = 32
LOOKED_AT = 32  # pages whose reading says what matters
BATCH = 8
_CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " "

Text = tuple[str, str]
"""A document's text and its class."""


def found_codebook(store: ObjectStore, recipe: Recipe) -> Recipe:
    """The recipe with the codebook that the corpus has for it; unchanged if that is none, or the job needs none.

    Raises:
        Damaged: a codebook is named that is missing or damaged.
    """
    storage = recipe.config.storage
    if storage.tokens != "pq":
        return recipe
    sha256 = storage.codebook
    if not sha256:
        purpose = read_purpose(store, _key(recipe))
        sha256 = purpose.sha256 if purpose else ""
    return _with(recipe, store, sha256) if sha256 else recipe


def settled_codebook(store: ObjectStore, recipe: Recipe, objects: Iterable[SourceObject]) -> Recipe:
    """As `found_codebook`, and where the corpus has none, one is fitted and stored. The corpus must exist.

    Args:
        objects: sources; pages of up to OBJECTS of them are encoded, those at equal distances.
    """
    recipe = found_codebook(store, recipe)
    if recipe.config.storage.tokens != "pq" or recipe.config.storage.codebook:
        return recipe
    config = recipe.config
    encode = Encode(config.replace(storage=config.storage.replace(tokens="bf16")), "")  # with the threads that the work has
    texts = _texts(list(islice(objects, SAMPLED)), config)
    escaped = config.layout.max_escaped_share
    telemetry.log_event("codebook_fit", pages=PAGES + RANDOM_PAGES, bits=config.storage.pq_bits)
    body = fit(encode.codec, recipe.layout, recipe.policy.modes, texts, config.storage.pq_bits, escaped, encode.step(BATCH))
    about = {
        "codec": recipe.codec,
        "codec_revision": recipe.revision,
        "layout": str(recipe.layout),
        "bits": config.storage.pq_bits,
    }
    return _with(recipe, store, keep_codebook(store, body, _key(recipe), about))


def _with(recipe: Recipe, store: ObjectStore, sha256: str) -> Recipe:
    read_codebook(store, f"pq:{sha256}")
    return identify(recipe.config.replace(storage=recipe.config.storage.replace(codebook=sha256)))


def _key(recipe: Recipe) -> str:
    return purpose_key(
        codec=recipe.codec,
        revision=recipe.revision,
        dtype=recipe.config.codec.dtype,
        layout=recipe.layout.identity,
        modes=[mode.name for mode in recipe.policy.modes],
        bits=recipe.config.storage.pq_bits,
    )


def fit(
    codec: Codec,
    layout: Layout,
    modes: Sequence[Mode],
    texts: Iterable[Text],
    bits: float,
    max_escaped_share: float = 0.1,
    step: int = 1,
) -> bytes:
    """The bytes of a codebook that is fitted to what `gather` finds.

    Args:
        bits: of a channel, on average.
    """
    from palimpsest.codecs.token_storage.codebook_fit import fit_codebook

    tokens, metric = gather(codec, layout, modes, texts, max_escaped_share, step)
    about = {"codec": codec.id, "codec_revision": codec.revision, "layout": str(layout), "tokens": str(len(tokens))}
    return fit_codebook(tokens, bits, metric).to_bytes(about)


def gather(
    codec: Codec,
    layout: Layout,
    modes: Sequence[Mode],
    texts: Iterable[Text],
    max_escaped_share: float = 0.1,
    step: int = 1,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Tokens of the first pages of these texts and of RANDOM_PAGES pages of random characters, each page in the next mode; and
    what an error in them costs the reader, None where the codec has no cell reader.

    Args:
        texts: read until PAGES pages are found.
        step: pages per call of the encoder.

    Returns:
        float32 `[n, token_dim]`, float64 `[token_dim, token_dim]`.

    Raises:
        ConfigError: no modes: no page is stored as tokens.
    """
    found: list[tuple[str, LaidOutPage]] = []
    for text in texts:
        found += islice(readable(layout, *text, max_escaped_share), PER_DOCUMENT)
        if len(found) >= PAGES:
            break
    draw = random.Random(0)
    noise = "".join(draw.choices(_CHARACTERS, k=2 * RANDOM_PAGES * layout.capacity))
    found = found[:PAGES] + list(islice(readable(layout, noise, "random", 1.0), RANDOM_PAGES))
    found = found[::3] + found[1::3] + found[2::3]  # so that any first part has pages of every kind
    tokens, metric = [], np.zeros((codec.token_dim, codec.token_dim))
    for number, mode in enumerate(modes):
        mine = found[number :: len(modes)]
        for start in range(0, len(mine), step):
            some = mine[start : start + step]
            images = layout.render([text for text, _ in some], [page.drawing for _, page in some], mode.px)
            encoded = codec.encode(images, mode)
            tokens.append(encoded.float().cpu().numpy().reshape(-1, codec.token_dim))
            looked_at = [page.size for _, page in some[: max(0, LOOKED_AT // len(modes) - start)]]
            for size in dict.fromkeys(looked_at):
                rows = [row for row, other in enumerate(looked_at) if other == size]
                if size and (cost := codec.sensitivity(encoded[rows], size)) is not None:
                    metric += cost * len(rows)
    if not tokens:
        raise ConfigError("storage.tokens = 'pq': the tier policy stores no page as tokens; choose another storage")
    return np.concatenate(tokens), metric if metric.any() else None


def readable(layout: Layout, text: str, text_class: str, max_escaped_share: float) -> Iterator[tuple[str, LaidOutPage]]:
    """The pages, with their texts, of a document that a codec can read."""
    normal = normalise(text)
    for page in layout.paginate(normal, text_class):
        own = normal[page.char_start : page.char_end]
        if not own.isspace() and not why_not_covered(page, own, layout, max_escaped_share):
            yield own, page


def _texts(objects: Sequence[SourceObject], config: JobConfig) -> Iterator[Text]:
    """Documents of up to OBJECTS sources at equal distances, by turns: the first of each, then the second of each."""
    chosen = objects[:: max(1, -(-len(objects) // OBJECTS))]
    waiting = [_of_object(item, config) for item in chosen]
    for _ in range(PAGES):
        for documents in waiting:
            yield from islice(documents, 1)


def _of_object(item: SourceObject, config: JobConfig) -> Iterator[Text]:
    with suppress(PalimpsestError, OSError):  # an object that cannot be read is the run's to report
        for unit in plan_units(item, config.source):
            for record in read_unit(unit, config.source):
                if isinstance(record, Document):
                    yield record.text, record.text_class or ""
