"""The metric library: features to class moments, class moments to numbers; jax and numpy only.

    inputs         the front door: arrays from any framework, checked before anything is traced
    moments        ClassMoments and Head: what one pass over the features keeps; merge, all_reduce
    accumulation   the pass itself, in chunks and over devices
    fold           one chunk of it, panel of columns by panel
    products       matrix products at full precision, symmetric ones by panels and blocks
    decompositions singular values right to rounding on every device, and what rounding is
    sharding       how a pass walks over the examples: in chunks, over devices
    in_place       NumPy features that a CPU reads where they lie
    columns        moments whose columns lie split over devices, for very wide problems (WIDE.md)
    centring       class means about the global mean: where NC1 to NC4 begin
    variability    NC1: within-class covariance against between-class covariance
    between        the spectrum of the class means, and NC1 through it, with derivatives
    geometry       NC2: equal norms, equal angles, the simplex ETF, hyperspherical energies
    pairwise       sums over class pairs by tiles, never a [K, K] array
    duality        NC3: class means against classifier rows
    candidates     what a feature chooses among: class means and the head's classes
    near_ties      classes whose scores are too close to tell, compared in pairs
    certainty      where NC4 needs no scores
    decisions      NC4: the nearest class mean against the labels and the classifier
    spectrum       effective, stable, numerical and nuclear rank of the features
    test_collapse  strong and weak collapse of test features about train means
    bootstrap      how far a number depends on its examples: replicates by resampling them
    catalogue      METRICS, the one table of names
    report         measure(moments) and report(features): every key at once
    clu_adapter    the same moments as a clu.metrics.Metric (the only file that imports clu)
"""

from nc_jax.metrics.accumulation import accumulate, within_covariance
from nc_jax.metrics.bootstrap import interval, mean_replicates, metric_replicates
from nc_jax.metrics.catalogue import METRICS, Metric
from nc_jax.metrics.decisions import Decisions, decide, nearest_class
from nc_jax.metrics.moments import ClassMoments, Head, all_reduce, merge
from nc_jax.metrics.report import measure, report
from nc_jax.metrics.test_collapse import collapse_about, test_collapse
from nc_jax.metrics.variability import whitener

__all__ = [
  "METRICS",
  "ClassMoments",
  "Decisions",
  "Head",
  "Metric",
  "accumulate",
  "all_reduce",
  "collapse_about",
  "decide",
  "interval",
  "mean_replicates",
  "measure",
  "merge",
  "metric_replicates",
  "nearest_class",
  "report",
  "test_collapse",
  "whitener",
  "within_covariance",
]
