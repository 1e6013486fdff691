"""The experiments of Hui, Belkin & Nakkiran 2022 (arXiv 2202.08384), each judged by its numbers.

    results     rows of many runs, read as curves over epochs and as final values per seed
    claims      what must be seen: a measured number beside its threshold; tables; the verdict
    statistics  rank agreement, ratios and falls of curves
    panels      figures of many cells: a grid, a mean line in its range, epochs on x
    e1          train against test collapse along training
    e2          test collapse against the size of the train set

One file per experiment: its question, its claims, its table, its figures.
"""
