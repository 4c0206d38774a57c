"""Text becomes pages, and pages become pixels. Pure functions: no Ray, no models, no files but the fonts beside them.

normalise      the written rule for what each class of character becomes
text_class     prose, code, tables, ...: for reports, when a corpus does not say
scripts        which texts need shaping
characters     how many cells a character takes, and the marks
fonts          what ships, under which licence, recorded by hash
grid           the layout on cells: the same in every mode, exactly invertible
atlas          cells to pixels, one vectorised copy a page
bidi, shaping  reading order; words to glyphs and ink
shaped         pages of Arabic, Hebrew, Devanagari, Thai, ...
pagination     the seam for everything outside: paginate, render, page_id, layout_fingerprint
raqm           the yardstick of the shaped path (tests and benchmark)
bake           made the tables in fonts/
"""
