"""KeOps, imported so that its cache does no harm.

gpytorch imports KeOps where it is installed. KeOps reads what it has cached when it is imported, and every process writes that
again at its exit, in place: one that is killed then leaves half a file, with which nothing can import KeOps, or gpytorch, any
more, and one that reads meanwhile fails. So broken files are removed, the import is tried again, and this process writes by
renaming.
"""

import atexit
import importlib
import os
import pickletools
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gp_response.errors import GPResponseError
from gp_response.files import replacing

TRIES, PAUSE = 20, 0.05  # seconds, longer than a file takes to be written
PACKAGES = ("pykeops", "keopscore")


def import_keops() -> None:
    """Import pykeops where it is installed.

    Raises:
        GPResponseError: its cache cannot be read, and not be removed.
    """
    if any(find_spec(name) is None for name in PACKAGES):
        return
    for _ in range(TRIES):
        remove_broken()
        try:
            importlib.import_module("pykeops")
        except ImportError:  # gpytorch does without, and backend="keops" says why
            return
        except Exception as error:
            reason = error
        else:
            _write_by_renaming()
            return
        for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
            del sys.modules[name]
        time.sleep(PAUSE)
    where = " or ".join(map(str, folders()))
    raise GPResponseError(f"KeOps cannot be imported: {type(reason).__name__}: {reason}; remove its cache, {where}")


def folders() -> list[Path]:
    """Where KeOps keeps its cache, whatever its version."""
    given = os.environ.get("KEOPS_CACHE_FOLDER")
    return [Path(given)] if given else sorted(Path(os.path.expanduser("~")).glob(".cache/keops*"))


def remove_broken() -> list[Path]:
    """Remove the files of the cache that end before their end; they are made again. Returns them."""
    found = [path for folder in folders() for path in folder.rglob("*_cache.pkl") if _broken(path)]
    for path in found:
        with suppress(OSError):  # of another user: the import will tell
            path.unlink()
    return found


def _broken(path: Path) -> bool:
    try:
        for _ in pickletools.genops(path.read_bytes()):  # read as a list of instructions, none of which is followed
            pass
    except OSError:
        return False
    except Exception:  # whatever half an instruction looks like
        return True
    return False


def _write_by_renaming() -> None:
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in PACKAGES]
    caches = {
        id(v): v for module in modules for v in vars(module).values() if getattr(v, "use_cache_file", False) is True
    }
    for cache in caches.values():
        atexit.unregister(cache.save_cache)
        atexit.register(_save, cache)


def _save(cache: Any) -> None:
    path = Path(cache.cache_file)
    with suppress(OSError), replacing(path) as beside:  # a folder that is gone: the next process finds out again
        cache.cache_file = str(beside)
        cache.save_cache()
    cache.cache_file = str(path)


import_keops()

__all__ = ["folders", "import_keops", "remove_broken"]
