"""Linear algebra on plain matrices and matvecs: factors with measured residuals, the Gaussian log evidence."""

from gp_response.linalg.cholesky import CholeskyFactor
from gp_response.linalg.evidence import gaussian_log_evidence

__all__ = ["CholeskyFactor", "gaussian_log_evidence"]
