"""Documents to pages to pixels. Pure functions: no Ray, no models, no files but the fonts. Read in this order:

    normalise.py     the written rule for what each class of character becomes
    unicode_data.py  properties of characters from a pinned Unicode
    text_class.py    prose, code, tables, ...: for reports, and for the font of layout document
    layouts/         the layouts, one file each, and their protocol

Used by layout grid:

    characters.py    how many cells a character takes, and the marks
    atlas.py         cells to pixels, one vectorised copy a page

Used by layout document:

    line_breaks.py   where a line may end (UAX 14)
    bidi.py          reading order (UAX 9)
    words.py         words to fonts, widths and ink (HarfBuzz)
    typesetting.py   text to lines to pages, in font units
    stamps.py        words to pixels, once per size
    drawing.py        lines to pixels
    fonts.py         the fonts that ship, recorded by hash, and the CJK font, which is an extra
"""
