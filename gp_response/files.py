"""Files that are either whole or absent: everything the package writes goes through `replacing`."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file's name in the folder of `path`, for the block to write: flushed to disk, then renamed over `path`.

    On any failure `path` is as it was and the temporary file is gone. Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def write_atomically(path: Path | str, content: str | bytes) -> Path:
    """Write `content` (text as UTF-8) to `path`, never half of it; missing folders are made.

    See `replacing`. Raises OSError where the folder cannot be written.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(data)
    return path


def write_once(path: Path | str, content: str | bytes) -> bool:
    """Write `content` to `path` unless something is there already; among processes that try at once, one succeeds.

    A whole temporary file is linked to `path`, so that nobody sees half of it. Raises OSError where the folder cannot be
    written or its file system has no hard links.
    """
    path = Path(path)
    if path.exists():
        return False
    temporary = write_atomically(path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new"), content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


__all__ = ["replacing", "write_atomically", "write_once"]
