"""Benchmarks: what a machine could do, measured beside what it does.

    metrics     the command `metrics`: which calls are timed, and against what
    train       the command `train`: steps and observations of a config
    together    the command `together`: runs trained together beside runs alone
    scaling     the command `scaling`: the same work on one device, two, four, ...
    jobs        what takes turns with other work, here or in a process of its own
    sizes       S1 to S5, and whether they fit the memory
    flags       what the commands are asked
    flops       the work of a compiled program
    machine     devices, cores and memory
    timing      medians of interleaved calls, with compilation told apart
    contenders  everything in a process of its own, ours and other people's, with its memory
    table       rows to stdout and to CSV
    chart       the rows of `metrics` as bars (needs matplotlib)
    scaling_chart  those of `scaling` as lines, likewise
"""
