"""Writing files so that a crash, a full disk or a pulled plug leaves the old content or the new, never half.

The order is always the same: write under another name, fsync the file, rename, fsync the folder.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bellmark.errors import BellmarkError

TEMPORARY = ".unfinished-"
"""Names that begin so belong to a write that is under way, or to one that was killed."""

_CHUNK = 1 << 23
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this system allows",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "there is no permission to write here",
    errno.EPERM: "there is no permission to write here",
    errno.ENOENT: "the folder has vanished",
    errno.EIO: "the disk reports an input/output error",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
}


def reason(error: OSError) -> str:
    """What went wrong, in words; the system's own where there are none here."""
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


def temporary_name(name: str) -> str:
    """A name that no other process uses and that `remove_leftovers` recognises."""
    return f"{TEMPORARY}{name}-{os.getpid()}-{secrets.token_hex(4)}"


def write_all(descriptor: int, data: memoryview) -> None:
    """Write every byte: one `os.write` may take fewer than it is given."""
    while data.nbytes:
        data = data[os.write(descriptor, data[:_CHUNK]) :]


def create(path: Path) -> int:
    """Open a file for writing that did not exist; links are not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o666)


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems refuse to sync folders; they have nothing better to offer.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[int]:
    """A descriptor to write the new content of `path` to; the file changes only when the block ends well.

    Raises: OSError, with the old content in place and nothing left over.
    """
    temporary = path.parent / temporary_name(path.name)
    descriptor = create(temporary)
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    fsync_folder(path.parent)


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a whole file, or leave what was there.

    Raises: `BellmarkError` where the disk is full, the folder read-only or gone.
    """
    path = Path(path)
    try:
        with replacing(path) as descriptor:
            write_all(descriptor, memoryview(data))
    except OSError as error:
        raise BellmarkError(f"{path} was not written: {reason(error)}") from None


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writes left in `folder`; call it only while holding the run's lock."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.name.startswith(TEMPORARY):
                remove(Path(entry.path))


def remove(path: Path) -> None:
    """Delete a file or a folder if that is possible; a link is deleted, never followed."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
