"""Documents to pages to pixels. Pure functions: no Ray, no models, no files but the fonts. Read in this order:

normalise      the written rule for what each class of character becomes
unicode_data   properties of characters from a pinned Unicode
text_class     prose, code, tables, ...: for reports, and for the font of layout document
layout         the protocol of a layout: paginate, render, identity
layouts        the layouts by name

grid           layout grid: cells of one size, the same in every mode, exactly invertible
characters     how many cells a character takes, and the marks
atlas          cells to pixels, one vectorised copy a page

document       layout document: word wrap, margins, leading, outline fonts
line_breaks    where a line may end (UAX 14)
bidi           reading order (UAX 9)
words          words to fonts, widths and ink (HarfBuzz)
typesetting    text to lines to pages, in font units
stamps         lines to pixels

fonts          the fonts that ship, recorded by hash, and the CJK font, which is an extra
"""
