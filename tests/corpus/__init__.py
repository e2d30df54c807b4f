"""What may lie in a file that somebody calls preference data? Broken, odd and sound files, each with its outcome.

    python -m tests.corpus FOLDER

writes them all. What is expected of each was written down by hand, beside it: never what our code happened to say.
"""

from .files import arrays, packed, parquet_files, tables, whole_files
from .outcome import Case, Wrong
from .rows import mistakes_in_rows
from .texts import broken_lines, sound_lines

__all__ = ["Case", "Wrong", "cases"]


def cases() -> list[Case]:
    """All of them; their names are file names, each once."""
    made = [
        *mistakes_in_rows(),
        *broken_lines(),
        *sound_lines(),
        *whole_files(),
        *arrays(),
        *packed(),
        *tables(),
        *parquet_files(),
    ]
    assert len({case.name for case in made}) == len(made)
    return made
