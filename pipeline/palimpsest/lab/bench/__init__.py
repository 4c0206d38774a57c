"""The benchmarks. Every comparison runs both sides in one go and quotes the ratio.

What they share:

    machine.py          what every result carries, and how it is shown and written to docs/results
    texts.py            what is read: invented prose, or a file of your own
    planting.py         errors and facts of a known number
    sections.py         parts of a long bench that do each other no harm

How fast:

    render.py           text -> pixels, compared with Pillow; raqm.py draws the pages as Pillow does
    raqm.py             pages of layout document, drawn by Pillow
    encode.py           pixels -> tokens, by mode and batch size
    drafted.py          plain and drafted decoding of the same pages, on any device
    verify.py           tokens -> text: drafted decoding compared with plain `generate`
    overlap.py          rendering, encoding and verifying at the same time in one process
    gpu.py              all that on one GPU, in one go
    gpu_encode.py       its section on encoding
    gpu_verify.py       its section on verifying
    run.py              the whole way through Ray to committed shards, compared with a bare loop in one process
    ingest.py           a night in which nothing or one object changed
    retier.py           a corpus of which a part grew old
    scaling.py          what the driver does in a second
    loading.py          reading for training, compared with other loaders
    loading_corpus.py   its corpus
    loading_memory.py   how much memory a reader takes

How much is read back, and what it is worth:

    fidelity.py         precision over compression, by class, grid and mode
    storages.py         what each token storage takes and loses, by class
    tiers.py            rate control, compared with one mode for all pages
    measured_pages.py   pages read in every mode of a codec
    fit.py              operating points, fitted to such pages
    public.py           public texts, beside recorded outputs of other systems in the same metrics
    recorded.py         scores of recorded outputs
    replay.py           recorded outputs decoded again, to count passes
    readers.py          other people's OCR on our pages
    coverage.py         texts of the world: the share of pages that no font covers
    memory.py           facts planted in conversations, by age and budget
    memory_findings.py  its findings in sentences
    memory_plots.py     its figures
    kept.py             a conversation kept within a budget
    forgetting.py       gold evidence of real conversations, by age and budget
    use.py              does a language model profit from visual memory?
    use_chats.py        its chats
    use_training.py     its models
"""
