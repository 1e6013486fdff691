"""The experiments of Hui, Belkin & Nakkiran 2022 (arXiv 2202.08384), each judged by its numbers.

    e1             train against test collapse along training
    e2             test collapse against the size of the train set
    e3a, e3b       transfer to fine labels, and to novel classes
    e4             collapse over the layers

One file per experiment: its question, its claims, its table, its figures. What they are made of:

    results        rows of many runs, read as curves over epochs and as final values per seed
    claims         what must be seen: a measured number beside its threshold; tables; the verdict
    bounds         what is reported once more from each replicate and each seed
    statistics     ratios and falls of curves
    penultimate    keys of the penultimate layer, and their columns of a table
    layers         curves of all layers, and how they are drawn
    transfer       probes along training, and what E3a and E3b ask of them
    panels         figures of many cells; transfer_figures, e4_figures
    figure_files   figures as PNG and SVG, the same bytes each time

How they are run and told:

    __main__       the command
    study          one experiment from its cells to its verdict
    runner         trains what is not finished: runs of one shape together
    page           what lies in a workdir -> its report
    report         the report as one HTML file; report_tables, report_style, markup
    grid           sweep files -> cells (for nc_jax.sweep)
    phase_diagram  where the runs of a sweep ended
"""
