"""The layouts: how text is placed on pages, and drawn.

    protocol.py     `Layout`: paginate, render, identity
    registry.py     the layouts by name
    grid.py         cells of one size, the same in every mode, exactly invertible: for codecs that were trained on them
    fitted_grid.py  grids of several densities: a document takes the one on which it is a single page
    document.py     word wrap, margins, leading, outline fonts: for models that read documents

A new layout is a file with a class of the protocol, and a line in registry.py.
"""
