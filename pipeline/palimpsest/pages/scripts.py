"""Which scripts need shaping or bidi, and so cannot stand on a grid of cells."""

from __future__ import annotations

import re

# Hebrew .. Arabic Extended, the Indic blocks to Sinhala, Thai, Lao, Tibetan, Myanmar, Khmer, Mongolian, presentation forms.
SHAPED = re.compile(
    "[\u0590-\u08ff\u0900-\u0dff\u0e00-\u0fff\u1000-\u109f\u1780-\u18af\u1900-\u1aaf\u1b00-\u1cff"
    "\ua8e0-\ua8ff\uaa60-\uaadf\ufb1d-\ufdff\ufe70-\ufefe]"
)
SHAPED_SHARE = 0.2


def needs_shaping(text: str) -> bool:
    """True when more than `SHAPED_SHARE` of the letters of `text` belong to a script that needs shaping.

    A stray word of such a script in another text is written as escapes; a text that is mostly such a script is shaped.
    """
    if text.isascii():
        return False
    shaped = len(SHAPED.findall(text))
    return shaped > 0 and shaped > SHAPED_SHARE * sum(map(str.isalpha, text))
