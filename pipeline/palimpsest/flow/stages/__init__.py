"""The stages: plain classes that map one Arrow table to others. They know nothing of Ray; an executor chains them.

    read.py       Read          units -> DOCUMENTS
    paginate.py   Paginate      DOCUMENTS -> PAGES
    render.py     Render        PAGES -> IMAGES
    model.py      Model         what the stages with a codec share
    encode.py     Encode        IMAGES -> TOKENS
    verify.py     Verify        TOKENS -> VERDICTS
    rate.py       RateControl   PAGES -> VERDICTS, several modes tried where one does not do
    exact.py      misread words that are kept with a page, and what they cost
    reread.py     Reread        shards -> PAGES: what a new tier is due, taken out of a published corpus
    write.py      Write         VERDICTS -> shards, WRITTEN
    tables.py     operations on tables that they share

Rows of a kind other than "page" (quarantined records, duplicates, ends of units) pass through every stage untouched.
"""

from palimpsest.codecs.token_storage.rows import stored_tokens
from palimpsest.flow.stages.encode import Encode
from palimpsest.flow.stages.model import Model, codec_options
from palimpsest.flow.stages.paginate import Paginate
from palimpsest.flow.stages.rate import RateControl
from palimpsest.flow.stages.read import Read
from palimpsest.flow.stages.render import Render
from palimpsest.flow.stages.tables import TEXT_TIER
from palimpsest.flow.stages.verify import Verify
from palimpsest.flow.stages.write import Write

__all__ = [
    "TEXT_TIER",
    "Encode",
    "Model",
    "Paginate",
    "RateControl",
    "Read",
    "Render",
    "Verify",
    "Write",
    "codec_options",
    "stored_tokens",
]
