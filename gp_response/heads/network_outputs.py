"""Linearised networks of several outputs a sample, each with a label of its own: models of one output, that a point names."""

from gp_response.heads.network_posterior import NetworkPosterior
from gp_response.heads.network_sites import NetworkSites
from gp_response.heads.several_outputs import SeveralOutputs


class NetworkOutputs(SeveralOutputs, NetworkPosterior):
    """Under Gaussian noise; made by `laplace`. Finite changes are exact, as for one output."""


class NetworkOutputSites(SeveralOutputs, NetworkSites):
    """Under labels such as classes of two or counts; made by `laplace`."""


__all__ = ["NetworkOutputSites", "NetworkOutputs"]
