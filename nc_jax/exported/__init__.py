"""Features that another framework exported: read from its files, measured as they stream by.

    arrays    one .npz or .npy file in, named arrays out; what cannot be trusted is refused
    files     the files of one set: shapes, labels and the one head agree
    batches   all examples of a set in order, in pieces of one shape
    passes    nc.report and nc.test_collapse over sets that are larger than memory
    table     the values as text for people, or as JSON
    figure    the same as one picture (needs matplotlib)
    progress  one line on a terminal while files go by

`python -m nc_jax.measure` is the door.
"""
