"""Data: frozen sets with their units and names, real ones by name or file, synthetic ones with known truth."""

from gp_response.data.build import dataset
from gp_response.data.dataset import Dataset, Split
from gp_response.data.labels import (
    by_label,
    over_samples,
    require_one_label,
    rows_by_sample,
    same_labels,
    sample_weights,
    samples_of,
    with_places,
)
from gp_response.data.load import load
from gp_response.data.noise import row_noise
from gp_response.data.standardise import Standardiser
from gp_response.data.synthetic import synthetic

__all__ = [
    "Dataset", "Split", "Standardiser", "by_label", "dataset", "load", "over_samples", "require_one_label", "row_noise",
    "rows_by_sample", "same_labels", "sample_weights", "samples_of", "synthetic", "with_places",
]  # fmt: skip
