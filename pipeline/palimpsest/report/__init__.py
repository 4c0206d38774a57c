"""The report: what a corpus holds and how well it can be read back, for people.

    committed.py     the newest state of a corpus: what is published, else what is committed so far
    measures.py      what is added up over the pages of one class and mode; quantiles and confidence in bounded memory
    quarantine.py    what could not be processed, counted by reason, with a few records
    summary.py       one pass over a snapshot -> `Summary`, the numbers of everything below
    findings.py      the result of `palimpsest verify`
    rate_control.py  what rate control spent, and what one mode would have
    inspection.py    `palimpsest inspect` and `palimpsest report`
    inspect_page.py  one page: its row, image, text, what was read and the difference
    printable.py     strings of unknown origin, made safe to look at
    tables.py        tables in a terminal
    text_tables.py   a summary or a page as such tables
    gallery.py       the pages that the report shows
    picture.py       one page as a picture
    plots.py         figures as inline SVG that follows the reader's colour scheme
    html.py          the self-contained page; its template and style sheet are in templates/

Nothing here knows how a page is drawn: whoever asks for images passes a `RenderPage`.
"""
