"""How is Parquet read, whatever its pages and its footer say?

Its own figures are believed only within limits: a page of a few bytes may unpack to 2 GB, a value stand in a dictionary once and in a
million rows, a million rows in no bytes at all.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.reading.flaws import stop
from data.reading.limits import FREE, Limits, check_unpacked, memory

ROWS = 1024
"""Rows that are decoded at a time; of a column of repeated texts no more than its largest text allows."""
ROW_BYTES = 64
"""Bytes that a row counts for at least, however few it takes in the file."""


def parquet_rows(path: Path, file: str, limits: Limits) -> Iterator[Any]:
    """The rows of a Parquet file, as dictionaries. Raises DataError."""
    import pyarrow
    import pyarrow.parquet

    fix, packed = "write or copy it again", path.stat().st_size
    try:
        with memory(limits, packed):
            table = pyarrow.parquet.ParquetFile(path, memory_map=False)
        with table:
            names = table.schema_arrow.names
            if not names:
                stop(file, None, "file", "it has rows without columns", fix)
            for name in names:
                if names.count(name) > 1:
                    stop(file, None, name, "two columns have the same name", "rename or remove one")
            _check_pages(table.metadata, file, limits)
            unpacked = 0
            batches = table.iter_batches(batch_size=ROWS, use_threads=False)
            while True:
                with memory(limits, packed):
                    batch = next(batches, None)
                    rows = [] if batch is None else batch.to_pylist()
                if batch is None:
                    return
                unpacked += max(batch.nbytes, ROW_BYTES * len(rows))
                check_unpacked(unpacked, packed, file, limits)
                yield from rows
    except MemoryError:
        what = "its pages ask for more memory than rows need"
        stop(file, None, "file", what, "do not trust it; if you do, raise data.max_row_mb")
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        stop(file, None, "file", f"the Parquet file is broken ({str(error)[:200]})", fix)


def _check_pages(metadata: Any, file: str, limits: Limits) -> None:
    """Raises DataError where the footer itself says that a column unpacks to more than it may."""
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            column = metadata.row_group(group).column(place)
            if column.total_uncompressed_size > FREE:
                check_unpacked(column.total_uncompressed_size, column.total_compressed_size, file, limits)
