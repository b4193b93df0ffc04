"""The persistent compilation cache: the second process starts at once."""

import logging
import os
import warnings
from pathlib import Path


def cache_directory() -> Path:
    """Where compiled programs are kept: JAX_COMPILATION_CACHE_DIR, else below XDG_CACHE_HOME or ~/.cache."""
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bellmark" / "jax"


def keep_compiled_programs() -> None:
    """Turn JAX's compilation cache on; a cache that cannot be written is no cache, not an error."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache_directory()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    jax.config.update("jax_raise_persistent_cache_errors", False)
    # a read-only or full cache directory makes JAX warn at every compilation; once would be too often
    warnings.filterwarnings("ignore", message="Error (writing|reading) persistent compilation cache")
    logging.getLogger("jax._src.compilation_cache").setLevel(logging.ERROR)
