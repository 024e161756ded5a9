"""Arrays in, figures out. Figures are made without pyplot, so nothing here needs a display or leaves a trace."""

from gp_response.plots.ablations import Mean, Panel, ablation_curves, ablation_panels
from gp_response.plots.canvas import COLUMN, PAGE, save
from gp_response.plots.gaps import closed_vs_refit, gap_curves, histogram_of_gaps
from gp_response.plots.layers import layer_bars
from gp_response.plots.ranks import grouped_scatter, rank_correlations
from gp_response.plots.responses import influential_rows, responses_against_refits, steering
from gp_response.plots.scaling import scaling_wall
from gp_response.plots.sizes import size_curves
from gp_response.plots.spectra import coloured_components, left_after, share_curves, spectra

__all__ = [
    "share_curves",
    "COLUMN",
    "PAGE",
    "Mean",
    "Panel",
    "ablation_curves",
    "ablation_panels",
    "closed_vs_refit",
    "coloured_components",
    "gap_curves",
    "grouped_scatter",
    "histogram_of_gaps",
    "influential_rows",
    "layer_bars",
    "left_after",
    "rank_correlations",
    "responses_against_refits",
    "scaling_wall",
    "size_curves",
    "spectra",
    "steering",
    "save",
]
