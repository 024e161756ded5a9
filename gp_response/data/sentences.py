"""Sentences rated by people, from -4 (most negative) to 4, each the mean of twenty raters (Hutto & Gilbert 2014).

They come with the source distribution of vaderSentiment on PyPI. It is read from the folder in GP_RESPONSE_DATA if it is there,
else downloaded by pooch; either way its sha256 is checked. The package itself is never imported.
"""

import os
import tarfile
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pooch

from gp_response.errors import DataError, unknown_name

FILE = "vaderSentiment-3.3.2.tar.gz"
URL = (
    f"https://files.pythonhosted.org/packages/77/8c/4a48c10a50f750ae565e341e697d74a38075a3e43ff0df6f1ab72e186902/{FILE}"
)
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INSIDE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
# name -> file of means
SETS = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
VARIABLE = "GP_RESPONSE_DATA"


class Sentences(NamedTuple):
    """Texts and their ratings (n,), float64."""

    text: tuple[str, ...]
    rating: np.ndarray


def sentences(name: str = "movie") -> Sentences:
    """One of SETS: 10,605 snippets of film reviews, 5,190 of editorials, 3,708 of product reviews, 4,200 tweets.

    Raises InputError for unknown names, DataError where the file cannot be had or is another one.
    """
    if name not in SETS:
        raise unknown_name("set of sentences", name, SETS)
    with tarfile.open(_file()) as outer:
        found = outer.extractfile(INSIDE)
        assert found is not None
        inner = BytesIO(found.read())
    with tarfile.open(fileobj=inner) as archive:
        part = archive.extractfile(f"hutto_ICWSM_2014/{SETS[name]}")
        assert part is not None
        lines = part.read().decode("utf-8", errors="replace").splitlines()
    rows = [line.split("\t", 2) for line in lines if line.strip()]
    return Sentences(tuple(row[2].strip() for row in rows), np.array([float(row[1]) for row in rows]))


def _file() -> Path:
    folder = os.environ.get(VARIABLE)
    local = Path(folder, FILE) if folder else None
    if local is not None and local.is_file():
        if pooch.file_hash(str(local)) != SHA256:
            raise DataError(
                f"{str(local)!r} differs from the tested one; restore it, or remove it to download the original"
            )
        return local
    try:
        return Path(pooch.retrieve(URL, f"sha256:{SHA256}", fname=FILE, path=_cache()))
    except ValueError as error:  # pooch's word for another hash
        raise DataError(f"the download of {FILE} differs from the tested one; delete it from {_cache()}") from error
    except OSError as error:
        advice = f"connect, or put the file into the folder that {VARIABLE} names"
        raise DataError(f"rated sentences cannot be downloaded ({type(error).__name__}: {URL}); {advice}") from error


def _cache() -> Path:
    return Path(pooch.os_cache("gp_response")) / "sentences"


__all__ = ["Sentences", "sentences"]
