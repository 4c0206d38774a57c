"""The report: what a corpus holds and how well it can be read back, for people.

Read in this order:

    measures       what is added up over the pages of one class and mode; quantiles and confidence in bounded memory
    quarantine     what could not be processed, counted by reason, with a few records
    summary        one pass over a snapshot -> `Summary`, the numbers of everything below
    run_record     run records: configuration, environment, time
    inspect_page   one page: its row, image, text, what was read and the difference
    printable      strings of unknown origin, made safe to look at
    text_tables    a summary or a page in the terminal
    gallery        the pages that the report shows
    plots          figures as inline SVG that follows the reader's colour scheme
    html           the self-contained page; its template and style sheet lie in templates/

Nothing here knows how a page is drawn: whoever asks for images passes a `RenderPage`.
"""
